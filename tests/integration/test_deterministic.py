"""``deterministic``: no run of a program can be told from another."""

import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.support.components import CLOCKS_AND_RANDOM
from tests.support.daemon import Daemon, drop
from tests.support.outcomes import Run

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
    # Makes 26 files of one letter each, then prints a listing and what it is told of files while
    # it changes some: $stat prints 64 bytes (witx: filestat), $list the bytes that it got.
    "files": """(module
      (import "wasi_snapshot_preview1" "path_open"
        (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_readdir"
        (func $readdir (param i32 i32 i32 i64 i32) (result i32)))
      (import "wasi_snapshot_preview1" "path_filestat_get"
        (func $filestat (param i32 i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "path_filestat_set_times"
        (func $set_times (param i32 i32 i32 i32 i64 i64 i32) (result i32)))
      (import "wasi_snapshot_preview1" "path_unlink_file"
        (func $unlink (param i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "path_rename"
        (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write"
        (func $fd_write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (data (i32.const 97) "abcdefghijklmnopqrstuvwxyz") (data (i32.const 65) "ABCDEFG")
      (data (i32.const 46) ".") (data (i32.const 200) "laid")
      (func $write (param $fd i32) (param $at i32) (param $size i32)
        (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $size))
        (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
      (func $make (param $letter i32)
        (drop (call $path_open (i32.const 3) (i32.const 0) (local.get $letter) (i32.const 1)
          (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16)))
        (call $write (i32.load (i32.const 16)) (local.get $letter) (i32.const 1))
        (drop (call $close (i32.load (i32.const 16)))))
      (func $stat (param $at i32) (param $size i32)
        (drop (call $filestat (i32.const 3) (i32.const 0) (local.get $at) (local.get $size)
          (i32.const 1024)))
        (call $write (i32.const 1) (i32.const 1024) (i32.const 64)))
      (func $list (param $cookie i64)
        (drop (call $readdir (i32.const 3) (i32.const 4096) (i32.const 4096) (local.get $cookie)
          (i32.const 20)))
        (call $write (i32.const 1) (i32.const 4096) (i32.load (i32.const 20))))
      (func (export "_start") (local $n i32)
        (loop $more
          (call $make (i32.add (i32.const 97)
            (i32.rem_u (i32.mul (local.get $n) (i32.const 7)) (i32.const 26))))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $more (i32.lt_u (local.get $n) (i32.const 26))))
        (call $list (i64.const 0)) (call $list (i64.const 20))
        (call $stat (i32.const 200) (i32.const 4)) (call $stat (i32.const 46) (i32.const 1))
        (call $stat (i32.const 97) (i32.const 1)) (call $stat (i32.const 97) (i32.const 1))
        (call $make (i32.const 97)) (call $stat (i32.const 97) (i32.const 1))
        (drop (call $set_times (i32.const 3) (i32.const 0) (i32.const 97) (i32.const 1)
          (i64.const 5) (i64.const 7) (i32.const 5)))
        (call $stat (i32.const 97) (i32.const 1))
        (drop (call $unlink (i32.const 3) (i32.const 98) (i32.const 1)))
        (call $make (i32.const 65)) (call $stat (i32.const 65) (i32.const 1))
        (drop (call $rename (i32.const 3) (i32.const 97) (i32.const 1)
          (i32.const 3) (i32.const 99) (i32.const 1)))
        (call $stat (i32.const 99) (i32.const 1))
        (call $make (i32.const 66)) (call $stat (i32.const 66) (i32.const 1))
        (call $stat (i32.const 46) (i32.const 1))))""",
    # The bits of a NaN that wasm leaves open: of zero by zero, with a payload on the way.
    "nan": """(module (func (export "run") (param f64) (result i64)
      (i64.reinterpret_f64 (f64.mul (local.get 0) (f64.const nan:0x4000000000001)))))""",
    "component": CLOCKS_AND_RANDOM,
}
WORLD: Final = {"seed": 0, "clock": "2000-01-01T00:00:00Z", "profile": 1}
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


def test_deterministic_clock_and_randomness_repeat(daemon: Daemon) -> None:
    """To the byte, from the time and the seed in the marker."""
    outputs = [run.files[".stdout"] for run in runs(daemon, "world", deterministic=True)]
    assert outputs[0] is not None
    assert len(set(outputs)) == 1
    wall, monotonic = struct.unpack("<QQ", outputs[0][:16])
    assert wall // 10**9 == START_SECONDS
    assert 0 < monotonic < 10**9
    assert len(set(outputs[0][16:])) > 16, "these are no random bytes"
    assert runs(daemon, "world", deterministic=True)[0].marker["deterministic"] == WORLD


