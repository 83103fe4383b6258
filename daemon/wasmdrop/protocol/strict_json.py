"""Strict JSON: parses RFC 8259 without its latitude, and reports errors with their position.

Rejects duplicate keys, bare NaN, numbers beyond the range of a float64, lone surrogates and nesting
deeper than ``MAX_DEPTH``. Integers stay exact, whatever their size.

Returns a value or raises ``RefusedError`` for every byte string, in time proportional to its
length: the worst 16 MiB take a second or two. A valid text is read once, by the standard library's
scanner in C. Hooks of that scanner do not know their position, so an invalid text is read again by
a small tokenizer that finds it.
"""

import functools
import gc
import json
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import describe_value, one_line

#: Nesting of arrays and objects.
MAX_DEPTH: Final = 64

#: Digits of an integer. The time to read one grows with the square of its length. Python has the
#: same default limit (``PYTHONINTMAXSTRDIGITS``).
MAX_INTEGER_DIGITS: Final = min(4300, sys.get_int_max_str_digits() or 4300)

#: Tokens that the second reading looks at, which takes about 0.1 s.
_MAX_TOKENS: Final = 250_000

#: Characters of a text above which garbage collection is switched off while it is read.
_LARGE: Final = 65_536

_MAX_SHOWN: Final = 60
_MAX_PATH: Final = 160

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_BYTE_ORDER_MARKS_16: Final = (b"\xff\xfe", b"\xfe\xff")

# The patterns are possessive: they never backtrack, so they take linear time. If a repetition of a
# group fails after its first character, Python before 3.11.5 continues there instead of before it;
# that only happens in texts that are invalid anyway.
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+'
_NUMBER = r"-?(?:Infinity|(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?)|NaN"
_TOKEN = re.compile(rf'{_STRING}"?|[\[\]{{}},:]|{_NUMBER}|[^ \t\r\n"\[\]{{}},:]++', re.DOTALL)
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*+")
_LONE_SURROGATE = re.compile(
    r"\\u[dD](?:[89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F])"
)

_EXPECTED: Final = {
    "Expecting value": "a value",
    "Expecting property name enclosed in double quotes": "a key in double quotes",
    "Expecting ':' delimiter": "':' after the key",
    "Expecting ',' delimiter": "',' or the end of the array or object",
    "Extra data": "nothing after the value",
    "Illegal trailing comma before end of array": "no comma before the end of the array",
    "Illegal trailing comma before end of object": "no comma before the end of the object",
}
_WRONG: Final = {
    "Unterminated string starting at": "the string that begins here has no end",
    "Invalid control character at": "a control character in a string must be escaped",
    "Invalid \\escape": "no such escape",
    "Invalid \\uXXXX escape": "\\u must be followed by four hexadecimal digits",
}
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} arrays and objects"
_TOO_LONG = f"an integer of more than {MAX_INTEGER_DIGITS} digits"


class _ViolationError(Exception):
    """Raised by a hook of the scanner; the text has no position."""


def parse(data: bytes) -> object:
    """Parse ``data`` as one JSON value.

    Raises ``RefusedError`` (``invalid-input``), whose message begins with line and column, both
    counted from 1, columns in characters.
    """
    text = _decoded(data)
    try:
        if len(text) < _LARGE:
            value = _DECODER.decode(text)
        else:
            with _no_garbage_collection():
                value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _refused(text, error.pos, _message_of(error)) from None
    except _ViolationError as violation:
        raise _refused(text, None, str(violation)) from None
    except RecursionError:
        raise _refused(text, None, _TOO_DEEP) from None
    except ValueError:  # int() of too many digits; subclasses are handled above
        raise _refused(text, None, _TOO_LONG) from None
    if text.count("[") + text.count("{") > MAX_DEPTH and not _depth_pattern().fullmatch(text):
        raise _refused(text, None, _TOO_DEEP)
    if "\\u" in text and (position := _lone_surrogate(text)) is not None:
        escape = text[position : position + 6]
        raise _refused(text, position, f"{escape} is half of a surrogate pair, and no character")
    return value


def path_to(*steps: str | int) -> str:
    """Return the path of a value in a JSON document: ``$.args[2].x``, ``$.files["a b.txt"]``."""
    text = "$" + "".join(
        f"[{step}]"
        if isinstance(step, int)
        else f".{step}"
        if len(step) <= _MAX_SHOWN and _PLAIN_KEY.fullmatch(step)
        else f"[{describe_value(step)}]"
        for step in steps
    )
    return one_line(text, _MAX_PATH)


# --- Reading a valid text


def _decoded(data: bytes) -> str:
    if data.startswith(_BYTE_ORDER_MARK):
        raise _refusal(
            1, 1, "the file begins with a byte order mark (EF BB BF); save it as UTF-8 without"
        )
    if data.startswith(_BYTE_ORDER_MARKS_16):
        raise _refusal(1, 1, "the file is UTF-16; save it as UTF-8 without a byte order mark")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        start = error.start
        line = data.count(b"\n", 0, start) + 1
        column = len(data[data.rfind(b"\n", 0, start) + 1 : start].decode()) + 1
        what = f"byte 0x{data[start]:02x} at offset {start} is not UTF-8 ({error.reason})"
        raise _refusal(line, column, what) from None
    if not text or text.isspace():
        raise _refusal(1, 1, "the file is empty" if not text else "the file is only white space")
    return text


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    # With it, reading eight million lists takes 4 s instead of 0.5 s.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _ViolationError(_duplicate(key))
            seen.add(key)
    return value


