"""Opens what lies below a directory without ever leaving it, however its content changes meanwhile.

Everything below the shared directory may be made by a hostile user, links above all. Paths are
walked one component at a time, each from the descriptor of the one before it, so that no name is
looked up twice. ``O_PATH`` only looks: neither a FIFO nor a device can block or notice.

openat2(2) with ``RESOLVE_BENEATH`` would stay below the directory as well, but does not tell whose
links it followed. With links allowed, a user could have the daemon read what only another user may
read. So a link is followed only to what belongs to the owner of the link, unless the link is root's
or the daemon's own, as in ConfigMap and Secret volumes.

A mount whose server is gone holds up whoever looks at it. A link leads to no other mount than the
one that it is on, and a thread that must not hang enters none below the directory where it begins.
"""

import contextlib
import ctypes
import errno
import os
import stat
import threading
from collections.abc import Iterator
from enum import Enum
from typing import Final

from wasmdrop.system import libc
from wasmdrop.system.descriptors import open_regular

__all__ = [
    "DanglingLinkError",
    "ForeignLinkError",
    "Links",
    "OtherMountError",
    "lstat",
    "names_in",
    "open_at",
    "open_directory",
    "open_in",
    "open_path",
    "open_regular_at",
    "status",
    "staying_on_mounts",
]

_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_STEP: Final = _LOOK | os.O_DIRECTORY
_ROOT: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_READ_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY

#: Links on one path: what Linux follows itself (path_resolution(7)).
_MOST_LINKS: Final = 40

#: What would tell the owner of a link whether a path exists that only others may see.
_TELLING: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EXDEV})


#: openat2(2), the same on every architecture.
_OPENAT2: Final = 437
_RESOLVE_NO_XDEV: Final = 0x01
#: What a kernel before 5.6, gVisor, or a container's filter of system calls says of it.
_NO_OPENAT2: Final = frozenset({errno.ENOSYS, errno.EPERM})


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _Thread(threading.local):
    stays = False


_thread: Final = _Thread()


@contextlib.contextmanager
def staying_on_mounts() -> Iterator[None]:
    """Let this thread enter no mount below a root: ``OtherMountError`` is raised before that."""
    before, _thread.stays = _thread.stays, True
    try:
        yield
    finally:
        _thread.stays = before


class OtherMountError(OSError):
    """Something is mounted on the way, and may hang."""


class Links(Enum):
    """Which components of a path may be links."""

    NONE = "none"
    LAST = "last"
    """The last one, and those that it leads through: a file in a ConfigMap volume."""
    ANY = "any"


class DanglingLinkError(FileNotFoundError):
    """A link to nothing."""


class ForeignLinkError(PermissionError):
    """A link that leads to what does not belong to the link's owner, to nothing, or out.

    Which of these, its owner must not learn.
    """


def open_path(root: str, relative: str, links: Links = Links.ANY) -> int:
    """Return an ``O_PATH`` descriptor of ``relative`` below ``root``; never that of a link.

    Raises ``FileNotFoundError``, for a link to nothing ``DanglingLinkError``; ``ForeignLinkError``;
    ``OSError`` with ``EXDEV`` for what leads out of ``root``, with ``ELOOP`` for a link that is not
    allowed or links in a circle, and as open(2) does.
    """
    return open_in(root, relative, links)[0]


def open_in(
    root: str, relative: str, links: Links = Links.ANY
) -> tuple[int, os.stat_result | None]:
    """Do what :func:`open_path` does; return the status of the directory of ``relative``, too.

    That is the directory in which the last name was found, be it that of a link.
    """
    way = _Way(root, relative, links)
    try:
        return way.walk(), way.directory
    except OSError as error:
        if way.owners and error.errno in _TELLING:
            raise _foreign(relative) from None
        if way.followed and error.errno == errno.ENOENT:
            raise DanglingLinkError(errno.ENOENT, "a link to nothing", relative) from None
        raise
    finally:
        way.close()


class _Way:
    """The way to a path, with its links."""

    def __init__(self, root: str, relative: str, links: Links) -> None:
        self.followed = 0
        """Links so far."""
        self.owners: set[int] = set()
        """Of these, who may not have the daemon read what others own."""
        self.directory: os.stat_result | None = None
        """Of the directory of the last name."""
        self._relative = relative
        self._links = links
        self._left = _parts(relative)[::-1]
        self._held = [os.open(root, _ROOT)]
        """Descriptors of the directories that the way leads through, the root first."""

    def walk(self) -> int:
        """Return a descriptor of what is at the end."""
        while self._left:
            name = self._left.pop()
            if not self._left and not self.followed:
                self.directory = os.fstat(self._held[-1])
            if name == "..":
                os.close(self._held.pop())
                if not self._held:
                    raise _error(errno.EXDEV, self._relative)
                continue
            self._held.append(self._step(name))
            status = os.fstat(self._held[-1])
            if stat.S_ISLNK(status.st_mode):
                self._follow(status.st_uid)
        if self.owners and self.owners != {os.fstat(self._held[-1]).st_uid}:
            raise _foreign(self._relative)
        return self._held.pop()

    def _step(self, name: str) -> int:
        if not self.followed:
            return _open(self._held[-1], name, _LOOK)
        try:
            return _open_on_mount(self._held[-1], name, _LOOK)
        except OtherMountError:
            raise _foreign(self._relative) from None

    def close(self) -> None:
        """Let go of the directories."""
        for fd in self._held:
            os.close(fd)

    def _follow(self, owner: int) -> None:
        self.followed += 1
        is_last = self.followed > 1 or not self._left
        is_allowed = self._links is Links.ANY or (self._links is Links.LAST and is_last)
        if not is_allowed or self.followed > _MOST_LINKS:
            raise _error(errno.ELOOP, self._relative)
        if owner not in {0, os.geteuid()}:
            self.owners.add(owner)
        # Of the very link that was looked at, whatever has its name by now.
        link = self._held.pop()
        try:
            self._left += _parts(os.readlink("", dir_fd=link))[::-1]
        finally:
            os.close(link)


