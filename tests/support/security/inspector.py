"""Start a daemon and try to inspect it, as a process of the same user that may do all that it may.

Usage: ``python inspector.py COMMAND...``. Runs the command and waits until it logs ``ready``. As
its parent it may trace it even if the kernel lets processes trace only their descendants (Yama).
Prints one line of JSON: for each attempt, the name of the error, or an empty text if it succeeded.
"""

import contextlib
import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.process_vm_readv.restype = ctypes.c_ssize_t
_PTRACE_ATTACH: Final = 16
_PTRACE_DETACH: Final = 17


def main(command: list[str]) -> None:
    """Start the daemon, make the attempts, end the daemon."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as daemon:
        assert daemon.stderr is not None
        while b'"event":"ready"' not in (line := daemon.stderr.readline()):
            if not line:
                sys.exit("the daemon did not start")
        results = {}
        for attempt in (open_memory, list_memory, read_at_once, trace):
            results[attempt.__name__] = _error_of(attempt, daemon.pid)
        daemon.send_signal(signal.SIGABRT)  # its default is to dump a core
        _, status = os.waitpid(daemon.pid, 0)
        results["dump_core"] = "" if os.WCOREDUMP(status) else "none"
        daemon.returncode = os.waitstatus_to_exitcode(status)
    sys.stdout.write(json.dumps(results))


def _error_of(attempt: Callable[[int], None], pid: int) -> str:
    try:
        attempt(pid)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def open_memory(pid: int) -> None:
    """Read the first byte of the program through ``/proc``."""
    fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    os.close(fd)


def list_memory(pid: int) -> None:
    """Learn the addresses."""
    fd = os.open(f"/proc/{pid}/maps", os.O_RDONLY)
    with contextlib.closing(os.fdopen(fd, "rb")) as file:
        file.read(1)


def read_at_once(pid: int) -> None:
    """Read by a system call; a daemon has this library at the same place only by luck."""
    into = ctypes.create_string_buffer(1)
    near = (ctypes.c_size_t * 2)(ctypes.addressof(into), 1)
    far = (ctypes.c_size_t * 2)(1, 1)
    done = _LIBC.process_vm_readv(pid, near, 1, far, 1, 0)
    # The address is wrong, which is found out after the permission is given.
    if done < 0 and ctypes.get_errno() != errno.EFAULT:
        raise OSError(ctypes.get_errno(), "process_vm_readv")


def trace(pid: int) -> None:
    """Control the process."""
    if _LIBC.ptrace(_PTRACE_ATTACH, pid, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(pid, os.WUNTRACED)
    _LIBC.ptrace(_PTRACE_DETACH, pid, 0, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
