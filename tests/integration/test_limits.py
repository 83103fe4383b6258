"""Messages of limits: which limit it was, its value, and the setting."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.support.compilers import c_module, rust_module
from tests.support.daemon import Daemon, drop
from tests.support.guests import running_in
from tests.support.outcomes import Run
from tests.support.wasi_programs import STREAMS

pytestmark = pytest.mark.usefixtures("no_fault")

_MEMORY_MB: Final = 64
_LIMITS: Final = {"memory_mb": _MEMORY_MB, "timeout_sec": 15}
_GIVEN: Final = f"(limit: {_MEMORY_MB} MiB; memory_mb in the input, at most WASMDROP_MEMORY_MB"

#: Enough calls to use every kind of process that serves a module.
_CALLS: Final = 4


@pytest.fixture(scope="module")
def daemon(guest: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one running daemon."""
    directory = tmp_path_factory.mktemp("limits")
    it = Daemon(
        directory,
        WASMDROP_COMPILE_SEC="300",
        WASMDROP_MAX_MODULE_MB="16",
    )
    with running_in(guest, it):
        yield it


def runs(daemon: Daemon, name: str, module: bytes | str, **keys: Any) -> Iterator[Run]:
    """Run a module often enough for each kind of process to serve it."""
    content = bytes(wat2wasm(module)) if isinstance(module, str) else module
    drop(daemon.wasm / f"{name}.wasm", content)
    for number in range(_CALLS):
        yield Run(daemon, name, name, **{**_LIMITS, "id": str(number), **keys})


