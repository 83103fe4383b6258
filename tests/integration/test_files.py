"""WASI commands with files: what is laid in, what is published, and what a hostile guest gets."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.integration.conftest import FIB
from tests.integration.test_bad_input import faults
from tests.integration.test_wasi import WASI as STREAMS
from tests.integration.test_wasi import Run
from tests.support.daemon import Daemon, drop, wait_until

#: Functions of files, and short forms of them. Names are given as address and length; descriptor 3
#: is the first preopened directory.
WASI: Final = (
    """
(import "wasi_snapshot_preview1" "path_open" (func $path_open
  (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
(import "wasi_snapshot_preview1" "path_create_directory"
  (func $path_create_directory (param i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "path_symlink"
  (func $path_symlink (param i32 i32 i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "path_unlink_file"
  (func $path_unlink_file (param i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "path_rename"
  (func $path_rename (param i32 i32 i32 i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "fd_filestat_set_size"
  (func $fd_filestat_set_size (param i32 i64) (result i32)))
"""
    + STREAMS
    + """
(func $need (param $errno i32) (if (local.get $errno) (then (call $proc_exit (local.get $errno)))))
;; Opens for reading; ends with the errno where that fails.
(func $open (param $at i32) (param $size i32) (param $flags i32) (param $rights i64) (result i32)
  (call $need (call $path_open (i32.const 3) (i32.const 1) (local.get $at) (local.get $size)
    (local.get $flags) (local.get $rights) (i64.const 0) (i32.const 0) (i32.const 32)))
  (i32.load (i32.const 32)))
(func $create (param $at i32) (param $size i32) (result i32)
  (call $open (local.get $at) (local.get $size) (i32.const 1) (i64.const 0x400040)))
(func $mkdir (param $at i32) (param $size i32)
  (call $need (call $path_create_directory (i32.const 3) (local.get $at) (local.get $size))))
(func $save (param $at i32) (param $size i32) (param $text i32) (param $length i32)
  (local $fd i32)
  (local.set $fd (call $create (local.get $at) (local.get $size)))
  (call $write (local.get $fd) (local.get $text) (local.get $length))
  (call $need (call $fd_close (local.get $fd))))
"""
)

PROGRAMS: Final[dict[str, str]] = {
    # Copies data/in.txt to its output, and writes two files and a directory.
    "work": """(data (i32.const 64) "data/in.txt") (data (i32.const 80) "out") (data (i32.const 96)
        "out/answer.txt") (data (i32.const 112) "top") (data (i32.const 128) "42\\n")
        (func (export "_start") (local $fd i32)
          (local.set $fd (call $open (i32.const 64) (i32.const 11) (i32.const 0) (i64.const 2)))
          (i32.store (i32.const 16) (i32.const 1024)) (i32.store (i32.const 20) (i32.const 65536))
          (call $need (call $fd_read (local.get $fd) (i32.const 16) (i32.const 1) (i32.const 24)))
          (call $write (i32.const 1) (i32.const 1024) (i32.load (i32.const 24)))
          (call $mkdir (i32.const 80) (i32.const 3))
          (call $save (i32.const 96) (i32.const 14) (i32.const 128) (i32.const 3))
          (call $save (i32.const 112) (i32.const 3) (i32.const 1024) (i32.const 1)))""",
    "idle": """(func (export "_start"))""",
    "fails": """(data (i32.const 64) "left") (func (export "_start")
          (call $save (i32.const 64) (i32.const 4) (i32.const 64) (i32.const 4))
          (call $proc_exit (i32.const 3)))""",
    "hangs": """(data (i32.const 64) "left") (func (export "_start")
          (call $save (i32.const 64) (i32.const 4) (i32.const 64) (i32.const 4)) (loop (br 0)))""",
    # A function that is no command and reads a file; gives the number of bytes.
    "function": """(data (i32.const 64) "a") (func (export "run") (result i32)
          (i32.store (i32.const 16) (i32.const 1024)) (i32.store (i32.const 20) (i32.const 65536))
          (call $need (call $fd_read
            (call $open (i32.const 64) (i32.const 1) (i32.const 0) (i64.const 2))
            (i32.const 16) (i32.const 1) (i32.const 24)))
          (i32.load (i32.const 24)))""",
    # Links out of the directory, a name with a newline, and an input that nobody shall run.
    "odd": """(data (i32.const 64) "../../modules") (data (i32.const 80) "out") (data
        (i32.const 96) "a\\0ab") (data (i32.const 112) "input.json") (data (i32.const 128) "{}")
        (func (export "_start")
          (call $need (call $path_symlink (i32.const 64) (i32.const 13) (i32.const 3)
            (i32.const 80) (i32.const 3)))
          (call $save (i32.const 96) (i32.const 3) (i32.const 128) (i32.const 2))
          (call $save (i32.const 112) (i32.const 10) (i32.const 128) (i32.const 2)))""",
    # Opens "..", and exits with the errno.
    "escape": """(data (i32.const 64) "../x") (func (export "_start")
          (drop (call $create (i32.const 64) (i32.const 4))))""",
    # One file without end.
    "large": """(data (i32.const 64) "f") (func (export "_start") (local $fd i32)
          (local.set $fd (call $create (i32.const 64) (i32.const 1)))
          (loop $more (call $write (local.get $fd) (i32.const 1024) (i32.const 65536))
            (br $more)))""",
    # A file of a terabyte that takes no room.
    "sparse": """(data (i32.const 64) "f") (func (export "_start")
          (drop (call $fd_filestat_set_size (call $open (i32.const 64) (i32.const 1) (i32.const 1)
            (i64.const 0x400040)) (i64.const 0x10000000000))))""",
    # Files of 64 KiB each, without end, under names of eight letters.
    "many": """(func (export "_start") (local $n i64) (local $fd i32)
          (loop $more (local.set $n (i64.add (local.get $n) (i64.const 1)))
            (i64.store (i32.const 64) (i64.or (i64.const 0x4141414141414141)
              (i64.or (i64.shl (i64.and (local.get $n) (i64.const 0xf)) (i64.const 1))
              (i64.or (i64.and (i64.shl (local.get $n) (i64.const 5)) (i64.const 0x1e00))
              (i64.or (i64.and (i64.shl (local.get $n) (i64.const 9)) (i64.const 0x1e0000))
              (i64.and (i64.shl (local.get $n) (i64.const 13)) (i64.const 0x1e000000)))))))
            (call $save (i32.const 64) (i32.const 8) (i32.const 1024) (i32.const SIZE))
            (br $more)))""",
    # A directory in a directory, 3,000 deep: each new one takes the last one in.
    "deep": """(data (i32.const 64) "a") (data (i32.const 80) "b") (data (i32.const 96) "b/a")
        (func (export "_start") (local $n i32)
          (call $mkdir (i32.const 64) (i32.const 1))
          (loop $more (call $mkdir (i32.const 80) (i32.const 1))
            (call $need (call $path_rename (i32.const 3) (i32.const 64) (i32.const 1) (i32.const 3)
              (i32.const 96) (i32.const 3)))
            (call $need (call $path_rename (i32.const 3) (i32.const 80) (i32.const 1) (i32.const 3)
              (i32.const 64) (i32.const 1)))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $n) (i32.const 3000)))))""",
}
PROGRAMS["empty-files"] = PROGRAMS["many"].replace("SIZE", "0")
PROGRAMS["many"] = PROGRAMS["many"].replace("SIZE", "65536")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one running daemon with all programs."""
    it = Daemon(tmp_path_factory.mktemp("files"))
    drop(it.wasm / "module.wasm", bytes(wat2wasm(FIB)))
    for name, body in PROGRAMS.items():
        drop(it.wasm / f"{name}.wasm", bytes(wat2wasm(f"(module {WASI} {body})")))
    with it.running():
        yield it


@pytest.fixture(autouse=True)
def _nothing_stays(daemon: Daemon) -> Iterator[None]:
    """Check after each case that no job's directory stays, and that no fault was logged."""
    before = len(faults(daemon))
    yield
    jobs = daemon.state / "jobs"
    wait_until(lambda: not any(jobs.iterdir()), "the jobs' directories to be removed")
    wait_until(lambda: not list(daemon.shared.glob(".wasmdrop-*")), "temporaries to be removed")
    assert faults(daemon)[before:] == []


def output_of(daemon: Daemon, slot: str) -> dict[str, bytes] | None:
    """Return what was published of a slot's directory; None where that is nothing."""
    root = daemon.shared / f"result-{slot}.output"
    if not root.exists():
        return None
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_files_go_in_and_come_out(daemon: Daemon) -> None:
    """Text and bytes, in directories; all that is there at the end, with size and digest."""
    given = {"data/in.txt": "héllo", "raw": {"base64": "AP8="}}
    run = Run(daemon, "work", "work", files=given)
    assert run.code == "ok", run.message
    assert run.result["stdout"] == "héllo"
    expected = {
        "data/in.txt": "héllo".encode(),
        "raw": b"\0\xff",
        "out/answer.txt": b"42\n",
        "top": b"h",
    }
    assert output_of(daemon, "work") == expected
    assert {name for name in run.marker["files"] if "/" in name} == {
        f"result-work.output/{name}" for name in expected
    }


def test_an_older_output_is_replaced(daemon: Daemon) -> None:
    """By another one, and by none: nothing of an earlier job stays in a slot."""
    Run(daemon, "again", "work", files={"data/in.txt": "x", "only-now": ""})
    assert "only-now" in (output_of(daemon, "again") or {})
    Run(daemon, "again", "work", files={"data/in.txt": "x"})
    assert set(output_of(daemon, "again") or {}) == {"data/in.txt", "out/answer.txt", "top"}
    Run(daemon, "again", "idle")
    assert output_of(daemon, "again") is None
    Run(daemon, "again", "work", files={"data/in.txt": "x"})
    Run(daemon, "again", "module", entry="fib", args=[1])
    assert output_of(daemon, "again") is None


@pytest.mark.parametrize(("program", "code"), [("fails", "exit"), ("hangs", "timeout")])
def test_what_a_failed_program_left_is_kept(daemon: Daemon, program: str, code: str) -> None:
    """As its captured output is: it may tell why."""
    run = Run(daemon, program, program, timeout_sec=0.5)
    assert run.code == code
    assert output_of(daemon, program) == {"left": b"left"}


def test_a_function_may_have_files_too(daemon: Daemon) -> None:
    """Where it imports WASI's functions of files."""
    run = Run(daemon, "function", "function", files={"a": "12345"})
    assert run.result["results"] == [5]
    assert output_of(daemon, "function") == {"a": b"12345"}


def test_files_for_a_module_that_can_open_none_are_refused(daemon: Daemon) -> None:
    """Rather than left out in silence."""
    run = Run(daemon, "plain", "module", entry="fib", args=[1], files={"a": ""})
    assert run.code == "invalid-input"
    assert run.message.startswith("$.files: ")


def test_files_beyond_the_limit_are_refused(daemon: Daemon) -> None:
    """With both numbers."""
    run = Run(daemon, "too-much", "idle", files={"a": "x" * 1_048_577}, disk_mb=1)
    assert run.code == "invalid-input"
    assert "1048577" in run.message
    assert "1048576" in run.message


def test_links_and_odd_names_are_told_of_and_not_published(daemon: Daemon) -> None:
    """Links are not followed, and a published input is no drop."""
    run = Run(daemon, "odd", "odd")
    assert run.code == "ok"
    assert output_of(daemon, "odd") == {"input.json": b"{}"}
    assert not (daemon.shared / "result-odd.output" / "out").is_symlink()
    assert "'out' (a link)" in run.message
    assert "'a\\nb' (a name with control characters)" in run.message
    Run(daemon, "after-odd", "idle")
    assert not (daemon.shared / "result-odd.output" / "result.done").exists()


def test_a_program_does_not_get_out_of_its_directory(daemon: Daemon) -> None:
    """WASI's own check; what lies behind it is tried in the tests of confinement."""
    run = Run(daemon, "escape", "escape")
    assert run.code == "exit"
    assert run.result["exit_code"] == 63  # EPERM, "operation not permitted", in WASI's numbers
    assert not list(daemon.state.rglob("x"))


@pytest.mark.parametrize("program", ["large", "sparse", "many", "empty-files", "deep"])
def test_a_program_that_goes_past_its_limit_is_ended(daemon: Daemon, program: str) -> None:
    """By bytes in one file or in many, by holes, by the number of files, by depth."""
    run = Run(daemon, program, program, disk_mb=1)
    assert run.code == "disk-limit"
    assert run.message
    assert run.raw_value == "error"
    assert output_of(daemon, program) is None


def test_what_a_killed_daemon_left_is_swept(tmp_path: Path) -> None:
    """Directories of jobs, however deep, and half-published ones."""
    daemon = Daemon(tmp_path)
    drop(daemon.wasm / "module.wasm", bytes(wat2wasm(f"(module {WASI} {PROGRAMS['hangs']})")))
    daemon.start()
    drop(daemon.shared / "input.json", {"timeout_sec": 2})
    jobs = daemon.state / "jobs"
    wait_until(lambda: list(jobs.glob("*/left")), "the job to write")
    daemon.kill()
    deep = jobs / "deep"
    deep.mkdir()
    home = os.open(".", os.O_RDONLY)
    try:
        os.chdir(deep)
        for _ in range(3000):
            Path("d").mkdir()
            os.chdir("d")
    finally:
        os.fchdir(home)
        os.close(home)
    staged = daemon.shared / ".wasmdrop-0123456789-0"
    (staged / "inner").mkdir(parents=True)
    staged.chmod(0o1700)  # as the daemon marks its own
    foreign = daemon.shared / ".wasmdrop-0123456789-1"
    (foreign / "inner").mkdir(parents=True)
    drop(daemon.shared / "input.json", {"timeout_sec": 0.2})
    daemon.start()
    wait_until(lambda: daemon.marker("input.json"), "the job to end")
    assert not deep.exists()
    assert not staged.exists()
    assert (foreign / "inner").is_dir()
    wait_until(lambda: not any(jobs.iterdir()), "the jobs' directories to be removed")
    assert daemon.stop() == 0


def test_a_stranger_at_the_output_s_name_does_not_keep_the_result_away(daemon: Daemon) -> None:
    """A link is replaced and not followed; a file too."""
    target = daemon.shared / "elsewhere"
    target.mkdir()
    (target / "kept").touch()
    place = daemon.shared / "result-stranger.output"
    place.symlink_to(target)
    arguments: dict[str, Any] = {"files": {"data/in.txt": "x"}}
    Run(daemon, "stranger", "work", **arguments)
    assert not place.is_symlink()
    assert (place / "top").read_bytes() == b"x"
    assert (target / "kept").exists()
    Run(daemon, "stranger", "idle")
    place.write_text("a file")
    Run(daemon, "stranger", "work", **arguments)
    assert (place / "top").read_bytes() == b"x"
