"""Text from messages, fit for a terminal."""


def printable(text: str) -> str:
    """The text with everything that does not print, and could drive a terminal or turn its text around, spelled out.

    Line breaks are spelled out too.
    """
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
