"""Open descriptors: write them completely, and open what they refer to safely."""

import errno
import os
import stat
from typing import Final

#: To open a directory, and no link to one.
DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: To create a file for writing that must not exist yet.
CREATE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotRegularError(OSError):
    """A file is not a regular one; ``strerror`` names its kind."""


def file_kind(status: os.stat_result) -> str | None:
    """Return the kind of a file that is not a regular one, for a message."""
    if stat.S_ISREG(status.st_mode):
        return None
    return _KINDS.get(stat.S_IFMT(status.st_mode), "a special file")


def open_regular(path_fd: int, flags: int = os.O_RDONLY) -> tuple[int, os.stat_result]:
    """Open the regular file that an ``O_PATH`` descriptor refers to; return its status too.

    Nothing but a regular file is opened, so that a FIFO or a device can't block or have an effect,
    and the file is the one that was looked at, whatever has its name by now. Raises
    ``NotRegularError``, and ``OSError`` as open(2) does; with ``EAGAIN`` for a file that another
    process holds a lease of.
    """
    status = os.fstat(path_fd)
    kind = file_kind(status)
    if kind is not None:
        raise NotRegularError(errno.EINVAL, kind)
    return reopen(path_fd, flags), status


def reopen(path_fd: int, flags: int = os.O_RDONLY) -> int:
    """Open the file that an ``O_PATH`` descriptor refers to, which must be a regular one."""
    return os.open(f"/proc/self/fd/{path_fd}", flags | os.O_NONBLOCK | os.O_CLOEXEC)


def write_all(fd: int, data: "bytes | bytearray | memoryview") -> None:
    """Write all of ``data``: write(2) may write less."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
