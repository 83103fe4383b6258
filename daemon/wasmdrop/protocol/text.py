"""Text that is fit for a message: bounded, and without characters that act on a terminal.

File names, messages of guests and texts of errors come from others. All characters are escaped that
are not printable by ``str.isprintable``: control characters (C0 and C1), line and paragraph
separators, direction overrides and other invisible formatting, and bytes that are not UTF-8.
"""

import json
from typing import Final

#: Maximum length of a message in characters. Guests choose the texts of errors: a module of 100 kB
#: can cause a message of 2 MB, and markers are read by people.
MESSAGE_LIMIT: Final = 4000

_MAX_VALUE_CHARACTERS: Final = 80

#: Wider integers are not written out: Python refuses to convert those of over 4300 digits at all.
_MAX_INTEGER_BITS: Final = 256


def escaped(text: str, keep: str = "") -> str:
    r"""Return ``text`` with unprintable characters as ``\x1b`` or the like, except for ``keep``."""
    if text.isprintable():
        return text
    # Not with a codec: Python loads its module at first use, which a confined child can't.
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


def describe_error(error: BaseException) -> str:
    """Return the text of an error; that of the system without its number: the file and reason."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def describe_value(value: object) -> str:
    """Return a JSON value in one short line; the size of an array or an object."""
    if isinstance(value, list | tuple):
        return f"an array with {_count(len(value), 'element')}"
    if isinstance(value, dict):
        return f"an object with {_count(len(value), 'key')}"
    if isinstance(value, int) and value.bit_length() > _MAX_INTEGER_BITS:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str):
        # Cut before it is quoted: it may have megabytes.
        value = value[: _MAX_VALUE_CHARACTERS + 1]
    elif not isinstance(value, int | float | None):
        return f"a {type(value).__name__}"
    return one_line(json.dumps(value, ensure_ascii=False), _MAX_VALUE_CHARACTERS)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def json_escaped(document: str) -> str:
    """Return a JSON document of one line with escaped characters and the same meaning."""
    if document.isprintable():
        return document
    # Unprintable characters can only be in strings.
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in document)


def indented(text: str) -> str:
    """Indent all lines but the first, so that only fields begin at the margin."""
    return text.replace("\n", "\n  ")
