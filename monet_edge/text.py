"""Text that comes from outside (file names, headers, labels), made fit to be shown. Imports nothing."""


def printable(text: str) -> str:
    """The text with "?" for control characters, which no terminal shall obey and neither XML nor a picture can show."""
    return "".join(character if character.isprintable() else "?" for character in text)
