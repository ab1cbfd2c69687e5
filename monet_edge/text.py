"""Text and figures made fit to be shown: what comes from outside (file names, headers, labels), volumes and distances. Imports nothing."""


def printable(text: str) -> str:
    """The text with "?" for control characters, which no terminal shall obey and neither XML nor a picture can show."""
    return "".join(character if character.isprintable() else "?" for character in text)


def quantity(value: float, unit: str) -> str:
    """A volume or a distance for people, such as "41.5 ml", "0.00128 ml": three digits at least, so that nothing small becomes 0."""
    if value == 0:
        return f"0 {unit}"
    return f"{value:.1f} {unit}" if abs(value) >= 10 else f"{value:#.3g} {unit}"
