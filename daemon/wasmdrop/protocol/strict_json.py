"""Strict JSON: RFC 8259 without the latitude that it leaves, refused with a position.

Owns what counts as JSON in everything that a producer drops: no duplicate keys, no bare NaN, no
number that a float64 can't hold, no lone surrogates, no nesting deeper than `MAX_DEPTH`. Integers
stay exact whatever their size.

Promises a value or a `RefusedError` for every byte string, and an effort in proportion to its
length: 16 MiB of the worst take a second or two. A good text is read once, by the standard
library's scanner in C. That scanner's hooks are not told where they are, so only a text that was
refused is read again, by a small tokenizer that finds the place.
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

__all__ = ["MAX_DEPTH", "MAX_INTEGER_DIGITS", "parse", "path_to"]

#: Arrays and objects inside one another.
MAX_DEPTH: Final = 64

#: Digits of an integer. Reading one takes time with the square of its length; 4,300 is where Python
#: draws the line as well, unless its operator has moved it (``PYTHONINTMAXSTRDIGITS``).
MAX_INTEGER_DIGITS: Final = min(4300, sys.get_int_max_str_digits() or 4300)

#: Tokens that the second reading looks at. They take about a tenth of a second, and a person who
#: looks for a mistake by its column is not helped further on.
_MAX_TOKENS: Final = 250_000

#: Texts below this many characters can't hold enough objects to keep the garbage collector busy.
_LARGE: Final = 65_536

_MAX_SHOWN: Final = 60
_MAX_PATH: Final = 160

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_BYTE_ORDER_MARKS_16: Final = (b"\xff\xfe", b"\xfe\xff")

# The patterns are possessive: they never backtrack, so they take linear time. Where a repetition of
# a group fails after its first character, Python before 3.11.5 goes on from there instead of from
# before it; here that only happens in texts that are refused anyway.
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+'
_NUMBER = r"-?(?:Infinity|(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?)|NaN"
_TOKEN = re.compile(rf'{_STRING}"?|[\[\]{{}},:]|{_NUMBER}|[^ \t\r\n"\[\]{{}},:]++', re.DOTALL)
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*+")
_SURROGATE = re.compile(r"(?<!\\)(\\++)u[dD][89a-fA-F]")
_SURROGATE_PAIR = re.compile(r"\\u[dD][89abAB]..\\u[dD][c-fC-F]..")

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
    """What a hook of the scanner found; its text says what, not where."""


def parse(data: bytes) -> object:
    """Read ``data`` as one JSON value.

    Raises `RefusedError` (``invalid-input``) whose message begins with line and column, counted
    from 1, columns in characters.
    """
    text = _decoded(data)
    try:
        if len(text) < _LARGE:
            value = _DECODER.decode(text)
        else:
            with _no_garbage_collection():
                value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _refused(text, error.pos, _in_our_words(error)) from None
    except _ViolationError as violation:
        raise _refused(text, None, str(violation)) from None
    except RecursionError:
        raise _refused(text, None, _TOO_DEEP) from None
    except ValueError:  # int() of too many digits; what derives from ValueError is dealt with above
        raise _refused(text, None, _TOO_LONG) from None
    if text.count("[") + text.count("{") > MAX_DEPTH and not _depth_pattern().fullmatch(text):
        raise _refused(text, None, _TOO_DEEP)
    if "\\u" in text and (position := _lone_surrogate(text)) is not None:
        escape = text[position : position + 6]
        raise _refused(text, position, f"{escape} is half of a surrogate pair, and no character")
    return value


def path_to(*steps: str | int) -> str:
    """Return the path to a place in a JSON value: ``$.args[2].x``, ``$.files["a b.txt"]``."""
    text = "$" + "".join(
        f"[{step}]"
        if isinstance(step, int)
        else f".{step}"
        if len(step) <= _MAX_SHOWN and _PLAIN_KEY.fullmatch(step)
        else f"[{describe_value(step)}]"
        for step in steps
    )
    return one_line(text, _MAX_PATH)


# --- The one reading of a good text


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
    # Eight million fresh lists made the collector run so often that reading took 4 s, not 0.5.
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
    # int itself is twice as quick as a function around it, and bounds the digits if it may.
    parse_int=int if sys.get_int_max_str_digits() == MAX_INTEGER_DIGITS else _integer,
    parse_constant=_constant,
)


@functools.cache
def _depth_pattern() -> re.Pattern[str]:
    """Return what matches the whole of a valid text that is not nested deeper than `MAX_DEPTH`.

    One group inside another for each level. Walking the parsed value instead took ten times as
    long, and counting brackets needs the strings out of the way first.
    """
    flat = rf'[^\[\]{{}}"]*+(?:{_STRING}"[^\[\]{{}}"]*+)*+'
    pattern = flat
    for _ in range(MAX_DEPTH):
        pattern = rf"{flat}(?:[\[{{]{pattern}[\]}}]{flat})*+"
    return re.compile(pattern, re.DOTALL)


def _lone_surrogate(text: str) -> int | None:
    """Return where the first surrogate escape without its other half is, in a valid text."""
    position = 0
    while found := _SURROGATE.search(text, position):
        position = found.end()
        if len(found[1]) % 2 == 0:  # they escape one another, and the u is but a letter
            continue
        escape = found.end(1) - 1
        pair = _SURROGATE_PAIR.match(text, escape)
        if pair is None:
            return escape
        position = pair.end()
    return None


# --- The second reading, of a bad one


class _Place(NamedTuple):
    """Where the second reading ended, and why."""

    position: int
    steps: tuple[str | int, ...]
    what: str | None
    """The violation that is there; None where it ended before any."""


class _Walk:
    """Follows a text token by token and knows the path to where it is.

    Judges what the scanner's hooks judge, by the same functions. Relies on the text being valid
    up to there in all other respects, because the first reading came as far.
    """

    def __init__(self) -> None:
        self._steps: list[str | int] = []  # of each open array or object, the item it is at
        self._keys: list[set[str] | None] = []  # and the keys so far, or None for an array
        self._expects_key = False

    @property
    def path(self) -> tuple[str | int, ...]:
        """The steps to the value that comes next, or to the object whose key comes next."""
        return tuple(self._steps[:-1] if self._expects_key else self._steps)

    def take(self, token: str) -> None:
        """Move on past ``token``; raises `_ViolationError` where that is one."""
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
            _judge(token)

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


def _judge(literal: str) -> None:
    """Raise `_ViolationError` for a number or constant that is one."""
    if literal[-1] in "Ny":
        _constant(literal)
    elif literal.removeprefix("-").isdigit():
        _integer(literal)
    else:
        _real(literal)


def _first_violation(text: str, stop: int) -> _Place:
    walk = _Walk()
    for count, token in enumerate(_TOKEN.finditer(text)):
        if count == _MAX_TOKENS:
            return _Place(token.start(), (), None)
        if token.end() > stop:
            break
        try:
            walk.take(token[0])
        except _ViolationError as violation:
            return _Place(token.start(), walk.path, str(violation))
    return _Place(stop, walk.path, None)


def _refused(text: str, stop: int | None, what: str) -> RefusedError:
    """Return the refusal of ``text`` for its first violation.

    ``what`` is the one that the first reading ran into, and ``stop`` its position, if it knew.
    """
    place = _first_violation(text, len(text) if stop is None else stop)
    position = place.position if stop is None or place.what is not None else stop
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    path = f", at {path_to(*place.steps)}" if place.steps else ""
    beyond = "after " if stop is None and place.what is None else ""
    return _refusal(line, column, place.what or what, path, beyond)


def _refusal(line: int, column: int, what: str, path: str = "", beyond: str = "") -> RefusedError:
    message = f"{beyond}line {line}, column {column}{path}: {what}"
    return RefusedError(Code.INVALID_INPUT, message)


def _in_our_words(error: json.JSONDecodeError) -> str:
    given = ascii(error.doc[error.pos]) if error.pos < len(error.doc) else "the end of the file"
    if (expected := _EXPECTED.get(error.msg)) is not None:
        return f"expected {expected}, got {given}"
    return _WRONG.get(error.msg, error.msg)
