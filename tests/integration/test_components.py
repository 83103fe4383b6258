"""Components: every type in and out, refusals with their place, commands, and their limits."""

import base64
from collections.abc import Iterator
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.support.components import COMMAND, ECHOES, EVERYTHING, NAMED
from tests.support.daemon import Daemon, drop
from tests.support.outcomes import Run

pytestmark = pytest.mark.usefixtures("no_fault")

MODULES: Final = {
    "everything": EVERYTHING,
    "hello": COMMAND.replace("RESULT", "0"),
    "fails": COMMAND.replace("RESULT", "1"),
    "unlinkable": """(component
      (import "no:such/thing@1.0.0" (instance $n (export "f" (func))))
      (core func $lowered (canon lower (func $n "f")))
      (func (export "run") (canon lift (core func $lowered))))""",
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one running daemon with all components."""
    it = Daemon(tmp_path_factory.mktemp("components"))
    for name, text in MODULES.items():
        drop(it.wasm / f"{name}.wasm", bytes(wat2wasm(text)))
    with it.running():
        yield it


@pytest.mark.parametrize("name", [*ECHOES, *NAMED])
def test_component_value_of_every_type_goes_in_and_comes_out(daemon: Daemon, name: str) -> None:
    """A real component returns its argument."""
    entry = f"a:b/shapes@1.0.0#echo-{name}" if name in NAMED else f"echo-{name}"
    _form, values = (ECHOES | NAMED)[name]
    run = Run(daemon, f"echo-{name}", "everything", entry=entry, args=[values])
    assert run.code == "ok", run.message
    assert run.result == {"entry": entry, "args": [values], "results": [values]}


def test_component_bytes_given_as_base64_come_back_as_an_array(daemon: Daemon) -> None:
    """And go as an array."""
    data = bytes(range(256))
    given = [{"base64": base64.b64encode(data).decode()}]
    run = Run(daemon, "base64", "everything", entry="echo-list-of-bytes", args=[given])
    assert run.result["results"] == [[list(data)]]


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        ("echo-u32", [1, -1], "args[0][1]: expected u32 (0 to 4294967295), got -1"),
        ("echo-s8", [128], "args[0][0]: expected s8 (-128 to 127), got 128"),
        ("echo-u16", [True], "args[0][0]: expected u16 (0 to 65535), got true"),
        ("echo-bool", [0], "args[0][0]: expected bool (true or false), got 0"),
        ("echo-char", ["ab"], "args[0][0]: expected char (a string of one character)"),
        ("echo-string", [None], "args[0][0]: expected string, got null"),
        ("echo-f32", [1e39], "args[0][0]: expected f32"),
        ("echo-tuple", [[1]], "args[0][0]: expected tuple<u8, string> (an array of 2)"),
        ("echo-tuple", [[1, 2]], "args[0][0][1]: expected string, got 2"),
        ("echo-result", [{}], 'args[0][0]: expected result<string, u8> ({"ok": …} or'),
        ("echo-result", [{"ok": 1}], "args[0][0].ok: expected string, got 1"),
        ("echo-option-of-option", [7], 'args[0][0]: expected option<option<u32>> (null or {"some"'),
        ("echo-list-of-bytes", [{}], "args[0]: expected list<list<u8>> (an array)"),
        ("echo-list-of-bytes", [[256]], "args[0][0][0]: expected u8 (0 to 255), got 256"),
        ("echo-record", [{"x": 1}], "args[0][0]: the field a-b is missing; the fields are x, a-b"),
        ("echo-record", [{"x": 1, "a-b": "", "y": 1}], 'args[0][0]: unknown field "y"'),
        ("echo-record", [{"x": "1", "a-b": ""}], "args[0][0].x: expected f64"),
        ("echo-variant", ["square"], "args[0][0]: expected one of the cases dot, circle, label"),
        (
            "echo-variant",
            ["circle"],
            'args[0][0]: expected {"circle": …}, because this case has a payload of',
        ),
        (
            "echo-variant",
            [{"dot": 1}],
            'args[0][0]: expected "dot", because this case has no payload',
        ),
        ("echo-enum", ["blue"], "args[0][0]: expected one of red, dark-green, got"),
        ("echo-flags", [["read", "read"]], "args[0][0][1]: read is given twice"),
    ],
)
def test_component_value_of_the_wrong_type_is_refused_with_its_path(
    daemon: Daemon, entry: str, value: Any, words: str
) -> None:
    """Before the call, with what was expected and what was given."""
    if entry.removeprefix("echo-") in NAMED:
        entry = f"a:b/shapes@1.0.0#{entry}"
    if entry == "echo-list-of-bytes" and value == [{}]:
        value = {}
    run = Run(daemon, "misfit", "everything", entry=entry, args=[value])
    assert run.code == "invalid-args"
    assert words in run.message


def test_component_call_with_a_wrong_number_of_arguments_names_them(daemon: Daemon) -> None:
    """As WIT writes them."""
    run = Run(daemon, "number", "everything", entry="echo-u32", args=[])
    assert run.code == "invalid-args"
    assert run.message == "expected 1 arguments (items: list<u32>), got 0"


def test_component_function_with_a_resource_is_an_unsupported_signature(daemon: Daemon) -> None:
    """The message names the resource."""
    run = Run(daemon, "resource", "everything", entry="make")
    assert run.code == "unsupported-signature"
    assert run.message == "the result: JSON can't represent a resource"


def test_component_without_the_entry_lists_its_functions(daemon: Daemon) -> None:
    """Those of interfaces have their full names."""
    run = Run(daemon, "missing", "everything", entry="shapes#echo-enum")
    assert run.code == "entry-not-found"
    assert '"a:b/shapes@1.0.0#echo-enum"' in run.message


@pytest.mark.parametrize(
    ("entry", "keys", "code", "words"),
    [
        ("trap", {}, "trap", "unreachable"),
        ("endless", {"timeout_sec": 0.3}, "timeout", "0.3 s"),
        ("endless", {"fuel": 10_000}, "fuel-limit", "fuel"),
        ("many", {"args": [2_000_000], "output_mb": 1}, "output-limit", "1048576"),
    ],
)
def test_component_has_the_limits_of_any_module(
    daemon: Daemon, entry: str, keys: dict[str, Any], code: str, words: str
) -> None:
    """Time, fuel, results; a trap is reported by its name."""
    run = Run(daemon, f"limit-{code}", "everything", entry=entry, **keys)
    assert run.code == code
    assert words in run.message


def test_component_result_that_is_large_comes_whole(daemon: Daemon) -> None:
    """It is larger than any result of a core module."""
    run = Run(daemon, "large", "everything", entry="many", args=[1_000_000])
    assert len(run.result["results"][0]) == 1_000_000


def test_component_with_an_unknown_import_is_a_link_error(daemon: Daemon) -> None:
    """The message names the import."""
    run = Run(daemon, "unlinkable", "unlinkable")
    assert run.code == "link-error"
    assert "no:such/thing@1.0.0" in run.message


@pytest.mark.parametrize(("program", "exit_code"), [("hello", 0), ("fails", 1)])
def test_component_command_of_wasi_0_2_runs(daemon: Daemon, program: str, exit_code: int) -> None:
    """Its output is captured, its exit code reported, and it needs no entry."""
    run = Run(daemon, program, program, args=["x"])
    assert run.code == ("exit" if exit_code else "ok"), run.message
    assert run.result["entry"] == "wasi:cli/run@0.2.0#run"
    assert run.result["exit_code"] == exit_code
    assert run.files == {".stdout": b"hello\n", ".stderr": b""}
