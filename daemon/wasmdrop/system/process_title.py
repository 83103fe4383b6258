"""Process titles: what ps(1) and top(1) show instead of the command line and the program's name."""

import contextlib
import ctypes
import functools
from pathlib import Path
from typing import Final

from wasmdrop.system import libc

_PR_SET_NAME: Final = 15
#: Where the fields after the name are the addresses of the command line; see proc_pid_stat(5).
_ARG_START: Final = 45


def set_process_title(title: str) -> None:
    """Show ``title`` as the command line of this process, and its first bytes as the name.

    A process whose command line is short shows only the start. Call it from the main thread. All
    users of the host see it, so a title has no secrets, and nothing of a job.
    """
    text = title.encode(errors="surrogateescape")
    start, size = _command_line()
    if size:
        # If the last byte is not NUL, the kernel ends the command line at the first one that is.
        ctypes.memmove(start, text[: size - 2].ljust(size - 1, b"\0") + b"\n", size)
    set_process_name(text)


def set_process_name(name: bytes) -> None:
    """Set only the name of this process, of which the kernel keeps 15 bytes."""
    buffer = ctypes.create_string_buffer(name)
    with contextlib.suppress(OSError):  # a container may forbid it
        libc.prctl(_PR_SET_NAME, ctypes.addressof(buffer))


@functools.cache
def _command_line() -> tuple[int, int]:
    """Return the address and size of the command line in memory; a size of 0 if it is unknown.

    A child has it in the same place as its parent.
    """
    try:
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        start, end = map(int, fields[_ARG_START : _ARG_START + 2])
    except (OSError, ValueError):
        return 0, 0
    return (start, end - start) if 0 < start < end - 2 else (0, 0)
