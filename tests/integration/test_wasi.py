"""WASI commands and reactors: what goes in, what comes out, and what is kept when they fail."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.integration.conftest import FIB
from tests.integration.test_bad_input import faults
from tests.support.daemon import Daemon, drop

#: What the programs below import, and their memory.
WASI: Final = """
(import "wasi_snapshot_preview1" "fd_write"
  (func $fd_write (param i32 i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "fd_read"
  (func $fd_read (param i32 i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
(import "wasi_snapshot_preview1" "args_sizes_get"
  (func $args_sizes_get (param i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "environ_sizes_get"
  (func $environ_sizes_get (param i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "poll_oneoff"
  (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
(memory (export "memory") 4)
(func $write (param $fd i32) (param $at i32) (param $size i32)
  (i32.store (i32.const 0) (local.get $at))
  (i32.store (i32.const 4) (local.get $size))
  (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
"""

PROGRAMS: Final[dict[str, str]] = {
    "hello": """(data (i32.const 64) "hello\\n") (data (i32.const 80) "oh\\n")
        (func (export "_start") (call $write (i32.const 1) (i32.const 64) (i32.const 6))
          (call $write (i32.const 2) (i32.const 80) (i32.const 3)))""",
    # Exits with the number of its arguments beside its own name.
    "count": """(func (export "_start") (drop (call $args_sizes_get (i32.const 0) (i32.const 4)))
        (call $proc_exit (i32.sub (i32.load (i32.const 0)) (i32.const 1))))""",
    # Prints its arguments, each with the NUL that ends it.
    "args": """(func (export "_start") (drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
        (drop (call $args_get (i32.const 1024) (i32.const 4096)))
        (call $write (i32.const 1) (i32.const 4096) (i32.load (i32.const 20))))""",
    "env": """(func (export "_start")
        (drop (call $environ_sizes_get (i32.const 16) (i32.const 20)))
        (drop (call $environ_get (i32.const 1024) (i32.const 4096)))
        (call $write (i32.const 1) (i32.const 4096) (i32.load (i32.const 20))))""",
    # Copies its standard input to its standard output.
    "cat": """(func (export "_start") (loop $more
        (i32.store (i32.const 16) (i32.const 1024)) (i32.store (i32.const 20) (i32.const 65536))
        (drop (call $fd_read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 24)))
        (call $write (i32.const 1) (i32.const 1024) (i32.load (i32.const 24)))
        (br_if $more (i32.load (i32.const 24)))))""",
    # Writes 100,000 bytes in pieces of 1,000.
    "much": """(func (export "_start") (local $n i32)
        (memory.fill (i32.const 1024) (i32.const 120) (i32.const 1000))
        (loop $more (call $write (i32.const 1) (i32.const 1024) (i32.const 1000))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $more (i32.lt_u (local.get $n) (i32.const 100)))))""",
    "endless": """(func (export "_start")
        (memory.fill (i32.const 1024) (i32.const 120) (i32.const 1000))
        (loop $more (call $write (i32.const 1) (i32.const 1024) (i32.const 1000)) (br $more)))""",
    "trap": """(data (i32.const 64) "before\\n")
        (func (export "_start") (call $write (i32.const 1) (i32.const 64) (i32.const 7))
          (unreachable))""",
    "hang": """(data (i32.const 64) "before\\n")
        (func (export "_start") (call $write (i32.const 1) (i32.const 64) (i32.const 7))
          (loop (br 0)))""",
    # Sleeps for an hour: one subscription to the monotonic clock (witx: subscription, 48 bytes).
    "sleep": """(data (i32.const 64) "before\\n")
        (func (export "_start") (call $write (i32.const 1) (i32.const 64) (i32.const 7))
          (i32.store (i32.const 144) (i32.const 1))
          (i64.store (i32.const 152) (i64.const 3600000000000))
          (drop (call $poll_oneoff (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 320))))
    """,
    "bytes": """(data (i32.const 64) "\\ff\\00\\1b[31m\\c3\\a9")
        (func (export "_start") (call $write (i32.const 1) (i32.const 64) (i32.const 9)))""",
    # A reactor: its function gives what _initialize has set.
    "reactor": """(global $set (mut i32) (i32.const 1))
        (func (export "_initialize") (global.set $set (i32.mul (global.get $set) (i32.const 42))))
        (func (export "run") (result i32) (global.get $set))""",
    "bad-reactor": """(func (export "_initialize") (unreachable))
        (func (export "run") (result i32) (i32.const 1))""",
    "exiting-reactor": """(func (export "_initialize") (call $proc_exit (i32.const 5)))
        (func (export "run") (result i32) (i32.const 1))""",
}


@pytest.fixture(scope="module", params=["process", "instance"])
def daemon(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """Give one running daemon with all programs, with either isolation."""
    it = Daemon(
        tmp_path_factory.mktemp("wasi"),
        SECRET="not for guests",  # noqa: S106 - none
        WASMDROP_ISOLATION=request.param,
    )
    drop(it.wasm / "module.wasm", bytes(wat2wasm(FIB)))
    for name, body in PROGRAMS.items():
        drop(it.wasm / f"{name}.wasm", bytes(wat2wasm(f"(module {WASI} {body})")))
    with it.running():
        yield it


@pytest.fixture(autouse=True)
def _no_fault(daemon: Daemon) -> Iterator[None]:
    """Check that no case makes the daemon log a fault of its own."""
    before = len(faults(daemon))
    yield
    assert faults(daemon)[before:] == []


class Run:
    """One run of a program, and all that it left."""

    def __init__(self, daemon: Daemon, slot: str, program: str, **keys: Any) -> None:
        name = f"input-{slot}.json"
        self.marker = daemon.submit(name, {"module": program, **keys})
        self.code = self.marker["code"]
        self.message = self.marker["message"]
        self.result = daemon.result(name)
        text = daemon.result_path(name, ".txt").read_text()
        self.raw_value = text.splitlines()[-1]
        self.files = {
            suffix: _content(daemon.result_path(name, suffix)) for suffix in (".stdout", ".stderr")
        }


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def test_a_command_gives_its_output_and_its_exit_code(daemon: Daemon) -> None:
    """Both streams apart, in the result and in files of their own."""
    run = Run(daemon, "hello", "hello")
    assert run.code == "ok"
    assert list(run.result) == ["entry", "args", "results", "exit_code", "stdout", "stderr"]
    assert run.result["entry"] == "_start"
    assert run.result["results"] == []
    assert (run.result["exit_code"], run.raw_value) == (0, "0")
    assert (run.result["stdout"], run.result["stderr"]) == ("hello\n", "oh\n")
    assert run.files == {".stdout": b"hello\n", ".stderr": b"oh\n"}
    assert set(run.marker["files"]) == {
        f"result-hello{suffix}" for suffix in (".json", ".txt", ".stdout", ".stderr")
    }


@pytest.mark.parametrize("status", [0, 1, 3, 125, 126, 200, 255])
def test_every_exit_code_arrives(daemon: Daemon, status: int) -> None:
    """0 is success; all others are the guest's own failure, and the raw value."""
    run = Run(daemon, f"exit-{status}", "count", args=["x"] * status)
    assert run.code == ("exit" if status else "ok")
    assert run.result["exit_code"] == status
    assert run.raw_value == str(status)
    if status:
        assert str(status) in run.message
        assert run.result["error"] == {"code": "exit", "message": run.message}


def test_arguments_arrive_as_they_are(daemon: Daemon) -> None:
    """After the program's name; empty ones, spaces, newlines and any character."""
    args = ["", "a b", "-x", "line\nbreak", "é💧", "'\"\\"]
    run = Run(daemon, "args", "args", args=args)
    assert (run.files[".stdout"] or b"").decode().split("\0")[1:-1] == args
    assert run.result["args"] == args


@pytest.mark.parametrize("arg", [None, True, [], {}, "nul\0"])
def test_an_argument_that_is_no_string_is_refused(daemon: Daemon, arg: Any) -> None:
    """With its place."""
    run = Run(daemon, "no-arg", "args", args=["first", arg])
    assert run.code == "invalid-args"
    assert run.message.startswith("args[1]: ")
    assert run.raw_value == "error"


def test_the_environment_is_the_inputs_and_nothing_else(daemon: Daemon) -> None:
    """Not one variable of the daemon's."""
    run = Run(daemon, "env", "env", env={"A": "1", "B": "x=y z", "EMPTY": ""})
    assert (run.files[".stdout"] or b"").decode().split("\0")[:-1] == ["A=1", "B=x=y z", "EMPTY="]
    assert Run(daemon, "no-env", "env").files[".stdout"] == b""


@pytest.mark.parametrize(
    ("stdin", "expected"),
    [
        (None, b""),
        ("", b""),
        ("text é\n", "text é\n".encode()),
        ({"base64": base64.b64encode(bytes(range(256))).decode()}, bytes(range(256))),
        ({"base64": base64.b64encode(b"0123456789" * 50_000).decode()}, b"0123456789" * 50_000),
    ],
    ids=["none", "empty", "text", "bytes", "half-a-megabyte"],
)
def test_standard_input_arrives_whole(
    daemon: Daemon, request: pytest.FixtureRequest, stdin: Any, expected: bytes
) -> None:
    """Text as UTF-8, base64 as bytes; without any the program is at the end of its input."""
    run = Run(daemon, request.node.callspec.id, "cat", stdin=stdin)
    assert run.files[".stdout"] == expected
    assert run.code == "ok"


def test_much_output_is_whole_in_its_file_and_cut_in_the_result(daemon: Daemon) -> None:
    """64 KiB are shown, and the result says that there is more."""
    run = Run(daemon, "much", "much")
    assert run.code == "ok"
    assert run.files[".stdout"] == b"x" * 100_000
    assert run.result["stdout"] == "x" * 65_536
    assert run.result["stdout_truncated"] is True
    assert "stderr_truncated" not in run.result


def test_a_cut_in_the_middle_of_a_character_shows_no_half(daemon: Daemon) -> None:
    """The shown text is a beginning of the whole text."""
    text = "x" + "é" * 40_000
    run = Run(daemon, "cut", "cat", stdin=text)
    assert text.startswith(run.result["stdout"])
    assert run.result["stdout_truncated"] is True


def test_output_that_is_no_text_is_shown_as_text_and_kept_as_it_is(daemon: Daemon) -> None:
    """Whatever a program prints, the result line stays JSON."""
    run = Run(daemon, "bytes", "bytes")
    assert run.files[".stdout"] == b"\xff\x00\x1b[31m\xc3\xa9"
    assert run.result["stdout"] == "\ufffd\x00\x1b[31mé"


def test_too_much_output_ends_the_program_and_keeps_what_it_wrote(daemon: Daemon) -> None:
    """Up to the limit, to the byte."""
    run = Run(daemon, "endless", "endless", output_mb=0.25)
    assert run.code == "output-limit"
    assert "262144" in run.message
    assert run.files[".stdout"] == b"x" * 262_144
    assert run.result["stdout_truncated"] is True
    assert run.raw_value == "error"


@pytest.mark.parametrize(
    ("program", "code", "words"),
    [
        ("trap", "trap", "unreachable"),
        ("hang", "timeout", "ran longer than 0.3 s"),
        ("sleep", "timeout", "ran longer than 0.3 s"),
    ],
)
def test_what_was_written_before_the_end_is_kept(
    daemon: Daemon, program: str, code: str, words: str
) -> None:
    """Whether it trapped, was killed in its own code or in the middle of a sleep."""
    run = Run(daemon, program, program, timeout_sec=0.3)
    assert run.code == code
    assert words in run.message
    assert run.files == {".stdout": b"before\n", ".stderr": b""}
    assert run.result["stdout"] == "before\n"
    assert run.raw_value == "error"
    assert run.marker["seconds"]["run"] < 5


def test_files_of_an_earlier_command_go_with_the_next_result(daemon: Daemon) -> None:
    """A slot never holds results of two jobs."""
    run = Run(daemon, "mixed", "hello")
    assert run.files[".stdout"] == b"hello\n"
    run = Run(daemon, "mixed", "module", entry="fib", args=[12])
    assert run.result == {"entry": "fib", "args": [12], "results": [144]}
    assert run.files == {".stdout": None, ".stderr": None}


def test_a_reactor_is_initialized_once_before_its_function(daemon: Daemon) -> None:
    """And its instance is a fresh one for each job."""
    for number in range(2):
        assert Run(daemon, "reactor", "reactor", id=str(number)).result["results"] == [42]


@pytest.mark.parametrize(
    ("program", "code"), [("bad-reactor", "trap"), ("exiting-reactor", "exit")]
)
def test_a_reactor_that_fails_to_initialize_fails(daemon: Daemon, program: str, code: str) -> None:
    """Its function is not called."""
    run = Run(daemon, program, program)
    assert run.code == code
    assert "results" not in run.result
