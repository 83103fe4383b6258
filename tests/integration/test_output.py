"""Output of functions: text that a WASI module prints during a call is delivered.

Output of commands is in test_wasi.py.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.support.compilers import c_module, rust_module
from tests.support.components import COMMAND
from tests.support.daemon import Daemon, drop
from tests.support.guests import running_in
from tests.support.outcomes import Run
from tests.support.wasi_programs import STREAMS

pytestmark = pytest.mark.usefixtures("no_fault")

#: Prints the digit of its argument to standard output, unless it is 0, and its fill to the other.
_PRINTS: Final = """
  (data (i32.const 80) "because\\n")
  (func $print (param $n i32)
    (i32.store8 (i32.const 64) (i32.add (i32.const 48) (local.get $n)))
    (if (local.get $n) (then (call $write (i32.const 1) (i32.const 64) (i32.const 1)))))
  (func $explain (call $write (i32.const 2) (i32.const 80) (i32.const 8)))
"""

#: By the function that is called: what follows the first digit, and the end of the job.
ENDS: Final[dict[str, tuple[str, str, int | None]]] = {
    "returns": ("", "ok", None),
    "traps": ("(unreachable)", "trap", None),
    "exits": ("(call $proc_exit (i32.const 3))", "exit", 3),
    "exits-with-0": ("(call $proc_exit (i32.const 0))", "exit", 0),
    "hangs": ("(loop (br 0))", "timeout", None),
    "prints-endlessly": ("(loop (call $explain) (br 0))", "output-limit", None),
}

_FUNCTIONS: Final = "".join(
    f'(func (export "{name}") (param i32) (result i32)'
    f" (call $print (local.get 0)) (call $explain) {body} (local.get 0))"
    for name, (body, _code, _exit_code) in ENDS.items()
)
_QUIET: Final = """(func (export "quiet") (param i32) (result i32)
  (call $print (local.get 0)) (local.get 0))"""

#: Enough calls to use every kind of process that serves a module.
_CALLS: Final = 6


@pytest.fixture(scope="module")
def daemon(guest: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one running daemon."""
    it = Daemon(tmp_path_factory.mktemp("output"))
    text = f"(module {STREAMS} {_PRINTS} {_FUNCTIONS} {_QUIET})"
    drop(it.wasm / "prints.wasm", bytes(wat2wasm(text)))
    silent = '(module (func (export "quiet") (param i32) (result i32) (local.get 0)))'
    drop(it.wasm / "silent.wasm", bytes(wat2wasm(silent)))
    component = COMMAND.replace("RESULT", "0").replace(
        "(component $cli",
        '(func (export "greet") (canon lift (core func $main "greet")))(component $cli',
    )
    core = """(func (export "greet")
      (call $write (call $get) (i32.const 64) (i32.const 6) (i32.const 128)))"""
    component = component.replace("(i32.const 0)))\n", f"(i32.const 0)) {core})\n", 1)
    drop(it.wasm / "component.wasm", bytes(wat2wasm(component)))
    with running_in(guest, it):
        yield it


@pytest.mark.parametrize("keys", [{}, {"env": {"A": "b"}}, {"deterministic": True}], ids=str)
@pytest.mark.parametrize("entry", ENDS)
def test_output_of_a_function_is_delivered_however_it_ends(
    daemon: Daemon, entry: str, keys: dict[str, Any]
) -> None:
    """Beside its results or its error, in its own process or in one that served others before."""
    _body, code, exit_code = ENDS[entry]
    for number in range(1, 4 if code == "timeout" else _CALLS):
        limits = {"timeout_sec": 0.5} if code == "timeout" else {"output_mb": 0.01}
        job = {"entry": entry, "args": [number], "id": str(keys), **limits, **keys}
        run = Run(daemon, f"prints-{entry}", "prints", **job)
        assert run.code == code, run.message
        assert list(run.result)[:3] == ["entry", "args", "results" if code == "ok" else "error"]
        assert run.result.get("results") == ([number] if code == "ok" else None)
        assert run.result.get("exit_code") == exit_code
        assert ("exit_code" in run.result) == (exit_code is not None)
        assert run.result["stdout"] == str(number)
        assert run.files[".stdout"] == str(number).encode()
        assert run.result["stderr"].startswith("because\n")
        if code == "output-limit":
            assert len(run.files[".stderr"] or b"") == 0.01 * 2**20 // 1 - 1
        else:
            assert run.files[".stderr"] == b"because\n"


def test_function_that_prints_nothing_has_no_output_file(daemon: Daemon) -> None:
    """Not even that of the previous job in its slot or its process."""
    for turn, number in enumerate((7, 0, 0, 8, 0)):
        run = Run(daemon, "quiet", "prints", entry="quiet", args=[number], id=str(turn))
        shown = str(number) if number else ""
        assert (run.result["stdout"], run.result["stderr"]) == (shown, "")
        assert run.files == {".stdout": shown.encode() or None, ".stderr": None}
        names = {f"result-quiet{suffix}" for suffix in (".json", ".txt")}
        assert set(run.marker["files"]) == names | ({"result-quiet.stdout"} if number else set())


def test_function_of_a_module_without_wasi_has_no_output_keys(daemon: Daemon) -> None:
    """Its result line has only its results."""
    for number in range(_CALLS):
        run = Run(daemon, "silent", "silent", args=[number], entry="quiet")
        assert list(run.result) == ["entry", "args", "results"]
        assert run.files == {".stdout": None, ".stderr": None}


def test_output_of_a_component_function_is_delivered(daemon: Daemon) -> None:
    """As that of a module."""
    for number in range(3):
        run = Run(daemon, "component", "component", entry="greet", id=str(number))
        assert run.code == "ok", run.message
        assert list(run.result) == ["entry", "args", "results", "stdout", "stderr"]
        assert run.files == {".stdout": b"hello\n", ".stderr": None}


def test_output_of_a_rust_panic_is_delivered(daemon: Daemon, tmp_path: Path) -> None:
    """Only the panic message explains the failure; the trap itself says ``unreachable``."""
    source = """#[no_mangle] pub extern "C" fn index(n: i32) -> i32 {
        let squares: Vec<i32> = (0..3).map(|n| n * n).collect(); squares[n as usize] }"""
    drop(daemon.wasm / "panics.wasm", rust_module(tmp_path, source))
    for number in (1, 2, 3, 4, 2, 5):
        run = Run(daemon, "panics", "panics", entry="index", args=[number])
        if number < 3:
            assert (run.code, run.result["results"]) == ("ok", [number**2])
            assert run.result["stderr"] == ""
        else:
            assert run.code == "trap"
            assert f"the len is 3 but the index is {number}" in run.result["stderr"]


def test_output_of_a_c_reactor_is_delivered(daemon: Daemon, tmp_path: Path) -> None:
    """Both streams, of a function that returns and of one that aborts."""
    source = """#include <stdio.h>\n#include <stdlib.h>
      __attribute__((export_name("greet"))) int greet(int n) {
        printf("row %d\\n", n); fflush(stdout);
        if (n > 2) { fprintf(stderr, "no such row: %d\\n", n); abort(); }
        return n; }"""
    drop(daemon.wasm / "rows.wasm", c_module(tmp_path, source))
    for number in range(1, _CALLS):
        run = Run(daemon, "rows", "rows", entry="greet", args=[number])
        assert run.code == ("ok" if number < 3 else "trap"), run.message
        assert run.result["stdout"] == f"row {number}\n"
        assert run.result["stderr"] == ("" if number < 3 else f"no such row: {number}\n")