def _duplicate(key: str) -> str:
    return f"duplicate key {describe_value(key)}"


def _real(literal: str) -> float:
    value = float(literal)
    if math.isinf(value):
        raise _ViolationError(
            f"{one_line(literal, _MAX_SHOWN)} is beyond the range of a 64-bit float"
        )
    return value


def _integer(literal: str) -> int:
    if len(literal.removeprefix("-")) > MAX_INTEGER_DIGITS:
        raise _ViolationError(_TOO_LONG)
    return int(literal)


def _constant(word: str) -> object:
    raise _ViolationError(f'{word} is not JSON; as an argument write "{word}", in quotes')


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_float=_real,
    # int is twice as fast as a function around it, and has the same limit by default.
    parse_int=int if sys.get_int_max_str_digits() == MAX_INTEGER_DIGITS else _integer,
    parse_constant=_constant,
)


@functools.cache
def _depth_pattern() -> re.Pattern[str]:
    """Return a pattern of valid texts that are not nested deeper than ``MAX_DEPTH``.

    It has one nested group per level. Walking the parsed value takes ten times as long.
    """
    flat = rf'[^\[\]{{}}"]*+(?:{_STRING}"[^\[\]{{}}"]*+)*+'
    pattern = flat
    for _ in range(MAX_DEPTH):
        pattern = rf"{flat}(?:[\[{{]{pattern}[\]}}]{flat})*+"
    return re.compile(pattern, re.DOTALL)


def _lone_surrogate(text: str) -> int | None:
    """Return the position of the first surrogate escape without its other half, if any."""
    # Without escaped backslashes, each backslash that is left begins an escape.
    found = _LONE_SURROGATE.search(text.replace(r"\\", "__"))
    return None if found is None else found.start()


# --- Finding the error in an invalid text


class _Violation(NamedTuple):
    """Where the second reading ended, and why."""

    position: int
    steps: tuple[str | int, ...]
    what: str | None
    """The violation there; None if it ended before one."""


class _Tracker:
    """Follows a text token by token and knows the path of its position.

    Checks the same rules as the scanner's hooks, by the same functions. Assumes that the text is
    valid so far in all other respects, because the first reading came as far.
    """

    def __init__(self) -> None:
        self._steps: list[str | int] = []  # the current item of each open array or object
        self._keys: list[set[str] | None] = []  # its keys so far, or None for an array
        self._expects_key = False

    @property
    def path(self) -> tuple[str | int, ...]:
        """The steps to the next value, or to the object whose key comes next."""
        return tuple(self._steps[:-1] if self._expects_key else self._steps)

    def take(self, token: str) -> None:
        """Move past ``token``; raise `_ViolationError` if it violates a rule."""
        lead = token[0]
        if lead in "[{":
            self._open(is_object=lead == "{")
        elif lead in "]}":
            self._steps.pop()
            self._keys.pop()
            self._expects_key = False
        elif lead == ",":
            self._next()
        elif lead == '"' and self._expects_key:
            self._key(token)
        elif lead in "-0123456789NI":
            _check_literal(token)

    def _open(self, *, is_object: bool) -> None:
        if len(self._steps) == MAX_DEPTH:
            raise _ViolationError(_TOO_DEEP)
        self._steps.append("" if is_object else 0)
        self._keys.append(set() if is_object else None)
        self._expects_key = is_object

    def _next(self) -> None:
        index = self._steps[-1]
        if isinstance(index, int):
            self._steps[-1] = index + 1
        else:
            self._expects_key = True

    def _key(self, token: str) -> None:
        key = json.loads(token) if "\\" in token else token[1:-1]
        keys = self._keys[-1]
        if keys is None or key in keys:
            raise _ViolationError(_duplicate(key))
        keys.add(key)
        self._steps[-1] = key
        self._expects_key = False


def _check_literal(literal: str) -> None:
    """Raise `_ViolationError` for a number or constant that violates a rule."""
    if literal[-1] in "Ny":
        _constant(literal)
    elif literal.removeprefix("-").isdigit():
        _integer(literal)
    else:
        _real(literal)


def _first_violation(text: str, stop: int) -> _Violation:
    tracker = _Tracker()
    for count, token in enumerate(_TOKEN.finditer(text)):
        if count == _MAX_TOKENS:
            return _Violation(token.start(), (), None)
        if token.end() > stop:
            break
        try:
            tracker.take(token[0])
        except _ViolationError as violation:
            return _Violation(token.start(), tracker.path, str(violation))
    return _Violation(stop, tracker.path, None)


def _refused(text: str, stop: int | None, what: str) -> RefusedError:
    """Return the refusal of ``text`` for its first violation.

    ``what`` is the error of the first reading, and ``stop`` its position if it is known.
    """
    found = _first_violation(text, len(text) if stop is None else stop)
    position = found.position if stop is None or found.what is not None else stop
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    path = f", at {path_to(*found.steps)}" if found.steps else ""
    beyond = "after " if stop is None and found.what is None else ""
    return _refusal(line, column, found.what or what, path, beyond)


def _refusal(line: int, column: int, what: str, path: str = "", beyond: str = "") -> RefusedError:
    message = f"{beyond}line {line}, column {column}{path}: {what}"
    return RefusedError(Code.INVALID_INPUT, message)


def _message_of(error: json.JSONDecodeError) -> str:
    given = ascii(error.doc[error.pos]) if error.pos < len(error.doc) else "the end of the file"
    if (expected := _EXPECTED.get(error.msg)) is not None:
        return f"expected {expected}, got {given}"
    return _WRONG.get(error.msg, error.msg)
