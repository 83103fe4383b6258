"""``peak_memory_bytes`` in the marker: all memories of the guest, exported or not."""

from collections.abc import Iterator
from typing import Final

import pytest
from wasmtime import wat2wasm

from tests.support.components import COMMAND, CORE
from tests.support.daemon import Daemon, drop
from tests.support.guests import running_in
from tests.support.outcomes import Run
from tests.support.wasi_programs import STREAMS

PAGE_BYTES: Final = 65536

#: Module texts, and the pages of all their memories after ``run``.
MODULES: Final[dict[str, tuple[str, int]]] = {
    "none": ('(module (func (export "run")))', 0),
    "exported": (
        '(module (memory (export "m") 2) (func (export "run") (drop (memory.grow (i32.const 5)))))',
        7,
    ),
    "exported-twice": (
        (
            '(module (memory $m 2) (export "a" (memory $m)) (export "b" (memory $m))'
            ' (func (export "run")))'
        ),
        2,
    ),
    "hidden": (
        '(module (memory 2) (func (export "run") (drop (memory.grow (i32.const 100)))))',
        102,
    ),
    "with-data": (
        (
            '(module (memory 3) (data (i32.const 70000) "x") (func (export "run")'
            " (i32.store8 (i32.const 70000) (i32.const 1))))"
        ),
        3,
    ),
    "several": (
        (
            '(module (memory (export "m") 1) (memory $n 2) (memory $empty 0)'
            ' (func (export "run") (drop (memory.grow $n (i32.const 7)))))'
        ),
        10,
    ),
    "empty": ('(module (memory 0) (func (export "run")))', 0),
    "command": (
        (
            f'(module {STREAMS} (memory $own 1) (func (export "_start")'
            " (drop (memory.grow $own (i32.const 30)))))"
        ),
        35,
    ),
    "component": (
        (
            f'(component {CORE} (func (export "run") (param "n" u32) (result string)'
            ' (canon lift (core func $i "many") (memory $memory))))'
        ),
        65,
    ),
    "two-in-a-component": (
        (
            f"(component {CORE} (core instance $j (instantiate $core))"
            ' (func (export "run") (param "n" u32) (result string)'
            ' (canon lift (core func $i "many") (memory $memory))))'
        ),
        66,
    ),
    "component-that-fails": (COMMAND.replace("RESULT", "1"), 1),
}


@pytest.fixture(scope="module")
def daemon(guest: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one running daemon with all modules."""
    it = Daemon(tmp_path_factory.mktemp("memory"))
    for name, (text, _pages) in MODULES.items():
        drop(it.wasm / f"{name}.wasm", bytes(wat2wasm(text)))
    with running_in(guest, it):
        yield it


@pytest.mark.parametrize("name", MODULES)
def test_marker_has_the_peak_of_all_memories(daemon: Daemon, name: str) -> None:
    """To the page: exported or not, one or several, of a module or a component."""
    args = [0] if '"n" u32' in MODULES[name][0] else []
    for number in range(4):
        run = Run(daemon, name, name, args=args, id=str(number))
        assert run.code == ("exit" if name.endswith("fails") else "ok"), run.message
        assert run.marker["peak_memory_bytes"] == MODULES[name][1] * PAGE_BYTES


def test_marker_of_a_killed_job_has_no_memory_peak(daemon: Daemon) -> None:
    """Nor has that of a job that never ran: null, and no guess."""
    drop(
        daemon.wasm / "endless.wasm",
        bytes(wat2wasm('(module (memory (export "m") 1) (func (export "run") (loop (br 0))))')),
    )
    assert Run(daemon, "endless", "endless", timeout_sec=0.2).marker["peak_memory_bytes"] is None
    assert Run(daemon, "missing", "none", entry="x").marker["peak_memory_bytes"] is None
