"""Core values: JSON to bit patterns and back, by the table of the protocol."""

import json
import struct
from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from wasmdrop.protocol.core_values import check_signature, decode_results, encode_args
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.protocol.outcome import Code

#: How long a single example takes says nothing on a busy machine.
no_deadline = settings(deadline=None)

F32_INFINITY = 0x7F800000
F32_SIGN = 0x80000000

#: Bits of f32 at which shortest decimals go wrong most easily: zero, subnormals, powers of two,
#: the largest, and neighbours of decimals that an f64 puts midway between two f32.
F32_EDGES = (
    *(0, 1, 2, 0x007FFFFF, 0x00800000, 0x00800001, 0x3F800000, 0x4C800004, 0x7F7FFFFF),
    *(0x0A4170A7, 0x0A4170A8, 0x15AE43FD, 0x15AE43FE, 0x797EE4AF, 0x797EE4B0),
    *((exponent << 23) for exponent in range(1, 255)),
)

f32_bits = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from(F32_EDGES))
f64_bits = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from((0, 1, 1 << 63, 0x7FF0000000000000, 0x7FF0000000000001, 0x7FEFFFFFFFFFFFFF)),
)
i32_bits = st.integers(0, 2**32 - 1)
i64_bits = st.integers(0, 2**64 - 1)


def f32_exactly(bits: int) -> Fraction:
    """Return the value of a positive f32, or what would follow the largest."""
    exponent, fraction = bits >> 23, bits & 0x7FFFFF
    if exponent == 0:
        return Fraction(fraction, 2**149)
    return Fraction(fraction | 0x800000) * Fraction(2) ** (exponent - 150)


def rounds_to(decimal: Fraction, bits: int) -> bool:
    """Whether a positive f32 is the nearest to a decimal, ties to even."""
    here = f32_exactly(bits)
    above = (here + f32_exactly(bits + 1)) / 2
    below = (here + f32_exactly(bits - 1)) / 2 if bits else Fraction(0)
    return below < decimal < above or (decimal in (below, above) and bits % 2 == 0)


def narrowed(value: float) -> int | None:
    """Bits of the f32 nearest to an f64, None past the largest: what ``Math.fround`` gives."""
    try:
        return int(struct.unpack("<I", struct.pack("<f", value))[0])
    except OverflowError:
        return None


def refusal(args: list[object], params: list[str]) -> str:
    """Return the message with which arguments are refused as invalid."""
    with pytest.raises(RefusedError) as caught:
        encode_args(args, params)
    assert caught.value.code is Code.INVALID_ARGS
    return caught.value.message


@no_deadline
@given(st.tuples(i32_bits, i64_bits, f32_bits, f64_bits))
@example((0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF, 0x7FC00000, 0x7FF8000000000000))
@example((0x80000000, 0x8000000000000000, 0xFFC00000, 0xFFF8000000000000))
@example((0, 0, 0x7F800001, 0x7FF0000000000001))
@example((0, 0, 0x80000000, 0x8000000000000000))
def test_decoded_bits_are_encoded_to_the_same_bits(bits: tuple[int, ...]) -> None:
    """After they were written as JSON and read again."""
    types = ["i32", "i64", "f32", "f64"]
    values = decode_results(bits, types)
    assert encode_args(json.loads(json.dumps(values, allow_nan=False)), types) == list(bits)
    assert encode_args(msgspec.json.decode(msgspec.json.encode(values)), types) == list(bits)


@no_deadline
@given(f32_bits)
@example(0x15AE43FE)
@example(0x797EE4B0)
@example(0x7F7FFFFF)
def test_f32_reads_back_directly_and_through_an_f64(bits: int) -> None:
    """Both kinds of readers get the same f32, although rounding twice is not rounding once."""
    magnitude = bits & ~F32_SIGN
    assume(magnitude < F32_INFINITY)
    (value,) = decode_results([magnitude], ["f32"])
    assert isinstance(value, float)
    assert narrowed(value) == magnitude
    assert rounds_to(Fraction(repr(value)), magnitude)


@no_deadline
@given(f32_bits)
@example(1)
@example(0x0F800000)
@example(0x6B000000)
@example(0x3DCF9763)
@example(0x4C800004)
@example(0x7F7FFFFF)
def test_f32_is_written_as_the_shortest_decimal(bits: int) -> None:
    """With one digit less, neither the next decimal below nor the next above reads back."""
    magnitude = bits & ~F32_SIGN
    assume(0 < magnitude < F32_INFINITY)
    (value,) = decode_results([magnitude], ["f32"])
    decimal = Decimal(repr(value)).normalize()
    assume(len(decimal.as_tuple().digits) > 1)
    last_place = decimal.adjusted() - len(decimal.as_tuple().digits) + 1
    unit = Fraction(10) ** (last_place + 1)
    floor = f32_exactly(magnitude) // unit
    for shorter in (floor * unit, (floor + 1) * unit):
        direct = rounds_to(shorter, magnitude)
        assert not (direct and narrowed(float(shorter)) == magnitude), shorter


