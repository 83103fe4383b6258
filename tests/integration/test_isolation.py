"""Isolation of one job from the next: a process and an instance of its own for each."""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import FIB
from tests.support.guests import running_in
from tests.support.outcomes import faults

MODULES: Final = {
    "fib": FIB,
    # Returns how often it was called, from every kind of state that an instance has.
    "counts": """(module (memory (export "memory") 1) (global $g (mut i64) (i64.const 0))
      (table $t 1 funcref) (elem declare func $f) (func $f)
      (func (export "run") (result i64 i64 i32)
        (global.set $g (i64.add (global.get $g) (i64.const 1)))
        (i64.store (i32.const 8) (i64.add (i64.load (i32.const 8)) (i64.const 1)))
        (drop (memory.grow (i32.const 1)))
        (if (ref.is_null (table.get $t (i32.const 0)))
          (then (table.set $t (i32.const 0) (ref.func $f)))
          (else (unreachable)))
        (global.get $g) (i64.load (i32.const 8)) (memory.size)))""",
    "trap": '(module (func (export "run") (unreachable)))',
    "hang": '(module (func (export "run") (loop (br 0))))',
    "starts": """(module (global $g (mut i64) (i64.const 0))
      (func $s (global.set $g (i64.const 7))) (start $s)
      (func (export "run") (result i64) (global.get $g)))""",
    "wide": """(module (func (export "run") (param i32 i64 f32 f64) (result f64 f32 i64 i32)
      (local.get 3) (local.get 2) (local.get 1) (local.get 0)))""",
    "bytes": """(module (import "wasi_snapshot_preview1" "random_get"
        (func $random (param i32 i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "run") (result i64)
        (drop (call $random (i32.const 0) (i32.const 8))) (i64.load (i32.const 0))))""",
    # Initialized first; then returns how often, and the number and first byte of its arguments.
    "reactor": """(module
      (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "args_get" (func $get (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1) (global $inits (mut i32) (i32.const 0))
      (func (export "_initialize") (global.set $inits (i32.add (global.get $inits) (i32.const 1))))
      (func (export "run") (result i32 i32 i32)
        (drop (call $sizes (i32.const 0) (i32.const 4)))
        (drop (call $get (i32.const 16) (i32.const 64)))
        (global.get $inits) (i32.load (i32.const 0)) (i32.load8_u (i32.const 64)))
      (func (export "exits") (param i32) (call $exit (local.get 0)))
      (func (export "traps") unreachable)
      (func (export "prints")
        (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 4096))
        (loop $again (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
          (br $again))))""",
    "grows": """(module (memory (export "memory") 1)
      (func (export "run") (param i32) (result i32) (memory.grow (local.get 0))))""",
}

#: Enough calls to use every kind of process that serves a module.
_CALLS: Final = 6


