"""The one binding of the C library: system calls that Python's ``os`` module does not have.

Each function raises ``OSError`` with the call's errno.
"""

import ctypes
import os
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
_LIBC.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def syscall(number: int, *args: object) -> int:
    """Make a system call. Integers are passed as C ``int``; wrap those that may be wider."""
    return _checked(_LIBC.syscall(ctypes.c_long(number), *args))


def prctl(option: int, *args: int) -> int:
    """Control the calling process or thread. Arguments that are left out are 0."""
    longs = (ctypes.c_ulong(arg) for arg in (*args, 0, 0, 0, 0)[:4])
    return _checked(_LIBC.prctl(option, *longs))


def capset(header: ctypes.Structure, data: "ctypes.Array[ctypes.c_uint32]") -> None:
    """Set the capabilities of the calling thread."""
    _checked(_LIBC.capset(ctypes.byref(header), data))


def sync_file_range(fd: int, offset: int, size_bytes: int, flags: int) -> None:
    """Write out a range of a file, as the flags say. A size of 0 is the rest of the file."""
    _checked(_LIBC.sync_file_range(fd, offset, size_bytes, flags))


def _checked(result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