@no_deadline
@given(st.integers(0, F32_INFINITY - 1), st.sampled_from((-1, 0, 1)))
@example(0x15AE43FD, 0)
def test_decimal_near_the_middle_of_two_f32_rounds_to_the_nearer(bits: int, step: int) -> None:
    """The decimal as written decides, not the f64 that it was read as."""
    middle = (f32_exactly(bits) + f32_exactly(bits + 1)) / 2
    near = struct.unpack("<Q", struct.pack("<d", float(middle)))[0] + step
    text = repr(struct.unpack("<d", struct.pack("<Q", near))[0])
    assume(bits < F32_INFINITY - 1 or Fraction(text) < middle)
    (encoded,) = encode_args([json.loads(text)], ["f32"])
    assert encoded in (bits, bits + 1)
    assert rounds_to(Fraction(text), encoded)


@no_deadline
@given(st.from_regex(r"[1-9]\.[0-9]{0,13}[1-9]e-?[1-3]?[0-9]", fullmatch=True))
@example("7.038531e-26")
@example("1e-46")
def test_decimal_rounds_to_the_nearest_f32(text: str) -> None:
    """Checked with exact fractions."""
    assume(Fraction(text) < Fraction("3.4e38"))
    (encoded,) = encode_args([json.loads(text)], ["f32"])
    assert rounds_to(Fraction(text), encoded)


def test_decoded_integer_is_unsigned() -> None:
    """-1 is the largest unsigned number."""
    assert decode_results([0xFFFFFFFF, 2**64 - 1, 7], ["i32", "i64", "i32"]) == [
        4294967295,
        18446744073709551615,
        7,
    ]


@pytest.mark.parametrize(
    ("given_value", "bits"),
    [
        (0, 0),
        (-1, 0xFFFFFFFF),
        (-2147483648, 0x80000000),
        (4294967295, 0xFFFFFFFF),
        ("-5", 0xFFFFFFFB),
        ("4294967295", 0xFFFFFFFF),
        ("0", 0),
        ("-0", 0),
    ],
)
def test_i32_of_signed_or_unsigned_range_is_encoded(given_value: object, bits: int) -> None:
    """As a JSON integer, or as its text in a string."""
    assert encode_args([given_value], ["i32"]) == [bits]


def test_i64_of_signed_or_unsigned_range_is_encoded() -> None:
    """Both ends, as integers and as strings."""
    lowest, highest = -(2**63), 2**64 - 1
    for args in ([lowest, highest], [str(lowest), str(highest)]):
        assert encode_args(args, ["i64", "i64"]) == [2**63, 2**64 - 1]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (99999999999, "99999999999"),
        (4294967296, "4294967296"),
        (-2147483649, "-2147483649"),
        (12.0, "12.0"),
        (True, "true"),
        (None, "null"),
        ("4294967296", '"4294967296"'),
        ("", '""'),
        (" 5", '" 5"'),
        ("5\n", '"5\\n"'),
        ("+5", '"+5"'),
        ("1_000", '"1_000"'),
        ("0x10", '"0x10"'),
        ("007", '"007"'),
        ("--5", '"--5"'),
        ("5.0", '"5.0"'),
        ("1\u0665", '"1\u0665"'),
        ([1, 2], "an array with 2 elements"),
        ({"a": 1}, "an object with 1 key"),
    ],
)
def test_invalid_i32_is_refused_with_type_and_value(value: object, shown: str) -> None:
    """The message has the path, the type with its range, and the value."""
    message = f"args[1]: expected i32 (-2147483648 to 4294967295), got {shown}"
    assert refusal([0, value], ["i32", "i32"]).partition("; functions")[0] == message


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, str(2**64), str(-(2**63) - 1)])
def test_i64_out_of_range_is_refused_with_its_range(value: object) -> None:
    """One past each end."""
    expected = "args[0]: expected i64 (-9223372036854775808 to 18446744073709551615), got "
    assert refusal([value], ["i64"]).startswith(expected)


@pytest.mark.parametrize("name", ["i32", "i64", "f32", "f64"])
@pytest.mark.parametrize(
    "value",
    [10**5000, -(10**5000), "9" * 5000, "\x1b[31m" * 5000, "nan:0x" + "f" * 5000],
    ids=["positive", "negative", "digits", "escapes", "payload"],
)
def test_huge_value_is_refused_with_a_short_message(value: object, name: str) -> None:
    """Python refuses to convert integers of over 4300 digits; the message must not need that."""
    message = refusal([value], [name])
    assert message.startswith("args[0]: expected ")
    assert len(message) < 350
    assert message.isprintable()


