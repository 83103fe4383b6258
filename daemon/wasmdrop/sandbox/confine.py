"""Confinement: what a child gives up before it touches a byte of the guest.

Called in the child, first when it is forked (:func:`on_fork`), then when its order is known and
before the order's descriptors are used (:func:`for_order`).
"""

import ctypes
import os
import resource
import signal
from typing import Final

__all__ = ["for_order", "on_fork"]

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38

_libc = ctypes.CDLL(None, use_errno=True)


def on_fork(parent_pid: int) -> None:
    """Make the calling process nobody's but its parent's: own session, no privileges to gain."""
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the line above took hold
        os.kill(os.getpid(), signal.SIGKILL)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def for_order(*, cpu_seconds: int, file_bytes: int, data_bytes: int) -> None:
    """Set the limits that depend on the order.

    ``data_bytes`` bounds what is really writable (``RLIMIT_DATA``): wasmtime reserves address space
    by the gigabyte, so ``RLIMIT_AS`` would refuse modules that are quite small.

    The CPU limit is a second line behind the daemon's own clock: ``SIGXCPU`` ends a process that
    the daemon could not kill because it was itself stopped.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
