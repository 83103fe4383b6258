"""``deterministic``: what a program could tell one run from the next by is the same in each."""

import struct
from collections.abc import Iterator
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.acceptance.daemon import Daemon, drop
from tests.acceptance.test_wasi import Run

MODULES: Final = {
    # Prints the time by both clocks, and 64 random bytes.
    "world": """(module
      (import "wasi_snapshot_preview1" "clock_time_get"
        (func $clock (param i32 i64 i32) (result i32)))
      (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write"
        (func $fd_write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (drop (call $clock (i32.const 0) (i64.const 0) (i32.const 64)))
        (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 72)))
        (drop (call $random (i32.const 80) (i32.const 64)))
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 80))
        (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
      (func (export "faults") (result i32 i32)
        (call $clock (i32.const 0) (i64.const 0) (i32.const -4))
        (call $random (i32.const 65530) (i32.const -1)))
      (func (export "waits") (local $first i64)
        (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 64)))
        (local.set $first (i64.load (i32.const 64)))
        (loop $again (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 64)))
          (br_if $again (i64.lt_u (i64.load (i32.const 64))
            (i64.add (local.get $first) (i64.const 1000000000)))))))""",
    # The bits of a NaN that wasm leaves open: of zero by zero, with a payload on the way.
    "nan": """(module (func (export "run") (param f64) (result i64)
      (i64.reinterpret_f64 (f64.mul (local.get 0) (f64.const nan:0x4000000000001)))))""",
    # The same for WASI 0.2: wall clock seconds, monotonic clock and a random number.
    "component": """(component
      (import "wasi:clocks/wall-clock@0.2.0" (instance $wall
        (type $d (record (field "seconds" u64) (field "nanoseconds" u32)))
        (export "datetime" (type $datetime (eq $d)))
        (export "now" (func (result $datetime)))))
      (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
        (export "now" (func (result u64)))))
      (import "wasi:random/random@0.2.0" (instance $random
        (export "get-random-u64" (func (result u64)))))
      (core module $memory (memory (export "memory") 1))
      (core instance $memory (instantiate $memory))
      (alias core export $memory "memory" (core memory $mem))
      (core func $now (canon lower (func $wall "now") (memory $mem)))
      (core func $monotonic (canon lower (func $clock "now")))
      (core func $u64 (canon lower (func $random "get-random-u64")))
      (core module $main
        (import "h" "memory" (memory 1)) (import "h" "now" (func $now (param i32)))
        (import "h" "monotonic" (func $monotonic (result i64)))
        (import "h" "u64" (func $u64 (result i64)))
        (func (export "run") (result i32) (call $now (i32.const 64))
          (i64.store (i32.const 8) (i64.load (i32.const 64)))
          (i64.store (i32.const 16) (call $monotonic))
          (i64.store (i32.const 24) (call $u64)) (i32.const 8)))
      (core instance $main (instantiate $main (with "h" (instance (export "memory" (memory $mem))
        (export "now" (func $now)) (export "monotonic" (func $monotonic))
        (export "u64" (func $u64))))))
      (func (export "run") (result (tuple u64 u64 u64))
        (canon lift (core func $main "run") (memory $mem))))""",
}
WORLD: Final = {"seed": 0, "clock": "2000-01-01T00:00:00Z"}
START_SECONDS: Final = 946_684_800


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one running daemon."""
    it = Daemon(tmp_path_factory.mktemp("deterministic"))
    for name, text in MODULES.items():
        drop(it.wasm / f"{name}.wasm", bytes(wat2wasm(text)))
    with it.running():
        yield it


def runs(daemon: Daemon, program: str, **keys: Any) -> list[Run]:
    """Run a program twice in each of two slots."""
    slots = ("a", "b", "a", "b")
    return [
        Run(daemon, f"{program}-{slot}", program, id=str(number), **keys)
        for number, slot in enumerate(slots)
    ]


def test_clock_and_randomness_are_the_same_each_time(daemon: Daemon) -> None:
    """To the byte, from a moment and a seed that the marker tells."""
    outputs = [run.files[".stdout"] for run in runs(daemon, "world", deterministic=True)]
    assert outputs[0] is not None
    assert len(set(outputs)) == 1
    wall, monotonic = struct.unpack("<QQ", outputs[0][:16])
    assert wall // 10**9 == START_SECONDS
    assert 0 < monotonic < 10**9
    assert len(set(outputs[0][16:])) > 16, "these are no random bytes"
    assert runs(daemon, "world", deterministic=True)[0].marker["deterministic"] == WORLD


def test_without_it_the_world_is_the_real_one(daemon: Daemon) -> None:
    """And the marker says so."""
    found = runs(daemon, "world")
    assert len({run.files[".stdout"] for run in found}) == len(found)
    assert found[0].marker["deterministic"] is None
    assert found[0].marker["fuel_used"] is None


def test_a_component_sees_the_same_world(daemon: Daemon) -> None:
    """By WASI 0.2's own interfaces."""
    found = [run.result["results"] for run in runs(daemon, "component", deterministic=True)]
    assert all(values == found[0] for values in found)
    assert found[0][0][0] == START_SECONDS
    real = [run.result["results"][0][2] for run in runs(daemon, "component")]
    assert len(set(real)) == len(real)


def test_fuel_is_counted_and_is_the_same_each_time(daemon: Daemon) -> None:
    """So that work can be compared across machines; a limit holds as ever."""
    used = {
        Run(daemon, f"fuel-{n}", "world", entry="waits", deterministic=True).marker["fuel_used"]
        for n in range(3)
    }
    assert len(used) == 1
    assert next(iter(used)) > 1000
    run = Run(daemon, "fuel", "world", entry="waits", deterministic=True, fuel=100)
    assert run.code == "fuel-limit"


def test_waiting_by_looking_at_the_clock_comes_to_an_end(daemon: Daemon) -> None:
    """The clock moves on with each look."""
    run = Run(daemon, "waits", "world", entry="waits", deterministic=True)
    assert run.code == "ok"


def test_addresses_outside_of_memory_are_an_error_to_the_program(daemon: Daemon) -> None:
    """As with WASI's own functions: EFAULT, not a fault of the daemon."""
    run = Run(daemon, "faults", "world", entry="faults", deterministic=True)
    assert run.result["results"] == [21, 21]


def test_nans_are_canonical(daemon: Daemon) -> None:
    """Whatever the processor would have made of them."""
    arguments: dict[str, Any] = {"args": ["nan:0x8000000000123"]}
    run = Run(daemon, "nan", "nan", deterministic=True, **arguments)
    assert run.result["results"] == [0x7FF8000000000000]
    plain = Run(daemon, "nan", "nan", **arguments)
    assert plain.result["results"] != [0x7FF8000000000000]