@pytest.mark.parametrize(
    ("params", "args", "message"),
    [
        (["i64"], [1, 2], "expected 1 argument (i64), got 2"),
        ([], [1], "expected no arguments, got 1"),
        (["i64", "f32"], [], "expected 2 arguments (i64, f32), got 0"),
    ],
)
def test_wrong_number_of_values_is_refused(
    params: list[str], args: list[object], message: str
) -> None:
    """The message has the expected number and types, and the given number."""
    assert refusal(args, params) == message


def test_wrong_number_of_values_for_many_parameters_has_a_short_message() -> None:
    """The list of types is cut, their number is not."""
    message = refusal([], ["i32"] * 1000)
    assert message.startswith("expected 1000 arguments (i32, i32, ")
    assert len(message) < 150


@pytest.mark.parametrize(
    ("value", "f32", "f64"),
    [
        (1.5, 0x3FC00000, 0x3FF8000000000000),
        (0.1, 0x3DCCCCCD, 0x3FB999999999999A),
        (3, 0x40400000, 0x4008000000000000),
        (-(2**24), 0xCB800000, 0xC170000000000000),
        (2**100, 0x71800000, 0x4630000000000000),
        (0.0, 0, 0),
        (-0.0, 0x80000000, 0x8000000000000000),
        ("NaN", 0x7FC00000, 0x7FF8000000000000),
        ("Infinity", 0x7F800000, 0x7FF0000000000000),
        ("-Infinity", 0xFF800000, 0xFFF0000000000000),
        ("nan:0x200001", 0x7FA00001, 0x7FF0000000200001),
        ("-nan:0x400000", 0xFFC00000, 0xFFF0000000400000),
        ("nan:0xAbC", 0x7F800ABC, 0x7FF0000000000ABC),
        ("nan:0x0000000000000001", 0x7F800001, 0x7FF0000000000001),
    ],
)
def test_float_is_encoded_to_its_bits(value: object, f32: int, f64: int) -> None:
    """Numbers, the sign of zero, infinities, and NaNs with their bits."""
    assert encode_args([value, value], ["f32", "f64"]) == [f32, f64]


@pytest.mark.parametrize(
    ("bits", "name", "value"),
    [
        (0x7FC00000, "f32", "NaN"),
        (0xFFC00000, "f32", "-nan:0x400000"),
        (0x7FA00001, "f32", "nan:0x200001"),
        (0x7FFFFFFF, "f32", "nan:0x7fffff"),
        (0x7F800000, "f32", "Infinity"),
        (0xFF800000, "f32", "-Infinity"),
        (0x7FF8000000000000, "f64", "NaN"),
        (0xFFF8000000000000, "f64", "-nan:0x8000000000000"),
        (0x7FF0000000000001, "f64", "nan:0x1"),
        (0xFFF0000000000000, "f64", "-Infinity"),
    ],
)
def test_infinity_or_nan_is_decoded_to_a_string(bits: int, name: str, value: str) -> None:
    """Only the canonical positive NaN is written without its bits."""
    assert decode_results([bits], [name]) == [value]


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (0x3DCCCCCD, "0.1"),
        (0x80000000, "-0.0"),
        (0x00000001, "1e-45"),
        (0x7F7FFFFF, "3.4028235e+38"),
        (0x3EAAAAAB, "0.33333334"),
        (0xC0490FDB, "-3.1415927"),
        (0x15AE43FD, "7.0385307e-26"),
        (0x3DCF9763, "0.101362966"),
        (0x0F800000, "1.2621775e-29"),
        (0x8F800000, "-1.2621775e-29"),
    ],
)
def test_f32_is_decoded_to_its_usual_decimal(bits: int, text: str) -> None:
    """Not to that of the f64 that represents it in Python."""
    assert json.dumps(decode_results([bits], ["f32"])) == f"[{text}]"


@pytest.mark.parametrize(
    ("value", "name"),
    [(2**53 + 1, "f64"), (2**24 + 1, "f32"), (-(2**24) - 1, "f32"), (2**100 + 1, "f64")],
)
def test_integer_that_a_float_would_round_is_refused(value: int, name: str) -> None:
    """The message says how to ask for rounding."""
    assert refusal([value], [name]) == (
        f"args[0]: expected an integer that {name} holds exactly, "
        f"or a number with a decimal point, which is rounded, got {value}"
    )
    encode_args([float(value)], [name])


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (3.5e38, "f32"),
        (-3.5e38, "f32"),
        (1e300, "f32"),
        (10**39, "f32"),
        (3.4028236e38, "f32"),
        (10**400, "f64"),
    ],
)
def test_number_that_overflows_a_float_is_refused(value: float, name: str) -> None:
    """It does not become an infinity."""
    assert refusal([value], [name]).startswith(f"args[0]: expected {name} (-")


