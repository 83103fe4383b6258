"""Behaviour that all commands share."""

import json
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


#: Runs the command line, and raises what Ctrl-C does when it imports a certain module.
_INTERRUPTED_IMPORT: Final = """
import sys
interrupted = sys.argv.pop(1)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == interrupted:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
from wasmdrop.cli.main import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    "module", ["wasmdrop.cli.command_line", "argparse", "msgspec", "wasmdrop.cli.config", "rich"]
)
def test_command_that_is_interrupted_while_it_imports_prints_no_traceback(module: str) -> None:
    """Imports take most of the time of a short command."""
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_IMPORT, module, "config"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "", "")


@pytest.mark.parametrize("handler", ["default_int_handler", "SIG_IGN"])
def test_interrupt_after_the_command_ends_the_process_without_a_traceback(handler: str) -> None:
    """Unless it is ignored, as in a background job of a shell."""
    program = f"""
import atexit, os, signal, sys
signal.signal(signal.SIGINT, signal.{handler})
atexit.register(os.kill, os.getpid(), signal.SIGINT)
from wasmdrop.cli.main import main
sys.argv = ["wasmdrop", "schema"]
sys.exit(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    expected = 0 if handler == "SIG_IGN" else -signal.SIGINT
    assert (done.returncode, done.stderr) == (expected, "")
    assert json.loads(done.stdout)


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
