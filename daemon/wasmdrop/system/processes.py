"""Lifetime: a process that ends with the one that started it, however that ends."""

import ctypes
import os
import signal
from typing import Final

__all__ = ["die_with"]

_PR_SET_PDEATHSIG: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)


def die_with(parent_pid: int) -> None:
    """Have the kernel kill the calling process when its parent dies (prctl(2)); ends it if it has.

    Raises ``OSError``.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getppid() != parent_pid:  # it died before the line above took hold
        os._exit(0)