@pytest.mark.parametrize("name", ["f32", "f64"])
@pytest.mark.parametrize(
    "value",
    [
        *(True, None, [], {}, "", "1.5", "nan", "-NaN", "+Infinity", "inf", "infinity"),
        *(
            "nan:0x",
            "nan:200001",
            "nan:0x+1",
            "nan:0x0_1",
            "nan:0x00000000000000001",
            " NaN",
            "NaN ",
            "NaN\n",
            "nan:0x1\n",
        ),
        *(float("inf"), float("-inf"), float("nan")),
    ],
)
def test_invalid_float_is_refused(value: object, name: str) -> None:
    """Infinities and NaNs are strings, and only those of the protocol."""
    assert f"expected {name} (a number, " in refusal([value], [name])


@pytest.mark.parametrize(
    ("value", "name", "most"),
    [
        ("nan:0x0", "f32", "0x7fffff"),
        ("nan:0x800000", "f32", "0x7fffff"),
        ("-nan:0x10000000000000", "f64", "0xfffffffffffff"),
    ],
)
def test_nan_with_invalid_bits_is_refused(value: str, name: str, most: str) -> None:
    """Zero would be an infinity, and more would reach into the exponent."""
    assert refusal([value], [name]) == (
        f'args[0]: expected {name} (the bits of a NaN are 0x1 to {most}), got "{value}"'
    )


@pytest.mark.parametrize("name", ["v128", "funcref", "(ref null 3)", "i8", ""])
def test_unsupported_type_is_refused_by_name(name: str) -> None:
    """In parameters, in results, and before the number of arguments is checked."""
    tails = {}
    for where, signature in (
        ("params[1]", FunctionType(("i32", name), ())),
        ("results[0]", FunctionType(("i32",), (name,))),
    ):
        with pytest.raises(RefusedError) as caught:
            check_signature(signature)
        assert caught.value.code is Code.UNSUPPORTED_SIGNATURE
        tails[where] = (
            f"{where}: expected i32, i64, f32 or f64, the types that JSON can represent, got"
        )
        assert caught.value.message == f"{tails[where]} {name}"
    with pytest.raises(RefusedError) as caught:
        encode_args([], ["i32", name])
    assert caught.value.message == f"{tails['params[1]']} {name}"
    assert caught.value.code is Code.UNSUPPORTED_SIGNATURE
    with pytest.raises(RefusedError) as caught:
        decode_results([0], [name])
    assert caught.value.message == f"{tails['results[0]']} {name}"


def test_signature_of_supported_types_is_accepted() -> None:
    """In any order and number."""
    four = ("f64", "i32", "f32", "i64")
    check_signature(FunctionType(four * 100, four))
    check_signature(FunctionType())


@pytest.mark.parametrize(("bits", "name"), [(2**32, "i32"), (-1, "i64"), (2**32, "f32")])
def test_decode_of_bits_out_of_range_raises_overflow_error(bits: int, name: str) -> None:
    """They may come from a compromised child."""
    with pytest.raises(OverflowError):
        decode_results([bits], [name])


def test_decode_of_wrong_number_of_bits_raises_value_error() -> None:
    """They may come from a compromised child."""
    with pytest.raises(ValueError, match="zip"):
        decode_results([1, 2], ["i32"])


@pytest.mark.parametrize(
    ("args", "params"),
    [
        (["abc"], ("i32",)),
        (["abc"], ("i32", "i32")),
        ([""], ("f64",)),
        ([[1, 2]], ("i64",)),
        ([{"base64": "AA=="}], ("f32",)),
        ([1, "naive"], ("i32", "i32")),
    ],
)
def test_data_for_a_core_function_is_refused_with_advice(
    args: list[object], params: tuple[str, ...]
) -> None:
    """Whether it is of the wrong type or given instead of pointer and length."""
    with pytest.raises(RefusedError, match=r"expected .*, got .*; functions of core modules take"):
        encode_args(args, params)


@pytest.mark.parametrize(
    ("args", "params"),
    [
        ([True], ("i32",)),
        ([None], ("i32",)),
        ([1.5], ("i32",)),
        (["99999999999"], ("i32",)),
        (["-1e999"], ("f64",)),
        (["nan:0x0"], ("f64",)),
        (["Infinity"], ("i64",)),
        ([1, 2], ("i32",)),
    ],
)
def test_invalid_number_is_refused_without_that_advice(
    args: list[object], params: tuple[str, ...]
) -> None:
    """It is not text that a component could take."""
    with pytest.raises(RefusedError) as caught:
        encode_args(args, params)
    assert "core modules" not in caught.value.message
