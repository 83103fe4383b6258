"""Components: every type in and out, what is refused and where, commands, and their limits."""

import base64
from collections.abc import Iterator
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.integration.test_bad_input import faults
from tests.integration.test_wasi import Run
from tests.support.daemon import Daemon, drop

#: A core module whose function hands any list back as it came, and what that takes.
CORE: Final = """
(core module $core
  (memory (export "memory") 1)
  (global $top (mut i32) (i32.const 1024))
  (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
    (global.set $top (i32.add (local.get $at) (local.get 3)))
    (block $enough (br_if $enough (i32.le_u (global.get $top)
        (i32.mul (memory.size) (i32.const 65536))))
      (drop (memory.grow (i32.const 256))))
    (local.get $at))
  (func (export "echo") (param i32 i32) (result i32)
    (i32.store (i32.const 8) (local.get 0)) (i32.store (i32.const 12) (local.get 1))
    (i32.const 8))
  (func (export "endless") (loop (br 0)))
  (func (export "trap") (unreachable))
  (func (export "many") (param i32) (result i32)
    (drop (memory.grow (i32.const 64)))
    (i32.store (i32.const 8) (i32.const 1024)) (i32.store (i32.const 12) (local.get 0))
    (i32.const 8)))
(core instance $i (instantiate $core))
(alias core export $i "memory" (core memory $memory))
(alias core export $i "realloc" (core func $realloc))
"""

#: By the name of its echo function: a type, and values that go in; those that come out otherwise
#: follow.
ECHOES: Final[dict[str, tuple[str, list[Any]]]] = {
    "bool": ("bool", [True, False]),
    "s8": ("s8", [-128, 127]),
    "u8-in-tuple": ("(tuple u8)", [[0], [255]]),
    "s16": ("s16", [-32768, 32767]),
    "u16": ("u16", [0, 65535]),
    "s32": ("s32", [-(2**31), 2**31 - 1]),
    "u32": ("u32", [0, 2**32 - 1]),
    "s64": ("s64", [-(2**63), 2**63 - 1]),
    "u64": ("u64", [0, 2**64 - 1]),
    "f32": ("float32", [0.1, -0.0, "NaN", "-Infinity", 3.4028235e38]),
    "f64": ("float64", [0.1, 5e-324, "NaN", "Infinity"]),
    "char": ("char", ["a", "é", "💧", "\0"]),
    "string": ("string", ["", "héllo\n", "\0"]),
    "option": ("(option u32)", [None, 7]),
    "option-of-option": ("(option (option u32))", [None, {"some": None}, {"some": 7}]),
    "result": ("(result string (error u8))", [{"ok": "x"}, {"err": 3}]),
    "bare-result": ("(result)", [{"ok": None}, {"err": None}]),
    "result-of-error": ("(result (error string))", [{"ok": None}, {"err": "no"}]),
    "tuple": ("(tuple u8 string)", [[1, "a"], [2, ""]]),
    "list": ("(list s16)", [[], [1, -1]]),
    "list-of-bytes": ("(list u8)", [[], [0, 255]]),
    "option-of-list": ("(option (list string))", [None, [], ["a"]]),
}

#: The same for types that must have a name.
NAMED: Final[dict[str, tuple[str, list[Any]]]] = {
    "record": ('(record (field "x" float64) (field "a-b" string))', [{"x": 1.5, "a-b": "p"}]),
    "variant": (
        '(variant (case "dot") (case "circle" float64) (case "label" string))',
        ["dot", {"circle": 2.5}, {"label": "dot"}],
    ),
    "enum": ('(enum "red" "dark-green")', ["red", "dark-green"]),
    "flags": ('(flags "read" "write" "exec")', [[], ["write"], ["read", "exec"]]),
}


def _echo(name: str, form: str) -> str:
    return (
        f'(func $echo-{name} (param "items" (list {form})) (result (list {form}))'
        ' (canon lift (core func $i "echo") (memory $memory) (realloc $realloc)))'
        f'(export "echo-{name}" (func $echo-{name}))'
    )