@pytest.fixture(scope="module")
def daemon(guest: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one running daemon with all modules."""
    it = Daemon(
        tmp_path_factory.mktemp("isolation"),
        WASMDROP_ATTEMPTS="1",
        WASMDROP_FUEL="1000000000",
    )
    for name, text in MODULES.items():
        drop(it.wasm / f"{name}.wasm", bytes(wat2wasm(text)))
    with running_in(guest, it, unfit={"fib"}):  # whose processes a test kills
        yield it


def call(daemon: Daemon, module: str, number: int, **keys: Any) -> tuple[dict[str, Any], Any]:
    """Run a module once; return its marker and its result."""
    name = f"input-{module}.json"
    marker = daemon.submit(name, {"module": module, "id": f"{number} {keys}", **keys})
    return marker, daemon.result(name)


def test_job_gets_a_fresh_instance(daemon: Daemon) -> None:
    """Memory, its size, globals and tables are those of the module, however often it is called."""
    for number in range(_CALLS):
        _marker, result = call(daemon, "counts", number)
        assert result["results"] == [1, 1, 2]


def test_start_function_runs_once_in_each_job(daemon: Daemon) -> None:
    """And never before there is a job."""
    for number in range(_CALLS):
        assert call(daemon, "starts", number)[1]["results"] == [7]


def test_values_arrive_bit_by_bit(daemon: Daemon) -> None:
    """Of each type, on each path to the guest."""
    args = [-1, 1 << 63, "nan:0x200001", -0.0]
    for number in range(_CALLS):
        results = call(daemon, "wide", number, args=args)[1]["results"]
        assert results == [-0.0, "nan:0x200001", 1 << 63, (1 << 32) - 1]
        assert str(results[0]) == "-0.0"


def test_randomness_differs_between_jobs_of_one_process(daemon: Daemon) -> None:
    """Jobs that come of one process draw what no other has drawn."""
    drawn = {call(daemon, "bytes", number)[1]["results"][0] for number in range(_CALLS)}
    assert len(drawn) == _CALLS


def test_reactor_runs_in_a_fresh_instance(daemon: Daemon) -> None:
    """Initialized once, with its name; its failures are named on each path."""
    for number in range(_CALLS):
        assert call(daemon, "reactor", number)[1]["results"] == [1, 1, ord("m")]
        for status in (0, 7, 200):
            marker, result = call(daemon, "reactor", number, entry="exits", args=[status])
            assert (marker["code"], result.get("results")) == ("exit", None)
            assert marker["message"] == f"the program exited with code {status}"
        assert call(daemon, "reactor", number, entry="traps")[0]["code"] == "trap"
        printed, _result = call(daemon, "reactor", number, entry="prints", output_mb=0.1)
        assert printed["code"] == "output-limit"
        # An input makes its world not empty, which takes another path.
        assert call(daemon, "reactor", number, env={"A": "b"})[1]["results"] == [1, 1, ord("m")]


def test_job_that_fails_does_not_affect_the_next(daemon: Daemon) -> None:
    """By a trap, a timeout, its fuel, its memory: the next job of its module succeeds."""
    for number in range(3):
        assert call(daemon, "trap", number)[0]["code"] == "trap"
        assert call(daemon, "hang", number, timeout_sec=0.2)[0]["code"] == "timeout"
        assert call(daemon, "hang", number, fuel=1000)[0]["code"] == "fuel-limit"
        pages = 2 * 16
        grown, wanted = call(daemon, "grows", number, memory_mb=1, args=[pages])
        assert (grown["code"], wanted["results"]) == ("ok", [(1 << 32) - 1])
        assert call(daemon, "grows", number, args=[pages])[1]["results"] == [1]
        assert call(daemon, "fib", number, entry="fib", args=[12])[1]["results"] == [144]


def test_process_that_is_killed_is_replaced(daemon: Daemon) -> None:
    """Any process of a module, also an idle one: the next job finds another."""
    for number in range(3):
        call(daemon, "fib", number, entry="fib", args=[20])
    assert daemon.process is not None
    others = {daemon.fork_server(), *daemon.delivery_workers()}
    for pid in daemon.children():
        if pid not in others:
            with contextlib.suppress(ProcessLookupError):  # children of a zygote die with it
                os.kill(pid, signal.SIGKILL)
    wait_until(lambda: set(daemon.children()) - others, "children to be there again")
    for number in range(3, 6):
        marker, result = call(daemon, "fib", number, entry="fib", args=[20])
        # One may get a request before the daemon notices its death.
        assert marker["code"] in {"ok", "crashed", "internal"}
        assert marker["code"] != "ok" or result["results"] == [6765]
    assert call(daemon, "fib", 9, entry="fib", args=[20])[1]["results"] == [6765]


def test_processes_that_served_are_gone_after_more_jobs(daemon: Daemon) -> None:
    """No process serves two jobs."""
    call(daemon, "fib", 10, entry="fib", args=[12])
    before = set(daemon.children())
    for number in range(11, 31):
        call(daemon, "fib", number, entry="fib", args=[12])
    assert before - set(daemon.children())
    assert faults(daemon) == []