#: Modules that fail for lack of memory, and two parts of the message.
REFUSED: Final[dict[str, tuple[str, str, str]]] = {
    "in-one-step": (
        (
            '(module (memory 1) (func (export "run")'
            " (if (i32.eq (memory.grow (i32.const 5000)) (i32.const -1)) (then (unreachable)))))"
        ),
        "a memory was refused growth to 312.6 MiB",
        "unreachable",
    ),
    "step-by-step": (
        (
            '(module (memory (export "memory") 1) (func (export "run")'
            " (loop (br_if 0 (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))"
            " (i32.store (i32.mul (memory.size) (i32.const 65536)) (i32.const 1))))"
        ),
        "a memory was refused growth to 64.1 MiB",
        "memory out of bounds",
    ),
    "wide-memory": (
        (
            '(module (memory i64 1) (func (export "run")'
            " (if (i64.eq (memory.grow (i64.const 2000)) (i64.const -1)) (then (unreachable)))))"
        ),
        "a memory was refused growth to 125.1 MiB",
        "unreachable",
    ),
    "one-of-two-memories": (
        (
            '(module (memory $m 1) (memory $n 1) (func (export "run")'
            " (if (i32.eq (memory.grow $n (i32.const 800)) (i32.const -1)) (then (unreachable)))))"
        ),
        "a memory was refused growth to 50.1 MiB (its share is 32.0 MiB)",
        "unreachable",
    ),
    "table": (
        (
            '(module (table $t 1 funcref) (func (export "run") (if (i32.eq (i32.const -1)'
            " (table.grow $t (ref.null func) (i32.const 99999999))) (then (unreachable)))))"
        ),
        "a table was refused growth to 100000000 elements (its share is 4194304)",
        "unreachable",
    ),
    "array": (
        (
            '(module (type $a (array (mut i8))) (func (export "run")'
            " (drop (array.new $a (i32.const 1) (i32.const 500000000)))))"
        ),
        "GC heap out of memory",
        "500000028 bytes",
    ),
    "structs": (
        (
            "(module (type $s (struct (field (ref null $s)) (field i64)))"
            ' (global $g (mut (ref null $s)) (ref.null $s)) (func (export "run")'
            " (loop (global.set $g (struct.new $s (global.get $g) (i64.const 1))) (br 0))))"
        ),
        "GC heap out of memory",
        "allocation of 40 bytes",
    ),
    "function-that-exits": (
        (
            f'(module {STREAMS} (func (export "run")'
            " (if (i32.eq (memory.grow (i32.const 5000)) (i32.const -1))"
            " (then (call $proc_exit (i32.const 7))))))"
        ),
        "a memory was refused growth to 312.8 MiB",
        "exited with code 7",
    ),
    "command-that-exits": (
        (
            f'(module {STREAMS} (func (export "_start")'
            " (if (i32.eq (memory.grow (i32.const 5000)) (i32.const -1))"
            " (then (call $proc_exit (i32.const 2))))))"
        ),
        "a memory was refused growth to 312.8 MiB",
        "exited with code 2",
    ),
    "full-component": (
        """(component
          (core module $m (memory (export "m") 1) (func (export "run")
            (loop (br_if 0 (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)))
          (core instance $i (instantiate $m))
          (func (export "run") (canon lift (core func $i "run"))))""",
        "a memory had grown to 63.1 MiB of at most 64.0 MiB",
        "unreachable",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_failure_after_refused_growth_is_a_memory_limit(daemon: Daemon, name: str) -> None:
    """The message says what was refused, how the program ended, and the limit in its first line."""
    text, refused, end = REFUSED[name]
    for run in runs(daemon, f"refused-{name}", text):
        assert run.code == "memory-limit", run.message
        first = run.message.partition("\n")[0]
        for words in (refused, end, _GIVEN):
            assert words in first
        assert run.result["error"] == {"code": run.code, "message": run.message}


def test_exit_code_is_kept_beside_the_memory_limit(daemon: Daemon) -> None:
    """What the program said of itself is not lost."""
    for run in runs(daemon, "exits", REFUSED["command-that-exits"][0]):
        assert (run.code, run.result["exit_code"], run.raw_value) == ("memory-limit", 2, "2")


#: Modules that end for another reason, though they were refused growth or use much.
OTHERS: Final[dict[str, tuple[str, str, str]]] = {
    "survives": (
        ('(module (memory 1) (func (export "run") (result i32) (memory.grow (i32.const 5000))))'),
        "ok",
        "",
    ),
    "survives-as-a-command": (
        f'(module {STREAMS} (func (export "_start") (drop (memory.grow (i32.const 5000)))))',
        "ok",
        "",
    ),
    "own-maximum": (
        (
            '(module (memory 1 4) (func (export "run")'
            " (drop (memory.grow (i32.const 4))) (unreachable)))"
        ),
        "trap",
        "past the maximum that the module declares",
    ),
    "own-maximum-of-a-table": (
        (
            '(module (table $t 1 4 funcref) (func (export "run")'
            " (drop (table.grow $t (ref.null func) (i32.const 4))) (unreachable)))"
        ),
        "trap",
        "past the maximum that the module declares",
    ),
    "granted": (
        (
            '(module (memory 1) (func (export "run")'
            " (drop (memory.grow (i32.const 900))) (unreachable)))"
        ),
        "trap",
        "unreachable\n",
    ),
    "exits-with-0": (
        (
            f'(module {STREAMS} (func (export "_start")'
            " (drop (memory.grow (i32.const 5000))) (call $proc_exit (i32.const 0))))"
        ),
        "ok",
        "",
    ),
    "function-that-exits-with-0": (
        (
            f'(module {STREAMS} (func (export "run")'
            " (drop (memory.grow (i32.const 5000))) (call $proc_exit (i32.const 0))))"
        ),
        "exit",
        "exited with code 0",
    ),
    "half-full-component": (
        """(component
          (core module $m (memory (export "m") 640) (func (export "run") (unreachable)))
          (core instance $i (instantiate $m))
          (func (export "run") (canon lift (core func $i "run"))))""",
        "trap",
        "a memory had grown to 40.0 MiB of at most 64.0 MiB, and then the program ended",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_failure_for_other_reasons_is_no_memory_limit(daemon: Daemon, name: str) -> None:
    """A program may ask for too much and go on, and its own maximum is not the job's."""
    text, code, words = OTHERS[name]
    for run in runs(daemon, f"other-{name}", text):
        assert run.code == code, run.message
        assert words in run.message
        assert "memory_mb" not in run.message


def test_program_of_a_compiler_that_wants_too_much_memory_ends_as_memory_limit(
    daemon: Daemon, tmp_path: Path
) -> None:
    """Rust aborts; C gets NULL and decides itself."""
    rust = """#[no_mangle] pub extern "C" fn run(n: i32) -> i32 {
        let v = vec![1u8; n as usize]; v[(n / 2) as usize] as i32 }"""
    c_source = """#include <stdlib.h>
      __attribute__((export_name("run"))) int run(int n) {
        char *p = malloc(n); if (!p) abort(); p[n / 2] = 1; return p[n / 2]; }"""
    modules = {
        "rust-vec": rust_module(tmp_path / "rust", rust),
        "c-abort": c_module(tmp_path / "c", c_source, "-fno-builtin"),
    }
    for name, module in modules.items():
        for run in runs(daemon, name, module, args=[600_000_000]):
            assert run.code == "memory-limit", run.message
            assert "a memory was refused growth to 57" in run.message
            assert _GIVEN in run.message
        for run in runs(daemon, name, module, args=[1_000_000]):
            assert (run.code, run.result["results"]) == ("ok", [1])
        if name == "rust-vec":
            run = Run(daemon, name, name, args=[600_000_000])
            assert run.result["stderr"] == "memory allocation of 600000000 bytes failed\n"


@pytest.mark.parametrize(
    ("memory", "memory_bytes"),
    [("", 0), ('(memory (export "m") 160)', 160 << 16), ("(memory 160)", 160 << 16)],
    ids=["alone", "beside-an-exported-memory", "beside-a-hidden-memory"],
)
def test_gc_heap_counts_in_the_peak_of_memory(
    daemon: Daemon, memory: str, memory_bytes: int
) -> None:
    """Together with linear memory, and within the limit."""
    text = f"""(module (type $a (array (mut i8))) {memory}
      (global $kept (mut (ref null $a)) (ref.null $a))
      (func (export "run") (param i32) (result i32)
        (global.set $kept (array.new_default $a (local.get 0)))
        (array.len (global.get $kept))))"""
    name, heap_bytes, limit_bytes = f"heap-{len(memory)}", 20 << 20, _MEMORY_MB << 20
    for run in runs(daemon, name, text, args=[heap_bytes]):
        assert (run.code, run.result["results"]) == ("ok", [heap_bytes])
        assert memory_bytes + heap_bytes <= run.marker["peak_memory_bytes"] <= limit_bytes
    for run in runs(daemon, name, text, args=[limit_bytes]):
        assert run.code == "memory-limit"
        assert run.marker["peak_memory_bytes"] < memory_bytes + heap_bytes


@pytest.mark.parametrize(
    "text",
    [
        '(module (tag $t) (func (export "run") (throw $t)))',
        (
            "(module (tag $t (param i32 f64)) (func $f (throw $t (i32.const 1) (f64.const 2)))"
            ' (func (export "run") (call $f)))'
        ),
        (
            '(module (tag $t) (tag $u) (func (export "run") (block $caught'
            " (try_table (catch $u $caught) (throw $t)))))"
        ),
        """(component
          (core module $m (tag $t) (func (export "run") (throw $t)))
          (core instance $i (instantiate $m))
          (func (export "run") (canon lift (core func $i "run"))))""",
    ],
    ids=["thrown", "with-values", "not-the-one-caught", "in-a-component"],
)
def test_exception_that_is_not_caught_is_a_trap_with_a_backtrace(
    daemon: Daemon, text: str, request: pytest.FixtureRequest
) -> None:
    """The message names it."""
    name = f"throws-{request.node.callspec.id}"
    for run in runs(daemon, name, text):
        assert run.code == "trap"
        first, *frames = run.message.splitlines()
        assert first.startswith("uncaught exception: the program threw a WebAssembly exception")
        assert frames
        assert all(frame.startswith("  at ") for frame in frames)


@pytest.mark.parametrize("options", [(), ("-Wl,--stack-first",), ("-Wl,-z,stack-size=131072",)])
def test_stack_overflow_in_linear_memory_is_hinted_at(
    daemon: Daemon, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """In a real program, wherever its linker puts the stack."""
    source = """__attribute__((export_name("run"))) int run(int n) {
        volatile char frame[4096]; frame[n & 4095] = n;
        return n == 0 ? 0 : run(n - 1) + frame[n & 4095] - (char) n; }"""
    module = c_module(tmp_path, source, *options)
    name = f"stack-{len(options)}{len(str(options))}"
    for run in runs(daemon, name, module, args=[10_000]):
        assert run.code == "trap", run.message
        assert "just below address 0: the program's stack in memory may have" in run.message
        assert "stack-size" in run.message
    for run in runs(daemon, name, module, args=[10]):
        assert (run.code, run.result["results"]) == ("ok", [0])


@pytest.mark.parametrize(("address", "offset"), [(65536, 0), (0, 65536), (1 << 31, 16)])
def test_access_out_of_bounds_past_the_memory_has_no_hint(
    daemon: Daemon, address: int, offset: int
) -> None:
    """It is no stack overflow."""
    text = (
        f'(module (memory 1) (func (export "run")'
        f" (drop (i32.load offset={offset} (i32.const {address})))))"
    )
    for run in runs(daemon, f"wild-{address}-{offset}", text):
        assert run.code == "trap"
        assert "stack" not in run.message


def test_module_that_is_too_large_names_the_setting(daemon: Daemon) -> None:
    """And its present value."""
    module = daemon.wasm / "large.wasm"
    with module.open("wb") as file:
        file.truncate(17 << 20)
    # The drop of the module may be noticed after the job, which then runs again: its marker can go.
    marker = daemon.submit("input-large.json", {"module": "large"})
    assert marker["code"] == "invalid-module"
    limit = "(limit: 16 MiB; WASMDROP_MAX_MODULE_MB of"
    assert f"{17 << 20} bytes are more than is read {limit}" in marker["message"]


_LOOP: Final = '(module (func (export "run") (loop (br 0))))'
_PRINTS: Final = f"""(module {STREAMS} (func (export "run")
  (loop (call $write (i32.const 1) (i32.const 0) (i32.const 4096)) (br 0))))"""

#: By code: a module, keys of its input, and the part of the message on the limit.
NAMED: Final[dict[str, tuple[str, dict[str, Any], str]]] = {
    "timeout": (
        _LOOP,
        {"timeout_sec": 0.25},
        "0.25 s; timeout_sec in the input, at most TIMEOUT_SEC",
    ),
    "fuel-limit": (
        _LOOP,
        {"fuel": 12_000_000},
        "12000000; fuel in the input, at most WASMDROP_FUEL",
    ),
    "output-limit": (
        _PRINTS,
        {"output_mb": 1.5},
        "1.5 MiB; output_mb in the input, at most WASMDROP_OUTPUT_MB",
    ),
    "memory-limit": (
        '(module (memory 1000) (func (export "run")))',
        {"memory_mb": 62},
        "62 MiB; memory_mb in the input, at most WASMDROP_MEMORY_MB",
    ),
}


@pytest.mark.parametrize("code", NAMED)
def test_limit_message_names_its_setting_and_value(daemon: Daemon, code: str) -> None:
    """In its first line, which is all that some tools show."""
    text, keys, words = NAMED[code]
    for run in runs(daemon, f"named-{code}", text, **keys):
        assert run.code == code
        assert f" (limit: {words} of the daemon)" in run.message.partition("\n")[0]


def test_marker_has_the_processor_time(daemon: Daemon) -> None:
    """Of a job that computed, of one that failed, of one that was killed."""
    count = """(module (func (export "run") (param i64) (local $n i64)
      (loop $again (br_if $again (i64.lt_u (local.tee $n (i64.add (local.get $n) (i64.const 1)))
        (local.get 0)))) (if (i64.eqz (i64.rem_u (local.get 0) (i64.const 2))) (then unreachable)))
      )"""
    for turns in (300_000_001, 300_000_000):
        for run in runs(daemon, "counts", count, args=[turns]):
            assert run.code == ("ok" if turns % 2 else "trap")
            seconds = run.marker["seconds"]
            # A loop only computes, but other processes may take the processor meanwhile.
            assert 0.02 < seconds["cpu"] <= seconds["run"] + 0.05
    for run in runs(daemon, "endless", _LOOP, timeout_sec=0.5):
        seconds = run.marker["seconds"]
        assert 0 < seconds["cpu"] <= seconds["run"] + 1
    refused = Run(daemon, "refused", "endless", entry="none")
    assert (refused.code, refused.marker["seconds"]["cpu"]) == ("entry-not-found", None)
