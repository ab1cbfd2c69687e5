"""Text and figures made fit to be shown: what comes from outside (file names, headers, labels), volumes and distances. Imports nothing."""


def printable(text: str) -> str:
    """The text with "?" for control characters, which no terminal shall obey and neither XML nor a picture can show."""
    return "".join(character if character.isprintable() else "?" for character in text)


def quantity(value: float, unit: str) -> str:
    """A volume or a distance for people, such as "41.5 ml" or "0.00128 ml"."""
    return f"{digits(value)} {unit}"


def digits(value: float) -> str:
    """A number with three digits at least, so that nothing small becomes 0, and no more than one after the point from 10 on."""
    if value == 0:
        return "0"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:#.3g}"


def harmless(value: object) -> object:
    """Text that a spreadsheet would run as a formula, with the apostrophe that makes it text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
