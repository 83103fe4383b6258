"""Converts JSON values to bit patterns of i32, i64, f32 and f64, and back.

Guarantees that nothing is wrapped, rounded or truncated silently, except that a decimal fraction is
rounded to the nearest float; and that results of ``decode_results``, written as JSON and read
again, give the same bits in ``encode_args``. Assumes that JSON integers were read as ``int`` and
all other numbers as the nearest ``float``. Bits are integers throughout, because a ``float`` does
not preserve a signalling NaN.
"""

import re
import struct
from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, ROUND_UP, Context, Decimal
from math import inf, isfinite, nextafter
from typing import Final, NamedTuple

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import bounded_text, describe_value

#: Characters of a type or a signature in a message.
_SHOWN_CHARACTERS: Final = 80

_INTEGER_BITS: Final = {"i32": 32, "i64": 64}
#: An integer in JSON's grammar, no longer than the longest in range.
_INTEGER_TEXT: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,19})")
_NAN_TEXT: Final = re.compile(r"(-?)nan:0x([0-9a-fA-F]{1,16})")
_INFINITIES: Final = ("Infinity", "-Infinity")
#: Start of a string that is meant as a number.
_NUMBER_TEXT: Final = re.compile(r"\s*[-+]?(?:\.?[0-9]|nan\b)", re.IGNORECASE)

_NUMBERS_ONLY: Final = (
    "functions of core modules take numbers; pass text to a component, or to a command on stdin"
)


