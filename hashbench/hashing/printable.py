"""Names and texts of others, as they may be shown in a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Returns a text on one line, with escapes for what does not print: control characters, line ends, bytes of names
    that are not UTF-8, and marks that change the direction of writing."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
