"""Strict JSON: accepted texts, rejected texts, and the positions of errors."""

import gc
import json
import math
import os
import re
import subprocess
import sys
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.strict_json import MAX_DEPTH, MAX_INTEGER_DIGITS, parse, path_to
from wasmdrop.protocol.text import describe_value

#: How long a single example takes says nothing on a busy machine.
no_deadline = settings(deadline=None)

POSITION = re.compile(r"(after )?line [1-9][0-9]*, column [1-9][0-9]*(, at \$[^\n]*?)?: [^\n]+")

text = st.text(st.characters(exclude_categories=["Cs"]))
data = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=30,
)

#: Pieces that texts are put together from which are nearly JSON.
PIECES = (
    *(
        '{"a":',
        '"b":',
        '"a"',
        '""',
        ":",
        ",",
        "{",
        "}",
        "[",
        "]",
        " ",
        "\n",
        "\t",
        "\x0b",
        "\u00a0",
    ),
    *("0", "-", "1e5", "1e999", "-1E400", "0.5", ".5", "01", "NaN", "-Infinity", "true", "nul"),
    *('"\\ud83d\\ude00"', '"\\udc00"', '"\\\\ud800"', '"\\u12"', '"\\x"', '"\x01"', '"[[{"', '"é'),
)
nearly_json = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


def refusal(source: bytes | str) -> str:
    """Return the message with which ``source`` is refused."""
    with pytest.raises(RefusedError) as caught:
        parse(source if isinstance(source, bytes) else source.encode())
    assert caught.value.code is Code.INVALID_INPUT
    assert POSITION.fullmatch(caught.value.message)
    return caught.value.message


def accepts(source: bytes) -> bool:
    """Whether ``source`` gives a value rather than a refusal that says where."""
    try:
        parse(source)
    except RefusedError:
        refusal(source)
        return False
    return True


def exactly(value: object) -> object:
    """Return ``value`` in a form in which 1 differs from 1.0 and True, and 0.0 from -0.0."""
    if isinstance(value, list):
        return [exactly(item) for item in value]
    if isinstance(value, dict):
        return [(key, exactly(item)) for key, item in value.items()]
    return type(value), repr(value)


def is_strict(source: str) -> bool:
    """Judge ``source`` in another way than the code does: as slow and plain as can be."""

    def pairs(found: list[tuple[str, object]]) -> dict[str, object]:
        if len({key for key, _ in found}) != len(found):
            raise ValueError
        return dict(found)

    def real(literal: str) -> float:
        if math.isinf(float(literal)):
            raise ValueError
        return float(literal)

    def constant(word: str) -> object:
        raise ValueError(word)

    try:
        value = json.loads(
            source, object_pairs_hook=pairs, parse_float=real, parse_constant=constant
        )
        json.dumps(value, ensure_ascii=False).encode()  # not with half of a pair in it
    except ValueError:
        return False
    return True


@given(data, st.booleans(), st.sampled_from([None, 2]))
@no_deadline
def test_parse_of_written_json_returns_the_same_value(
    value: object, ascii_only: bool, indent: int | None
) -> None:
    """With types, signs of zero and the order of keys."""
    source = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert exactly(parse(source.encode())) == exactly(value)


@given(st.binary() | nearly_json.map(str.encode))
@example(b"")
@example(b"\n\n \xff")
@example(b"1e999-")
@example(b"\xed\xa0\x80")
@no_deadline
def test_parse_of_any_bytes_returns_or_is_refused_with_a_position(source: bytes) -> None:
    """No other exception."""
    assert accepts(source) in {True, False}


@given(nearly_json)
@settings(deadline=None, max_examples=500)
def test_parse_accepts_exactly_strict_json(source: str) -> None:
    """Compared with a simple checker that shares no code with this one."""
    assert accepts(source.encode()) == is_strict(source)


