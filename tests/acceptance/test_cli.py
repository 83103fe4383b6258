"""The command itself, whichever command is chosen."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.acceptance.daemon import wait_until

#: The number of write(2) on x86-64 and on 64-bit ARM.
_WRITE: Final = {"1", "64"}


def test_an_interrupt_is_no_traceback() -> None:
    """Ctrl-C while a reader lets the command wait: nothing but the status that shells know."""
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


def _writes(pid: int) -> bool:
    """Whether a process is stuck in a write to its standard output (proc(5))."""
    number, *arguments = Path(f"/proc/{pid}/syscall").read_text().split()
    return number in _WRITE and arguments[:1] == ["0x1"]