def _interface() -> str:
    types = "".join(f"(type $t-{name} {form})" for name, (form, _values) in NAMED.items())
    imports = "".join(
        f'(import "{name}" (type $n-{name} (eq $t-{name})))'
        f'(import "echo-{name}" (func $f-{name} (param "items" (list $n-{name}))'
        f" (result (list $n-{name}))))"
        f'(export $e-{name} "{name}" (type $n-{name}))'
        f'(export "echo-{name}" (func $f-{name}) (func (param "items" (list $e-{name}))'
        f" (result (list $e-{name}))))"
        for name in NAMED
    )
    functions = "".join(
        f'(func $echo-{name} (param "items" (list $t-{name})) (result (list $t-{name}))'
        ' (canon lift (core func $i "echo") (memory $memory) (realloc $realloc)))'
        for name in NAMED
    )
    given = "".join(
        f'(with "{name}" (type $t-{name})) (with "echo-{name}" (func $echo-{name}))'
        for name in NAMED
    )
    return (
        f"{types}{functions}(component $shapes {types}{imports})"
        f'(instance $shapes (instantiate $shapes {given})) (export "a:b/shapes@1.0.0" '
        "(instance $shapes))"
    )


EVERYTHING: Final = f"""(component {CORE}
  {"".join(_echo(name, form) for name, (form, _values) in ECHOES.items())}
  {_interface()}
  (func (export "endless") (canon lift (core func $i "endless")))
  (func (export "trap") (canon lift (core func $i "trap")))
  (func (export "many") (param "count" u32) (result string)
    (canon lift (core func $i "many") (memory $memory)))
  (type $handle' (resource (rep i32)))
  (export $handle "handle" (type $handle'))
  (core func $new (canon resource.new $handle'))
  (core module $made (import "" "new" (func $new (param i32) (result i32)))
    (func (export "make") (result i32) (call $new (i32.const 1))))
  (core instance $made (instantiate $made (with "" (instance (export "new" (func $new))))))
  (func (export "make") (result (own $handle)) (canon lift (core func $made "make")))
)"""

#: A command that prints its name by WASI 0.2, and ends with what ``RESULT`` is: 0 ok, 1 err.
COMMAND: Final = """(component
  (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $error-type))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $stream (sub resource)))
    (alias outer 1 $error-type (type $outer-error))
    (export "error" (type $error (eq $outer-error)))
    (type $failure (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $failure)))
    (export "[method]output-stream.blocking-write-and-flush" (func (param "self" (borrow $stream))
      (param "contents" (list u8)) (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $stream))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $stream (type $outer-stream))
    (export "output-stream" (type $own (eq $outer-stream)))
    (export "get-stdout" (func (result (own $own))))))
  (core module $memory (memory (export "memory") 1))
  (core instance $memory (instantiate $memory))
  (alias core export $memory "memory" (core memory $mem))
  (core func $get (canon lower (func $stdout "get-stdout")))
  (core func $write (canon lower
    (func $streams "[method]output-stream.blocking-write-and-flush") (memory $mem)))
  (core module $main
    (import "host" "memory" (memory 1))
    (import "host" "get" (func $get (result i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (data (i32.const 64) "hello\\n")
    (func (export "run") (result i32)
      (call $write (call $get) (i32.const 64) (i32.const 6) (i32.const 128))
      (i32.const RESULT)))
  (core instance $main (instantiate $main (with "host" (instance
    (export "memory" (memory $mem)) (export "get" (func $get)) (export "write" (func $write))))))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (component $cli (import "run" (func $run (result (result)))) (export "run" (func $run)))
  (instance $cli (instantiate $cli (with "run" (func $run))))
  (export "wasi:cli/run@0.2.0" (instance $cli))
)"""

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


@pytest.fixture(autouse=True)
def _no_fault(daemon: Daemon) -> Iterator[None]:
    """Check that no case makes the daemon log a fault of its own."""
    before = len(faults(daemon))
    yield
    assert faults(daemon)[before:] == []


