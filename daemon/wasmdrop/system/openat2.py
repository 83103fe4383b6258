"""Opens files below a directory without leaving it, even if its content changes meanwhile.

A hostile user may make anything below the shared directory, above all links. Paths are walked one
component at a time, each from the descriptor of the one before, so that no name is looked up twice.
``O_PATH`` does not open the file itself, so a FIFO or a device can't block.

openat2(2) with ``RESOLVE_BENEATH`` stays below a directory too, but does not report whose links it
followed. With links allowed, a user could have the daemon read files that only another user may
read. So a link is followed only to a file of the link's owner, unless the link is root's or the
daemon's, as in ConfigMap and Secret volumes.

A mount whose server is gone blocks every access. A link never leads to another mount than its own,
and a thread that must not hang enters no mount below the directory where it starts.
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

_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_STEP: Final = _LOOK | os.O_DIRECTORY
_ROOT: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_READ_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY

#: Links on one path, as in Linux (path_resolution(7)).
_MAX_LINKS: Final = 40

#: Errors that would tell the owner of a link whether a path exists that only others may see.
_REVEALING: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EXDEV})


#: openat2(2), the same on every architecture.
_OPENAT2: Final = 437
_RESOLVE_NO_XDEV: Final = 0x01
#: Errors of a kernel before 5.6, of gVisor, or of a container's seccomp filter.
_NO_OPENAT2: Final = frozenset({errno.ENOSYS, errno.EPERM})


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _ThreadState(threading.local):
    stays_on_mounts = False


_thread: Final = _ThreadState()


@contextlib.contextmanager
def staying_on_mounts() -> Iterator[None]:
    """Raise ``OtherMountError`` instead of entering a mount below a root, in this thread."""
    before, _thread.stays_on_mounts = _thread.stays_on_mounts, True
    try:
        yield
    finally:
        _thread.stays_on_mounts = before


class OtherMountError(OSError):
    """A mount is on the way, which may hang."""


class Links(Enum):
    """The components of a path that may be links."""

    NONE = "none"
    LAST = "last"
    """The last one, and links that it leads through, as for a file in a ConfigMap volume."""
    ANY = "any"


class DanglingLinkError(FileNotFoundError):
    """The target of a link does not exist."""


class ForeignLinkError(PermissionError):
    """A link that leads out, to nothing, or to a file of another user than its owner.

    The error does not say which, because the link's owner must not learn it.
    """


def open_in(
    root: str, relative: str, links: Links = Links.ANY
) -> tuple[int, os.stat_result | None]:
    """Open ``relative`` below ``root`` as ``O_PATH``; return the status of its directory too.

    The descriptor is never one of a link. The directory is the one that holds the last name, which
    may be that of a link. Raises ``FileNotFoundError``, ``DanglingLinkError``,
    ``ForeignLinkError``, and other ``OSError`` as open(2) does; with ``EXDEV`` for a path out of
    ``root``, with ``ELOOP`` for a link that is not allowed or a loop of links.
    """
    walk = _PathWalk(root, relative, links)
    try:
        return walk.run(), walk.directory
    except OSError as error:
        if walk.owners and error.errno in _REVEALING:
            raise _foreign(relative) from None
        if walk.followed and error.errno == errno.ENOENT:
            raise DanglingLinkError(errno.ENOENT, "a link to nothing", relative) from None
        raise
    finally:
        walk.close()


class _PathWalk:
    """Walks one path, following its links."""

    def __init__(self, root: str, relative: str, links: Links) -> None:
        self.followed = 0
        """How many links were followed."""
        self.owners: set[int] = set()
        """Their owners, other than root and the daemon's user."""
        self.directory: os.stat_result | None = None
        """The status of the directory with the last name."""
        self._relative = relative
        self._links = links
        self._left = _parts(relative)[::-1]
        self._held = [os.open(root, _ROOT)]
        """Descriptors of the directories on the path, the root first."""

    def run(self) -> int:
        """Return a descriptor of the file at the end."""
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
        """Close the directories."""
        for fd in self._held:
            os.close(fd)

    def _follow(self, owner: int) -> None:
        self.followed += 1
        is_last = self.followed > 1 or not self._left
        is_allowed = self._links is Links.ANY or (self._links is Links.LAST and is_last)
        if not is_allowed or self.followed > _MAX_LINKS:
            raise _error(errno.ELOOP, self._relative)
        if owner not in {0, os.geteuid()}:
            self.owners.add(owner)
        # Read this very link, whatever has its name by now.
        link = self._held.pop()
        try:
            self._left += _parts(os.readlink("", dir_fd=link))[::-1]
        finally:
            os.close(link)


def open_directory(root: str, relative: str) -> int:
    """Return a readable descriptor of the directory ``relative`` below ``root``.

    Follows no link. Raises ``OSError``, with ``ELOOP`` if a link is on the way.
    """
    if not relative.strip("/"):
        return os.open(root, _READ_DIRECTORY | os.O_CLOEXEC)
    root_fd = os.open(root, _ROOT)
    try:
        return open_at(root_fd, relative, _READ_DIRECTORY)
    finally:
        os.close(root_fd)


def open_at(directory: int, relative: str, flags: int, mode: int = 0o777) -> int:
    """Open ``relative`` below the directory open at ``directory``.

    Follows no link. Raises ``OSError``, with ``EXDEV`` for ``..`` and ``ELOOP`` for a link.
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
    """Return the status of ``relative`` below ``root``. Raises as :func:`open_in` does."""
    fd, _directory = open_in(root, relative, links)
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
    """Return the status of ``relative`` below ``root``, of a link itself if it is one.

    Follows no link. Raises ``OSError`` as :func:`open_at` does.
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
    if _thread.stays_on_mounts:
        return _open_on_mount(directory, name, flags)
    return os.open(name, flags, mode, dir_fd=directory)


def _open_on_mount(directory: int, name: str, flags: int) -> int:
    """Open an existing file; raise ``OtherMountError`` if it is on another mount."""
    how = _OpenHow(flags, 0, _RESOLVE_NO_XDEV)
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
    reason = "a link that leads out, to nothing, or to a file of another user than its owner"
    return ForeignLinkError(errno.EPERM, reason, path)
