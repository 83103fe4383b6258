"""Values from an input's arguments through a guest to the results, bit for bit."""

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop
from tests.support.guests import running_in

#: Functions that return their arguments; the two last ones return and take bits of floats.
ECHO: Final = f"""(module
{
    "".join(
        f'(func (export "{kind}") (param {kind}) (result {kind}) (local.get 0))'
        for kind in ("i32", "i64", "f32", "f64")
    )
}
(func (export "bits32") (param f32) (result i32) (i32.reinterpret_f32 (local.get 0)))
(func (export "bits64") (param f64) (result i64) (i64.reinterpret_f64 (local.get 0)))
(func (export "float32") (param i32) (result f32) (f32.reinterpret_i32 (local.get 0)))
(func (export "float64") (param i64) (result f64) (f64.reinterpret_i64 (local.get 0)))
(func (export "signed") (param i32) (result i64) (i64.extend_i32_s (local.get 0)))
(func (export "none"))
(func (export "four") (param i32 i64 f32 f64) (result f64 f32 i64 i32)
  (local.get 3) (local.get 2) (local.get 1) (local.get 0))
)"""


@pytest.fixture(scope="module")
def daemon(guest: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one running daemon whose default module returns its arguments."""
    it = Daemon(tmp_path_factory.mktemp("values"))
    drop(it.wasm / "module.wasm", bytes(wat2wasm(ECHO)))
    with running_in(guest, it):
        yield it


def call(daemon: Daemon, entry: str, args: str) -> dict[str, Any]:
    """Call ``entry`` with arguments in JSON text; return the results or the error."""
    daemon.submit("input.json", f'{{"entry":"{entry}","args":{args}}}')
    result = daemon.result("input.json")
    assert isinstance(result, dict)
    return result


SAME: Final = None

VALUES: Final[list[tuple[str, str, str | None]]] = [
    ("i32", "0", SAME),
    ("i32", "4294967295", SAME),
    ("i32", "-1", "4294967295"),
    ("i32", "-2147483648", "2147483648"),
    ("i32", '"12"', "12"),
    ("i32", '"-12"', "4294967284"),
    ("i64", "18446744073709551615", SAME),
    ("i64", "-9223372036854775808", "9223372036854775808"),
    ("i64", '"18446744073709551615"', "18446744073709551615"),
    ("i64", "9007199254740993", SAME),
    ("f32", "0.1", SAME),
    ("f32", "-0.0", SAME),
    ("f32", "16777216", "16777216.0"),
    ("f32", "3.4028235e38", "3.4028235e+38"),
    ("f32", "1e-45", SAME),
    # A shorter text would be wrong for readers that parse an f64 first: it lies midway there.
    ("f32", "7.038531e-26", "7.0385307e-26"),
    ("f32", "1e-60", "0.0"),
    ("f64", "0.1", SAME),
    ("f64", "-0.0", SAME),
    ("f64", "5e-324", SAME),
    ("f64", "1.7976931348623157e308", "1.7976931348623157e+308"),
    ("f64", "12", "12.0"),
    ("f64", '"NaN"', SAME),
    ("f64", '"Infinity"', SAME),
    ("f64", '"-Infinity"', SAME),
    ("f64", '"-nan:0x8000000000000"', SAME),
    ("f64", '"nan:0x1"', SAME),
    ("f32", '"nan:0x1"', SAME),
    ("f32", '"nan:0x200001"', SAME),
    ("f32", '"-nan:0x400000"', SAME),
    ("f32", '"nan:0x400000"', '"NaN"'),
    ("bits32", '"nan:0x1"', str(0x7F800001)),
    ("bits32", '"NaN"', str(0x7FC00000)),
    ("bits32", "-0.0", str(1 << 31)),
    ("bits64", '"-Infinity"', str(0xFFF0000000000000)),
    ("bits64", '"-nan:0x1"', str(0xFFF0000000000001)),
    ("float32", "2139095041", '"nan:0x1"'),
    ("float32", "4286578688", '"-Infinity"'),
    ("float64", "1", "5e-324"),
    ("signed", "4294967295", "18446744073709551615"),
]


@pytest.mark.parametrize(("entry", "argument", "expected"), VALUES)
def test_value_comes_back_exactly(
    daemon: Daemon, entry: str, argument: str, expected: str | None
) -> None:
    """As the table of values says, to the text in the result line."""
    call(daemon, entry, f"[{argument}]")
    expected = expected or argument
    line = daemon.result_path("input.json", ".json").read_text()
    assert line.endswith(f',"results":[{expected}]}}\n')
    raw_value = daemon.result_path("input.json", ".txt").read_text().splitlines()[-1]
    assert raw_value == expected.strip('"')


REFUSED: Final[list[tuple[str, str, str]]] = [
    ("i32", "[4294967296]", "args[0]: expected i32 (-2147483648 to 4294967295), got 4294967296"),
    ("i32", "[-2147483649]", "args[0]: expected i32"),
    ("i32", "[1.0]", "got 1.0"),
    ("i32", "[1e3]", "got 1000.0"),
    ("i32", "[true]", "got true"),
    ("i32", "[null]", "got null"),
    ("i32", '["0x10"]', 'got "0x10"'),
    ("i32", '[" 1"]', 'got " 1"'),
    ("i32", '["1_0"]', 'got "1_0"'),
    ("i32", '["٣"]', "expected i32"),
    ("i32", "[[1]]", "got an array"),
    ("i64", "[18446744073709551616]", "args[0]: expected i64"),
    ("i64", "[-9223372036854775809]", "args[0]: expected i64"),
    ("i64", f"[{'9' * 4300}]", "got an integer of"),
    ("f32", "[16777217]", "an integer that f32 holds exactly"),
    ("f32", "[3.5e38]", "args[0]: expected f32"),
    ("f32", '["nan:0x800000"]', "the bits of a NaN are 0x1 to 0x7fffff"),
    ("f32", '["nan:0x0"]', "the bits of a NaN"),
    ("f32", '["1.5"]', "args[0]: expected f32"),
    ("f64", "[9007199254740993]", "an integer that f64 holds exactly"),
    ("f64", f"[1{'0' * 400}]", "args[0]: expected f64"),
    ("f64", '["inf"]', 'got "inf"'),
    ("f64", "[false]", "got false"),
    ("i32", "[]", "expected 1 argument (i32), got 0"),
    ("i32", "[1,2]", "expected 1 argument (i32), got 2"),
    ("none", "[1]", "expected no arguments, got 1"),
    ("four", "[1,2,3]", "expected 4 arguments (i32, i64, f32, f64), got 3"),
    ("four", "[1,2,3,{}]", "args[3]: expected f64"),
]


@pytest.mark.parametrize(("entry", "args", "words"), REFUSED)
def test_value_that_does_not_fit_is_refused(
    daemon: Daemon, entry: str, args: str, words: str
) -> None:
    """Nothing wraps, rounds or truncates: the message says where, what and why."""
    result = call(daemon, entry, args)
    assert result["error"]["code"] == "invalid-args"
    assert words in result["error"]["message"]
    assert result["args"] == json.loads(args)
    raw_value = daemon.result_path("input.json", ".txt").read_text().splitlines()[-1]
    assert raw_value == "error"


def test_results_of_several_values_keep_their_order(daemon: Daemon) -> None:
    """And make a compact list as the raw value."""
    result = call(daemon, "four", '[-1,"-1",0.1,"NaN"]')
    assert result["results"] == ["NaN", 0.1, 2**64 - 1, 2**32 - 1]
    text = daemon.result_path("input.json", ".txt").read_text().splitlines()
    assert text[-1] == '["NaN",0.1,18446744073709551615,4294967295]'


def test_results_without_a_value_are_an_empty_list(daemon: Daemon) -> None:
    """Also as the raw value."""
    assert call(daemon, "none", "[]")["results"] == []
    text = daemon.result_path("input.json", ".txt").read_text().splitlines()
    assert text[-1] == "[]"