def open_directory(root: str, relative: str) -> int:
    """Return a readable descriptor of the directory ``relative`` below ``root``; no link counts.

    Raises ``OSError``, with ``ELOOP`` where a link is on the way.
    """
    if not relative.strip("/"):
        return os.open(root, _READ_DIRECTORY | os.O_CLOEXEC)
    root_fd = os.open(root, _ROOT)
    try:
        return open_at(root_fd, relative, _READ_DIRECTORY)
    finally:
        os.close(root_fd)


def open_at(directory: int, relative: str, flags: int, mode: int = 0o777) -> int:
    """Open ``relative`` below the directory open at ``directory``; follow no link.

    Raises ``OSError``, with ``EXDEV`` for ``..``, with ``ELOOP`` for links.
    """
    *above, name = _parts(relative)
    if ".." in (*above, name):
        raise _error(errno.EXDEV, relative)
    held = directory
    try:
        for step in above:
            deeper = _open_here(held, step, _STEP)
            if held != directory:
                os.close(held)
            held = deeper
        return _open_here(held, name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    finally:
        if held != directory:
            os.close(held)


def open_regular_at(
    directory: int, relative: str, flags: int = os.O_RDONLY
) -> tuple[int, os.stat_result]:
    """Open a regular file below the directory open at ``directory``; return its status too.

    Follows no link. Raises as :func:`open_at` and :func:`.descriptors.open_regular` do.
    """
    path_fd = open_at(directory, relative, _LOOK)
    try:
        return open_regular(path_fd, flags)
    finally:
        os.close(path_fd)


def status(root: str, relative: str, links: Links = Links.ANY) -> os.stat_result:
    """Return the status of ``relative`` below ``root``. Raises ``OSError`` as :func:`open_path`."""
    fd = open_path(root, relative, links)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def names_in(root: str, relative: str) -> list[str]:
    """Return the names in the directory ``relative``. Raises as :func:`open_directory` does."""
    fd = open_directory(root, relative)
    try:
        with os.scandir(fd) as entries:
            return [entry.name for entry in entries]
    finally:
        os.close(fd)


def lstat(root: str, relative: str) -> os.stat_result:
    """Return the status of ``relative`` below ``root``, of a link itself; others lead nowhere.

    Raises ``OSError`` as :func:`open_at` does.
    """
    fd = os.open(root, _ROOT)
    try:
        if not relative.strip("/"):
            return os.fstat(fd)
        found = open_at(fd, relative, _LOOK)
        os.close(fd)
        fd = found
        return os.fstat(fd)
    finally:
        os.close(fd)


def _open(directory: int, name: str, flags: int, mode: int = 0o777) -> int:
    if _thread.stays:
        return _open_on_mount(directory, name, flags)
    return os.open(name, flags, mode, dir_fd=directory)


def _open_on_mount(directory: int, name: str, flags: int) -> int:
    """Open what is there already; ``OtherMountError`` where it is on another mount."""
    how = _How(flags, 0, _RESOLVE_NO_XDEV)
    try:
        return libc.syscall(
            _OPENAT2, directory, os.fsencode(name), ctypes.byref(how), ctypes.sizeof(how)
        )
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise OtherMountError(errno.EXDEV, "something is mounted there", name) from None
        if error.errno in _NO_OPENAT2:
            return os.open(name, flags, dir_fd=directory)  # which may hang
        raise _error(error.errno or 0, name) from None


def _open_here(directory: int, name: str, flags: int, mode: int = 0o777) -> int:
    try:
        return _open(directory, name, flags, mode)
    except NotADirectoryError:
        if stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise _error(errno.ELOOP, name) from None
        raise


def _parts(path: str) -> list[str]:
    if path.startswith("/"):
        raise _error(errno.EXDEV, path)
    return [part for part in path.split("/") if part not in {"", "."}]


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


def _foreign(path: str) -> ForeignLinkError:
    reason = "a link that leads out, to nothing, or to what its owner does not own"
    return ForeignLinkError(errno.EPERM, reason, path)