def test_deterministic_off_gives_the_real_clock_and_randomness(daemon: Daemon) -> None:
    """And the marker says so."""
    found = runs(daemon, "world")
    assert len({run.files[".stdout"] for run in found}) == len(found)
    assert found[0].marker["deterministic"] is None
    assert found[0].marker["fuel_used"] is None


def entries(data: bytes) -> list[tuple[str, int]]:
    """Return names and inode numbers of a listing."""
    found = []
    while data:
        _next, number, size = struct.unpack("<QQI4x", data[:24])
        found.append((data[24 : 24 + size].decode(), number))
        data = data[24 + size :]
    return found


def test_deterministic_file_metadata_repeats(daemon: Daemon, tmp_path: Path) -> None:
    """Order, numbers, times and sizes of files that the program made, also on two file systems."""
    job: dict[str, Any] = {"deterministic": True, "files": {"laid": "x"}}
    found = runs(daemon, "files", **job)
    other_disk = Path("/dev/shm")  # noqa: S108 - tmpfs: it lists the newest file first
    if other_disk.is_dir() and other_disk.stat().st_dev != tmp_path.stat().st_dev:
        with tempfile.TemporaryDirectory(dir=other_disk) as state:
            other = Daemon(tmp_path, WASMDROP_STATE_DIR=state)
            drop(other.wasm / "files.wasm", bytes(wat2wasm(MODULES["files"])))
            with other.running():
                found += runs(other, "files", **job)
    assert len({run.files[".stdout"] for run in found}) == 1
    assert len({run.marker["fuel_used"] for run in found}) == 1

    output = found[0].files[".stdout"]
    assert output is not None
    listed, again = (24 + 1) * 27 + (24 + 2) + (24 + 4), (24 + 1) * 9
    everything = entries(output[:listed])
    assert [name for name, _ in everything] == [".", "..", *sorted([*ascii_lowercase, "laid"])]
    assert entries(output[listed : listed + again]) == everything[20:]

    stats = [stat[1:] for stat in struct.iter_unpack("<QQB7xQQQQQ", output[listed + again :])]
    laid, root, a, same, changed, timed, new, renamed, newer, root_later = stats
    numbers = dict(everything)
    assert (a[0], laid[0], root[0]) == (numbers["a"], numbers["laid"], numbers["."])
    assert laid[-3:] == (START_SECONDS * 10**9,) * 3
    assert same == a
    assert (changed[0], timed[0], renamed[0]) == (a[0],) * 3
    assert changed[-1] > a[-1]
    assert timed[-3:] == renamed[-3:] == (5, 7, 7)
    assert len({new[0], newer[0], *numbers.values()}) == len(everything) - 1 + 2
    assert root_later[-1] > root[-1]


def test_deterministic_component_sees_the_same_world(daemon: Daemon) -> None:
    """Through WASI 0.2's own interfaces."""
    found = [run.result["results"] for run in runs(daemon, "component", deterministic=True)]
    assert all(values == found[0] for values in found)
    assert found[0][0][0] == START_SECONDS
    real = [run.result["results"][0][2] for run in runs(daemon, "component")]
    assert len(set(real)) == len(real)


def test_deterministic_fuel_is_counted_and_repeats(daemon: Daemon) -> None:
    """So that work can be compared across machines. The fuel limit holds as before."""
    used = {
        Run(daemon, f"fuel-{n}", "world", entry="waits", deterministic=True).marker["fuel_used"]
        for n in range(3)
    }
    assert len(used) == 1
    assert next(iter(used)) > 1000
    run = Run(daemon, "fuel", "world", entry="waits", deterministic=True, fuel=100)
    assert run.code == "fuel-limit"


def test_deterministic_busy_wait_on_the_clock_ends(daemon: Daemon) -> None:
    """Each read advances the clock."""
    run = Run(daemon, "waits", "world", entry="waits", deterministic=True)
    assert run.code == "ok"


def test_deterministic_call_with_an_address_outside_of_memory_fails_in_the_guest(
    daemon: Daemon,
) -> None:
    """EFAULT, as from WASI's own functions, and no fault of the daemon."""
    run = Run(daemon, "faults", "world", entry="faults", deterministic=True)
    assert run.result["results"] == [21, 21]


def test_deterministic_nans_are_canonical(daemon: Daemon) -> None:
    """Whatever the processor returns."""
    arguments: dict[str, Any] = {"args": ["nan:0x8000000000123"]}
    run = Run(daemon, "nan", "nan", deterministic=True, **arguments)
    assert run.result["results"] == [0x7FF8000000000000]
    plain = Run(daemon, "nan", "nan", **arguments)
    assert plain.result["results"] != [0x7FF8000000000000]
