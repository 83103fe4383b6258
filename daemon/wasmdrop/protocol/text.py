"""Text fit for a message: nothing in it acts on a terminal, reorders a line, or breaks one.

Names of files, messages of guests and texts of errors are written by others. Escaped is everything
that ``str.isprintable`` denies: control characters (C0 and C1), line and paragraph separators,
direction overrides and other invisible formatting, and what stands for bytes that are not UTF-8.
"""

import json

__all__ = ["escaped", "indented", "json_escaped", "one_line"]


def escaped(text: str, keep: str = "") -> str:
    r"""Return ``text`` with what is not printable as ``\x1b`` or the like, but for ``keep``."""
    if text.isprintable():
        return text
    # Not by a codec: Python looks for its module at first use, where a child can open none.
    return "".join(
        char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text
    )


def one_line(text: str, limit: int = 4000) -> str:
    """Return ``text`` escaped, in one line of at most ``limit`` characters."""
    shown = escaped(text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def json_escaped(document: str) -> str:
    """Return a JSON document, in one line, so that it means the same and is escaped."""
    if document.isprintable():
        return document
    # What is not printable can only be in a string.
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in document)


def indented(text: str) -> str:
    """Return ``text`` so that only its first line begins at the margin, where fields begin."""
    return text.replace("\n", "\n  ")
