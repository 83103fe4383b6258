"""WASI commands and reactors: their input, their output, and the output of those that fail."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop
from tests.support.fib import with_fib
from tests.support.guests import running_in
from tests.support.outcomes import Run
from tests.support.wasi_programs import STREAM_PROGRAMS, STREAMS

pytestmark = pytest.mark.usefixtures("no_fault")


@pytest.fixture(scope="module")
def daemon(guest: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one running daemon with all programs."""
    it = with_fib(
        tmp_path_factory.mktemp("wasi"),
        SECRET="not for guests",  # noqa: S106 - none
    )
    for name, body in STREAM_PROGRAMS.items():
        drop(it.wasm / f"{name}.wasm", bytes(wat2wasm(f"(module {STREAMS} {body})")))
    with running_in(guest, it):
        yield it


def test_command_gives_its_output_and_its_exit_code(daemon: Daemon) -> None:
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
def test_command_exit_code_of_any_value_arrives(daemon: Daemon, status: int) -> None:
    """0 is success; all others are the guest's own failure, and the raw value."""
    run = Run(daemon, f"exit-{status}", "count", args=["x"] * status)
    assert run.code == ("exit" if status else "ok")
    assert run.result["exit_code"] == status
    assert run.raw_value == str(status)
    if status:
        assert str(status) in run.message
        assert run.result["error"] == {"code": "exit", "message": run.message}


def test_command_arguments_arrive_unchanged(daemon: Daemon) -> None:
    """After the program's name; empty ones, spaces, newlines and any character."""
    args = ["", "a b", "-x", "line\nbreak", "é💧", "'\"\\"]
    run = Run(daemon, "args", "args", args=args)
    assert (run.files[".stdout"] or b"").decode().split("\0")[1:-1] == args
    assert run.result["args"] == args


@pytest.mark.parametrize("arg", [None, True, [], {}, "nul\0"])
def test_command_argument_that_is_no_string_is_refused(daemon: Daemon, arg: Any) -> None:
    """With its place."""
    run = Run(daemon, "no-arg", "args", args=["first", arg])
    assert run.code == "invalid-args"
    assert run.message.startswith("args[1]: ")
    assert run.raw_value == "error"


def test_command_environment_is_the_inputs_and_nothing_else(daemon: Daemon) -> None:
    """No variable of the daemon's."""
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
def test_command_standard_input_arrives_whole(
    daemon: Daemon, request: pytest.FixtureRequest, stdin: Any, expected: bytes
) -> None:
    """Text as UTF-8, base64 as bytes; without any the program reads end-of-file."""
    run = Run(daemon, request.node.callspec.id, "cat", stdin=stdin)
    assert run.files[".stdout"] == expected
    assert run.code == "ok"


def test_command_with_much_output_has_it_whole_in_its_file_and_cut_in_the_result(
    daemon: Daemon,
) -> None:
    """64 KiB are shown, and the result says that there is more."""
    run = Run(daemon, "much", "much")
    assert run.code == "ok"
    assert run.files[".stdout"] == b"x" * 100_000
    assert run.result["stdout"] == "x" * 65_536
    assert run.result["stdout_truncated"] is True
    assert "stderr_truncated" not in run.result


def test_command_output_cut_in_the_middle_of_a_character_shows_no_half(daemon: Daemon) -> None:
    """The shown text is a prefix of the whole text."""
    text = "x" + "é" * 40_000
    run = Run(daemon, "cut", "cat", stdin=text)
    assert text.startswith(run.result["stdout"])
    assert run.result["stdout_truncated"] is True


def test_command_output_that_is_no_text_is_shown_as_text_and_kept_as_bytes(daemon: Daemon) -> None:
    """Whatever a program prints, the result line stays JSON."""
    run = Run(daemon, "bytes", "bytes")
    assert run.files[".stdout"] == b"\xff\x00\x1b[31m\xc3\xa9"
    assert run.result["stdout"] == "\ufffd\x00\x1b[31mé"


def test_command_with_too_much_output_is_ended_and_its_output_kept(daemon: Daemon) -> None:
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
def test_command_that_is_ended_keeps_its_output(
    daemon: Daemon, program: str, code: str, words: str
) -> None:
    """It trapped, or was killed in its own code or in the middle of a sleep."""
    run = Run(daemon, program, program, timeout_sec=0.3)
    assert run.code == code
    assert words in run.message
    assert run.files == {".stdout": b"before\n", ".stderr": b""}
    assert run.result["stdout"] == "before\n"
    assert run.raw_value == "error"
    assert run.marker["seconds"]["run"] < 5


def test_command_output_files_are_removed_with_the_next_result(daemon: Daemon) -> None:
    """A slot never holds results of two jobs."""
    run = Run(daemon, "mixed", "hello")
    assert run.files[".stdout"] == b"hello\n"
    run = Run(daemon, "mixed", "module", entry="fib", args=[12])
    assert run.result == {"entry": "fib", "args": [12], "results": [144]}
    assert run.files == {".stdout": None, ".stderr": None}


def test_reactor_is_initialized_once_before_its_function(daemon: Daemon) -> None:
    """In a fresh instance for each job."""
    for number in range(2):
        assert Run(daemon, "reactor", "reactor", id=str(number)).result["results"] == [42]


@pytest.mark.parametrize(
    ("program", "code"), [("bad-reactor", "trap"), ("exiting-reactor", "exit")]
)
def test_reactor_that_fails_to_initialize_fails(daemon: Daemon, program: str, code: str) -> None:
    """Its function is not called."""
    run = Run(daemon, program, program)
    assert run.code == code
    assert "results" not in run.result
