"""Opening what lies below a directory without ever leaving it (openat2(2)).

Everything below the shared directory may be made by somebody hostile, links above all. These
functions only look (``O_PATH``): nothing that is found is opened, so neither FIFO nor device can
block or be disturbed.
"""

import ctypes
import errno
import os
import stat
from pathlib import PurePosixPath
from typing import Final

__all__ = ["open_directory", "open_path"]

_SYS_OPENAT2: Final = 437  # the same on every architecture: newer than the split tables
_NO_MAGICLINKS: Final = 0x02
_NO_SYMLINKS: Final = 0x04
_BENEATH: Final = 0x08

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_path(root: str, relative: str) -> int:
    """Return an ``O_PATH`` descriptor of ``relative`` below ``root``.

    Follows links only while they stay below ``root``, as ConfigMap volumes need it. Raises
    ``OSError``: ``EXDEV`` for a link that leads out, ``ELOOP`` for circles and links of ``/proc``.
    """
    with _Root(root) as root_fd:
        return _open(root_fd, relative, os.O_PATH, _BENEATH | _NO_MAGICLINKS)


def open_directory(root: str, relative: str) -> int:
    """Return a readable descriptor of the directory ``relative`` below ``root``.

    Follows no links at all below ``root``; ``OSError`` with ``ELOOP`` where there are some.
    """
    with _Root(root) as root_fd:
        return _open(root_fd, relative, os.O_RDONLY | os.O_DIRECTORY, _BENEATH | _NO_SYMLINKS)


class _Root:
    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> int:
        self._fd = os.open(self._path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return self._fd

    def __exit__(self, *_exc: object) -> None:
        os.close(self._fd)


def _open(root_fd: int, relative: str, flags: int, resolve: int) -> int:
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    fd = _libc.syscall(
        _SYS_OPENAT2, root_fd, os.fsencode(relative), ctypes.byref(how), ctypes.sizeof(how)
    )
    if fd >= 0:
        return int(fd)
    number = ctypes.get_errno()
    if number == errno.ENOSYS:  # a kernel before 5.6, or a sandbox such as gVisor
        return _walk(root_fd, relative, flags)
    raise OSError(number, os.strerror(number), relative)


def _walk(root_fd: int, relative: str, flags: int) -> int:
    """Do without openat2: follow no link at all, one component at a time."""
    fd = os.dup(root_fd)
    parts = PurePosixPath(relative).parts
    for index, component in enumerate(parts):
        wanted = flags if index == len(parts) - 1 else os.O_PATH | os.O_DIRECTORY
        try:
            deeper = os.open(component, wanted | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        finally:
            os.close(fd)
        fd = deeper
    if stat.S_ISLNK(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), relative)
    return fd