@given(st.lists(st.sampled_from(["\\\\", "\\ud83d", "\\uDE00", "\\n", "ud83d", "a"]), max_size=8))
@example(["\\\\", "ud83d", "\\uDE00"])
@example(["\\ud83d", "\\uDE00", "\\uDE00"])
@example(["\\ud83d", "\\\\", "\\uDE00"])
@no_deadline
def test_parse_of_lone_surrogate_escape_is_refused(pieces: list[str]) -> None:
    """An escaped backslash before ``ud83d`` is not such an escape."""
    source = '"' + "".join(pieces) + '"'
    if is_strict(source):
        assert parse(source.encode()) == json.loads(source)
    else:
        assert "half of a surrogate pair" in refusal(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "line 1, column 1: the file is empty"),
        (" \n", "line 1, column 1: the file is only white space"),
        ("{", "line 1, column 2: expected a key in double quotes, got the end of the file"),
        ('{"a":1,\n  b:2}', "line 2, column 3: expected a key in double quotes, got 'b'"),
        ('{"a" 1}', "line 1, column 6, at $.a: expected ':' after the key, got '1'"),
        (
            '{"args":[1,{"x":nul}]}',
            "line 1, column 17, at $.args[1].x: expected a value, got 'n'",
        ),
        (
            '{"args":[1 2]}',
            (
                "line 1, column 12, at $.args[0]:"
                " expected ',' or the end of the array or object, got '2'"
            ),
        ),
        ('{"a":1} x', "line 1, column 9: expected nothing after the value, got 'x'"),
        ('{"a":"x', "line 1, column 6, at $.a: the string that begins here has no end"),
        (
            '["a\nb"]',
            "line 1, column 4, at $[0]: a control character in a string must be escaped",
        ),
        ('{"a":{"k\\q":1}}', "line 1, column 9, at $.a: no such escape"),
        ('{"a":"[[\\q', "line 1, column 9, at $.a: no such escape"),
        ('{"a":1,\n "é":{},\n "a":2}', 'line 3, column 2: duplicate key "a"'),
        ('{"\\u0061":1,"a":2}', 'line 1, column 13: duplicate key "a"'),
        (
            '{"args":[0,{"é":[{}],"z":2,"é":3}]}',
            'line 1, column 28, at $.args[1]: duplicate key "é"',
        ),
        (
            '{"args":[1,NaN]}',
            (
                'line 1, column 12, at $.args[1]: NaN is not JSON; as an argument write "NaN",'
                " in quotes"
            ),
        ),
        (
            '[{},"x",NaN]',
            'line 1, column 9, at $[2]: NaN is not JSON; as an argument write "NaN", in quotes',
        ),
        (
            "-Infinity",
            'line 1, column 1: -Infinity is not JSON; as an argument write "-Infinity", in quotes',
        ),
        (
            '{"a b":[1.5,-1e999]}',
            'line 1, column 13, at $["a b"][1]: -1e999 is beyond the range of a 64-bit float',
        ),
        (
            '{"x":{"y":"\\ud800"}}',
            "line 1, column 12, at $.x.y: \\ud800 is half of a surrogate pair, and no character",
        ),
    ],
)
def test_refusal_has_line_column_path_and_reason(source: str, message: str) -> None:
    """Line and column count from 1, columns in characters."""
    assert refusal(source) == message


def test_parse_of_invalid_utf8_is_refused_with_its_offset() -> None:
    """The offset counts bytes, the column characters."""
    assert refusal('{\n"é":"'.encode() + b'\xff"}') == (
        "line 2, column 6: byte 0xff at offset 8 is not UTF-8 (invalid start byte)"
    )


@pytest.mark.parametrize(
    ("source", "named"),
    [(b"\xef\xbb\xbf{}", "byte order mark"), ("{}".encode("utf-16"), "UTF-16")],
)
def test_parse_of_byte_order_mark_is_refused_by_name(source: bytes, named: str) -> None:
    """Editors hide it, so it is hard to find."""
    assert named in refusal(source)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_parse_beyond_the_nesting_limit_is_refused(opening: str) -> None:
    """The position is that of the first level beyond the limit."""
    closing = "]" if opening == "[" else "}"

    def nested(depth: int) -> str:
        return opening * depth + "0" + closing * depth

    assert MAX_DEPTH == 64
    parse(nested(MAX_DEPTH).encode())
    message = refusal(nested(MAX_DEPTH + 1))
    assert message.startswith(f"line 1, column {len(opening) * MAX_DEPTH + 1}, at $")
    assert message.endswith(f"nested deeper than {MAX_DEPTH} arrays and objects")


def test_parse_of_wide_text_with_brackets_in_strings_succeeds() -> None:
    """Only nested arrays and objects count."""
    deep = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    source = json.dumps(["[{" * 100, '\\"[[', {"[" * 100: "\\"}]) + "," + ",".join([deep] * 20)
    assert len(json.loads(f"[{source}]")) == 21
    assert parse(f"[{source}]".encode()) == json.loads(f"[{source}]")


def test_parse_of_deep_nesting_after_wide_text_is_refused() -> None:
    """Far from the start, and for arrays and objects mixed."""
    deep = '[{"a":' * 33 + "0" + "}]" * 33
    assert "nested deeper" in refusal(f'[{"[],{}," * 100}["]"],{deep}]')


def test_parse_keeps_integers_exact_up_to_the_digit_limit() -> None:
    """Not through a float. The sign does not count as a digit."""
    digits = "9" * MAX_INTEGER_DIGITS
    assert parse(f"[{digits},-{digits}]".encode()) == [int(digits), -int(digits)]
    for sign in ("", "-"):
        assert refusal(f"[0,{sign}9{digits}]") == (
            f"line 1, column 4, at $[1]: an integer of more than {MAX_INTEGER_DIGITS} digits"
        )