@pytest.mark.parametrize("name", [*ECHOES, *NAMED])
def test_every_type_goes_in_and_comes_out(daemon: Daemon, name: str) -> None:
    """Through a real component, which hands back what it was given."""
    entry = f"a:b/shapes@1.0.0#echo-{name}" if name in NAMED else f"echo-{name}"
    _form, values = (ECHOES | NAMED)[name]
    run = Run(daemon, f"echo-{name}", "everything", entry=entry, args=[values])
    assert run.code == "ok", run.message
    assert run.result == {"entry": entry, "args": [values], "results": [values]}


def test_bytes_may_come_as_base64(daemon: Daemon) -> None:
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
        ("echo-record", [{"x": 1, "a-b": "", "y": 1}], "args[0][0]: unknown field 'y'"),
        ("echo-record", [{"x": "1", "a-b": ""}], "args[0][0].x: expected f64"),
        ("echo-variant", ["square"], "args[0][0]: expected one of the cases dot, circle, label"),
        ("echo-variant", ["circle"], 'args[0][0]: expected {"circle": …}, as this case carries'),
        ("echo-variant", [{"dot": 1}], 'args[0][0]: expected "dot", as this case carries nothing'),
        ("echo-enum", ["blue"], "args[0][0]: expected one of red, dark-green, got"),
        ("echo-flags", [["read", "read"]], "args[0][0][1]: read is given twice"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_path(
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


def test_a_wrong_number_of_arguments_is_refused_with_their_names(daemon: Daemon) -> None:
    """As WIT writes them."""
    run = Run(daemon, "number", "everything", entry="echo-u32", args=[])
    assert run.code == "invalid-args"
    assert run.message == "expected 1 arguments (items: list<u32>), got 0"


def test_a_resource_is_an_unsupported_signature(daemon: Daemon) -> None:
    """And is named."""
    run = Run(daemon, "resource", "everything", entry="make")
    assert run.code == "unsupported-signature"
    assert run.message == "the result: JSON can't carry a resource"


def test_a_missing_function_is_refused_with_those_that_there_are(daemon: Daemon) -> None:
    """Those of interfaces by their whole names."""
    run = Run(daemon, "missing", "everything", entry="shapes#echo-enum")
    assert run.code == "entry-not-found"
    assert "'a:b/shapes@1.0.0#echo-enum'" in run.message


@pytest.mark.parametrize(
    ("entry", "keys", "code", "words"),
    [
        ("trap", {}, "trap", "unreachable"),
        ("endless", {"timeout_sec": 0.3}, "timeout", "0.3 s"),
        ("endless", {"fuel": 10_000}, "fuel-limit", "fuel"),
        ("many", {"args": [2_000_000], "output_mb": 1}, "output-limit", "1048576"),
    ],
)
def test_a_component_has_the_limits_of_any_module(
    daemon: Daemon, entry: str, keys: dict[str, Any], code: str, words: str
) -> None:
    """Time, fuel, results; and a trap is told by its name."""
    run = Run(daemon, f"limit-{code}", "everything", entry=entry, **keys)
    assert run.code == code
    assert words in run.message


def test_a_large_result_comes_whole(daemon: Daemon) -> None:
    """Larger than what a core module's results could ever be."""
    run = Run(daemon, "large", "everything", entry="many", args=[1_000_000])
    assert len(run.result["results"][0]) == 1_000_000


def test_an_import_that_nobody_provides_is_a_link_error(daemon: Daemon) -> None:
    """It is named."""
    run = Run(daemon, "unlinkable", "unlinkable")
    assert run.code == "link-error"
    assert "no:such/thing@1.0.0" in run.message


@pytest.mark.parametrize(("program", "exit_code"), [("hello", 0), ("fails", 1)])
def test_a_command_of_wasi_0_2_runs(daemon: Daemon, program: str, exit_code: int) -> None:
    """With its output captured, its exit code, and no entry given."""
    run = Run(daemon, program, program, args=["x"])
    assert run.code == ("exit" if exit_code else "ok"), run.message
    assert run.result["entry"] == "wasi:cli/run@0.2.0#run"
    assert run.result["exit_code"] == exit_code
    assert run.files == {".stdout": b"hello\n", ".stderr": b""}
