"""Text fit for a message: nothing in it acts on a terminal, reorders a line, or breaks one.

Names of files, messages of guests and texts of errors are written by others. Escaped is everything
that ``str.isprintable`` denies: control characters (C0 and C1), line and paragraph separators,
direction overrides and other invisible formatting, and what stands for bytes that are not UTF-8.
"""

import json
from typing import Final

__all__ = ["MESSAGE_LIMIT", "bounded_text", "escaped", "indented", "json_escaped", "one_line"]

#: Maximum length of a message in characters. Guests choose the texts of errors: a module of 100 kB
#: can cause a message of 2 MB, and markers are read by people.
MESSAGE_LIMIT: Final = 4000


def escaped(text: str, keep: str = "") -> str:
    r"""Return ``text`` with what is not printable as ``\x1b`` or the like, but for ``keep``."""
    if text.isprintable():
        return text
    # Not by a codec: Python looks for its module at first use, where a child can open none.
    return "".join(
        char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text
    )


def bounded_text(text: str, limit: int = MESSAGE_LIMIT, *, keep: str = "\n") -> str:
    """Return ``text`` escaped except for ``keep``, in at most ``limit`` characters.

    Newlines are kept because backtraces have them.
    """
    shown = escaped(text[: limit + 1], keep)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def one_line(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """Return ``text`` escaped, in one line of at most ``limit`` characters."""
    return bounded_text(text, limit, keep="")


def json_escaped(document: str) -> str:
    """Return a JSON document, in one line, so that it means the same and is escaped."""
    if document.isprintable():
        return document
    # What is not printable can only be in a string.
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in document)


def indented(text: str) -> str:
    """Return ``text`` so that only its first line begins at the margin, where fields begin."""
    return text.replace("\n", "\n  ")