class _FloatFormat(NamedTuple):
    """A binary interchange format of IEEE 754."""

    name: str
    bits: int
    fraction_bits: int
    packing: struct.Struct
    largest: str

    @property
    def sign(self) -> int:
        return 1 << (self.bits - 1)

    @property
    def infinity(self) -> int:
        return self.sign - (1 << self.fraction_bits)

    @property
    def canonical_nan(self) -> int:
        return self.infinity | 1 << (self.fraction_bits - 1)

    @property
    def largest_payload(self) -> int:
        return (1 << self.fraction_bits) - 1

    def bits_of(self, value: float) -> int:
        """Return the bits of the nearest value, ties to even. Raises ``OverflowError``."""
        return int.from_bytes(self.packing.pack(value), "little")

    def value_of(self, bits: int) -> float:
        (value,) = self.packing.unpack(bits.to_bytes(self.bits // 8, "little"))
        return float(value)


_F32: Final = _FloatFormat("f32", 32, 23, struct.Struct("<f"), "3.4028235e+38")
_F64: Final = _FloatFormat("f64", 64, 52, struct.Struct("<d"), "1.7976931348623157e+308")
_FLOATS: Final = {"f32": _F32, "f64": _F64}


def check_signature(signature: FunctionType) -> None:
    """Raise ``RefusedError`` (``UNSUPPORTED_SIGNATURE``) for a type that JSON can't represent."""
    _check_types("params", signature.params)
    _check_types("results", signature.results)


def encode_args(args: Sequence[object], params: Sequence[str]) -> list[int]:
    """Return one unsigned bit pattern per parameter, of 32 or 64 bits.

    Raises ``RefusedError`` with ``UNSUPPORTED_SIGNATURE`` for a type that JSON can't represent,
    with ``INVALID_ARGS`` for a wrong number of values or an invalid value.
    """
    _check_types("params", params)
    try:
        if len(args) != len(params):
            raise RefusedError(
                Code.INVALID_ARGS, f"expected {_counted_arguments(params)}, got {len(args)}"
            )
        return [
            _integer_bits(f"args[{index}]", value, name)
            if name in _INTEGER_BITS
            else float_bits(f"args[{index}]", value, name)
            for index, (value, name) in enumerate(zip(args, params, strict=True))
        ]
    except RefusedError as refusal:
        if not any(map(_is_not_a_number, args)):
            raise
        raise RefusedError(refusal.code, f"{refusal.message}; {_NUMBERS_ONLY}") from None


def _is_not_a_number(value: object) -> bool:
    """Whether a value is data that a function of a core module can't take."""
    if isinstance(value, str):
        return value not in _INFINITIES and _NUMBER_TEXT.match(value) is None
    return isinstance(value, list | tuple | dict)


def decode_results(bits: Sequence[int], results: Sequence[str]) -> list[object]:
    """Return JSON-ready values for unsigned bit patterns: ``int``, finite ``float`` or ``str``.

    A ``float`` has the shortest ``repr`` that reads back as the same bits. Raises ``RefusedError``
    with ``UNSUPPORTED_SIGNATURE`` for a type that JSON can't represent; ``OverflowError`` for bits
    out of range, and ``ValueError`` for a wrong number of bit patterns.
    """
    _check_types("results", results)
    return [
        _unsigned(pattern, _INTEGER_BITS[name])
        if name in _INTEGER_BITS
        else float_value(pattern, name)
        for pattern, name in zip(bits, results, strict=True)
    ]


def _check_types(where: str, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if name not in _INTEGER_BITS and name not in _FLOATS:
            raise RefusedError(
                Code.UNSUPPORTED_SIGNATURE,
                f"{where}[{index}]: expected i32, i64, f32 or f64, the types that JSON can"
                f" represent, got {bounded_text(name, _SHOWN_CHARACTERS)}",
            )


def _counted_arguments(params: Sequence[str]) -> str:
    if not params:
        return "no arguments"
    plural = "" if len(params) == 1 else "s"
    # A signature may have a thousand parameters.
    return f"{len(params)} argument{plural} ({bounded_text(', '.join(params), _SHOWN_CHARACTERS)})"


def _integer_bits(where: str, value: object, name: str) -> int:
    bits = _INTEGER_BITS[name]
    lowest, highest = -(1 << (bits - 1)), (1 << bits) - 1
    return integer_in(where, value, name, lowest, highest) & highest


def integer_in(where: str, value: object, name: str, lowest: int, highest: int) -> int:
    """Return ``value``, an integer or its decimal text.

    Raises ``RefusedError`` with ``INVALID_ARGS`` for anything else, or if it is out of bounds.
    """
    number = value
    if isinstance(value, str) and _INTEGER_TEXT.fullmatch(value):
        number = int(value)
    # bool is a subclass of int.
    if not isinstance(number, int) or isinstance(number, bool) or not lowest <= number <= highest:
        raise misfit(where, f"{name} ({lowest} to {highest})", value)
    return number


def float_bits(where: str, value: object, name: str) -> int:
    """Return the bits of ``value`` as an ``f32`` or ``f64``.

    Raises ``RefusedError`` with ``INVALID_ARGS`` for an invalid value.
    """
    form = _FLOATS[name]
    try:
        match value:
            case str():
                return _special_bits(where, value, form)
            case int() if not isinstance(value, bool):
                return _exact_bits(where, value, form)
            case float() if isfinite(value):
                return form.bits_of(_rounded_to_odd(value) if form is _F32 else value)
            case _:
                raise misfit(where, _expected_float(form), value)
    except OverflowError:
        within = f"{form.name} (-{form.largest} to {form.largest})"
        raise misfit(where, within, value) from None


def _exact_bits(where: str, value: int, form: _FloatFormat) -> int:
    bits = form.bits_of(float(value))
    if int(form.value_of(bits)) != value:
        exactly = (
            f"an integer that {form.name} holds exactly, or a number with a decimal point, "
            "which is rounded"
        )
        raise misfit(where, exactly, value)
    return bits


def _special_bits(where: str, text: str, form: _FloatFormat) -> int:
    if text == "NaN":
        return form.canonical_nan
    if text in _INFINITIES:
        return form.infinity | (form.sign if text.startswith("-") else 0)
    match = _NAN_TEXT.fullmatch(text)
    if match is None:
        raise misfit(where, _expected_float(form), text)
    payload = int(match[2], 16)
    if not 1 <= payload <= form.largest_payload:
        within = f"{form.name} (the bits of a NaN are 0x1 to {form.largest_payload:#x})"
        raise misfit(where, within, text)
    return form.infinity | payload | (form.sign if match[1] else 0)


def _expected_float(form: _FloatFormat) -> str:
    return (
        f'{form.name} (a number, "NaN", "Infinity", "-Infinity", or a NaN with its bits as in '
        f'"nan:{form.canonical_nan & form.largest_payload:#x}")'
    )


def misfit(where: str, expected: str, given: object) -> RefusedError:
    """Return the error for a value of the wrong type or out of range."""
    return RefusedError(
        Code.INVALID_ARGS, f"{where}: expected {expected}, got {describe_value(given)}"
    )


def _unsigned(pattern: int, bits: int) -> int:
    if not 0 <= pattern < 1 << bits:
        raise OverflowError(f"expected an unsigned integer of {bits} bits, got {pattern}")
    return pattern


def float_value(pattern: int, name: str) -> float | str:
    """Return the JSON value of the bits of a float. Raises ``OverflowError`` if out of range."""
    form = _FLOATS[name]
    magnitude = _unsigned(pattern, form.bits) & ~form.sign
    sign = "-" if pattern & form.sign else ""
    if pattern == form.canonical_nan:
        return "NaN"
    if magnitude > form.infinity:
        return f"{sign}nan:{magnitude & form.largest_payload:#x}"
    if magnitude == form.infinity:
        return f"{sign}Infinity"
    value = form.value_of(pattern)
    return _shortest_f32(pattern, value) if form is _F32 else value


def _shortest_f32(bits: int, value: float) -> float:
    """Return the float whose ``repr`` is the shortest decimal that reads back as ``bits``.

    Tries one more digit at a time. The nearest decimal is not enough: next to a power of two,
    values towards zero are half as far apart as values away from it, so the nearest decimal may not
    read back although the next one away from zero does (2 to the power of -96 is 1.2621775e-29).
    ``repr`` keeps the digits found, because an f64 distinguishes all decimals of up to 15 digits.
    """
    exact = Decimal(value)
    for digits in range(1, 9):
        for rounding in (ROUND_HALF_EVEN, ROUND_UP):
            candidate = float(Context(prec=digits, rounding=rounding).create_decimal(exact))
            if _reads_back(candidate, bits):
                return candidate
    # Nine digits distinguish any two f32, so the nearest decimal of nine always reads back.
    return float(Context(prec=9, rounding=ROUND_HALF_EVEN).create_decimal(exact))


def _reads_back(candidate: float, bits: int) -> bool:
    """Whether readers get ``bits``, with or without an f64 in between."""
    try:
        return _F32.bits_of(candidate) == bits == _F32.bits_of(_rounded_to_odd(candidate))
    except OverflowError:
        return False


def _rounded_to_odd(value: float) -> float:
    """Return ``value`` such that rounding it to f32 rounds the decimal it was read from.

    The nearest f64 of a decimal may be midway between two f32 although the decimal is not
    (7.038531e-26); rounding again may then choose the wrong one. An inexact f64 with an odd last
    bit is never midway (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
    The decimal is assumed to be the shortest that reads as ``value``, which is what JSON writers
    write.
    """
    decimal = Decimal(repr(value))
    if decimal == Decimal(value) or _F64.bits_of(value) & 1:
        return value
    return nextafter(value, inf if decimal > Decimal(value) else -inf)