def test_digit_limit_holds_without_the_limit_of_python() -> None:
    """Reading ten million digits would take minutes."""
    program = (
        "from wasmdrop.protocol.strict_json import parse\n"
        "from wasmdrop.protocol.errors import RefusedError\n"
        "try: parse(b'[0,-' + b'9' * 4301 + b']')\n"
        "except RefusedError as error: print(error)\n"
        "parse(b'[-' + b'9' * 4300 + b']')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONINTMAXSTRDIGITS": "0", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "line 1, column 4, at $[1]: an integer of more than 4300 digits\n"


MEBIBYTE = 1024 * 1024


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("[" * 100_000, id="open arrays"),
        pytest.param('{"a":' * 100_000, id="open objects"),
        pytest.param('"' + "\\" * (MEBIBYTE + 1) + '"', id="backslashes"),
        pytest.param('"' + "\\\\ud83d" * (MEBIBYTE // 7) + '\\ud83d"', id="near surrogates"),
        pytest.param("[" + "[],{}," * (MEBIBYTE // 6) + "NaN]", id="a constant at the end"),
        pytest.param(
            "[" + "[[],[]]," * (MEBIBYTE // 8) + "[" * 65 + "]" * 66, id="deep at the end"
        ),
        pytest.param("9" * MEBIBYTE, id="one integer"),
        pytest.param('["' + '\\"[' * (MEBIBYTE // 3), id="an open string"),
        pytest.param("[" + "1," * (MEBIBYTE // 2) + "]", id="a comma at the end"),
    ],
)
def test_parse_of_hostile_text_takes_linear_time(source: str) -> None:
    """Each takes about 0.1 s. In quadratic time it would be hours."""
    # Processor time, which other load on the machine does not change.
    before = time.process_time()
    refusal(source)
    assert time.process_time() - before < 5


def test_error_far_into_a_large_text_is_reported_without_exact_position() -> None:
    """The message says after which position it is."""
    source = "[\n" + "0,\n" * 400_000 + '{"a":1,"a":2}]'
    message = refusal(source)
    assert message.startswith("after line 1250")
    assert message.endswith(': duplicate key "a"')
    assert refusal(source.replace('"a":2', '"b"')).startswith(
        "line 400002, column 11: expected ':'"
    )


def test_parse_of_large_text_runs_no_garbage_collection() -> None:
    """It would visit all values read so far, again and again."""
    collections = 0

    def count(phase: str, _: dict[str, int]) -> None:
        nonlocal collections
        collections += phase == "start"

    gc.callbacks.append(count)
    try:
        parse(b"[" + b"[]," * 200_000 + b"0]")
    finally:
        gc.callbacks.remove(count)
    assert collections <= 5  # some 300 otherwise


def test_parse_restores_the_garbage_collector() -> None:
    """Also if the text is refused."""
    large = b"[" + b"0," * 50_000 + b"0]"
    for enabled in (False, True):
        gc.enable() if enabled else gc.disable()
        try:
            parse(large)
            refusal(large[:-1])
            assert gc.isenabled() == enabled
        finally:
            gc.enable()


@pytest.mark.parametrize(
    ("steps", "path"),
    [
        ((), "$"),
        (("args", 2, "x"), "$.args[2].x"),
        (("files", "a b.txt"), '$.files["a b.txt"]'),
        (("env", ""), '$.env[""]'),
        (("a\n",), '$["a\\n"]'),
        (("é",), '$["é"]'),
        (("x" * 60,), "$." + "x" * 60),
        (("x" * 81,), '$["' + "x" * 78 + "…]"),
    ],
)
def test_path_to_quotes_keys_that_are_not_plain(steps: tuple[str | int, ...], path: str) -> None:
    """Plain keys follow a dot."""
    assert path_to(*steps) == path


@given(data | st.integers(10**70, 10**71) | st.text(min_size=50), st.lists(text, max_size=50))
def test_described_value_and_path_are_short_and_printable(value: object, keys: list[str]) -> None:
    """They appear in terminals and logs."""
    for shown_text, limit in ((describe_value(value), 80), (path_to(*keys), 160)):
        assert len(shown_text) <= limit
        assert shown_text.isprintable()


@pytest.mark.parametrize(
    ("value", "text_for_people"),
    [
        ([1], "an array with 1 element"),
        ((), "an array with 0 elements"),
        ({"a": 1, "b": 2}, "an object with 2 keys"),
        ("a\u202eb\x1b", '"a\\u202eb\\u001b"'),
        (None, "null"),
        (True, "true"),
        (1.0, "1.0"),
    ],
)
def test_describe_value_uses_terms_of_json(value: object, text_for_people: str) -> None:
    """Not those of Python."""
    assert describe_value(value) == text_for_people
