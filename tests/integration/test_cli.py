"""Behaviour that all commands share."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.daemon import wait_until

#: The number of write(2) on x86-64 and on 64-bit ARM.
_WRITE: Final = {"1", "64"}


def test_command_that_is_interrupted_prints_no_traceback() -> None:
    """Ctrl-C while a reader keeps the command waiting.

    It has the exit status that shells expect.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    room = b"x" * 4096
    while True:
        try:
            os.write(writer, room)
        except BlockingIOError:
            break
    os.set_blocking(writer, True)
    process = subprocess.Popen(
        [sys.executable, "-m", "wasmdrop", "config"], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    wait_until(lambda: _writes(process.pid), "the command to write")
    process.send_signal(signal.SIGINT)
    with os.fdopen(reader, "rb") as drained:
        _rest = drained.read()
    _out, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (128 + signal.SIGINT, b"")


@pytest.mark.parametrize(
    "words",
    [
        ["submit", "--\x1b]0;owned\x07\n\u202e"],
        ["submit", "--args", "[", "\x1b]0;owned\x07\n\x9b\u202e"],
        ["submit", "--name", "\x1b]0;owned\x07\n\u202e"],
        ["config", "--wasm-dir", "\x1b]0;owned\x07\n\u2028", "--workers", "\x1b]0;"],
        ["inspect", "\x1b]0;owned\x07\n\u2028.wasm"],
        ["key", "show", "\x1b]0;owned\x07\n\u2028.pem"],
        ["key", "new", "no/\x1b]0;owned\x07\n\u2028.pem"],
        ["receipt", "merge", "\x1b]0;owned\x07\n\u2028", "b.receipt"],
        ["fetch", "\x1b]0;owned\x07\n\u2028", "--gateway", "http://localhost"],
        ["fetch", "http://localhost/#sha256=" + "0" * 64, "--into", "\x1b]0;owned\x07\n\u2028"],
        ["\x1b]0;owned\x07\n"],
    ],
)
def test_error_with_escape_sequences_does_not_act_on_a_terminal(words: list[str]) -> None:
    """A shell pattern may match names that other users chose."""
    ended = subprocess.run(
        [sys.executable, "-m", "wasmdrop", *words], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    lines = ended.stderr.split("\n")
    assert [line for line in lines if not line.isprintable()] == []
    assert sum(line.startswith("wasmdrop") for line in lines) == 1


def _writes(pid: int) -> bool:
    """Return whether a process is blocked in a write to its standard output (proc(5))."""
    number, *arguments = Path(f"/proc/{pid}/syscall").read_text().split()
    return number in _WRITE and arguments[:1] == ["0x1"]


def test_command_whose_file_names_are_not_utf8_ends_with_a_line() -> None:
    """Another encoding would publish other names of output files, and sign them."""
    variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "wasmdrop", "config"],
        env={"PATH": os.environ["PATH"]} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("wasmdrop: the locale: file names would be read as ascii; ")
    assert done.stderr.count("\n") == 1
