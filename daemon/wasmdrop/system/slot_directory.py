"""The directory of a slot, held open: files in it are dropped, read and removed by its descriptor.

Its owner may be hostile and may put links, FIFOs or other directories in the place of anything at
any moment. It is found below the shared directory without following a link, every name is looked up
in what was opened, and what is opened is looked at before it is read: a process with more rights
than the owner, root's above all, is not led to anything outside.
"""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final, Self

from wasmdrop.system import openat2
from wasmdrop.system.tree_removal import remove_tree

__all__ = ["SlotDirectory"]

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK a FIFO would be waited for, and whoever holds a lease of the file.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

#: A link, a socket or a device without a driver, a file that another process holds a lease of.
_ODD: Final = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EWOULDBLOCK})
_MISSING: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})


class SlotDirectory:
    """The directory ``below`` a ``root`` that is trusted, itself trusted with nothing.

    Raises ``OSError`` where it is not there, or there is a link on the way below ``root``. With
    ``make`` what is missing below ``root`` is made.
    """

    def __init__(self, root: str, below: PurePosixPath, *, make: bool = False) -> None:
        self._path = PurePosixPath(root) / below  # for messages alone
        self._opened = contextlib.ExitStack()
        with contextlib.ExitStack() as undo, self._named(""):
            undo.push(self._opened)
            try:
                self._chain = [self._keep(openat2.open_directory(root, ""))]
            except FileNotFoundError as error:
                reason = "the shared directory is not there"
                raise FileNotFoundError(error.errno, reason, root) from None
            if make:
                for part in below.parts:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, dir_fd=self._chain[-1])
                    self._chain.append(
                        self._keep(os.open(part, _DIRECTORY, dir_fd=self._chain[-1]))
                    )
            elif below.parts:
                self._chain.append(self._keep(openat2.open_directory(root, str(below))))
            undo.pop_all()
        self._fd = self._chain[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._opened.close()

    def read(self, name: str, size_bytes: int, *, at_most: bool = False) -> bytes | None:
        """Return a file of exactly (or ``at_most``) that size; None where there is no such name.

        ``name`` may lead through directories. What is no regular file, is a link, or has another
        size is not read, and counts as an empty file. However it grows meanwhile, no more is read
        than it had.
        """
        with self._named(name):
            try:
                fd = self._open(name)
            except OSError as error:
                if error.errno in _MISSING:
                    return None
                if error.errno in _ODD:
                    return b""
                raise
            try:
                status = os.fstat(fd)
                size = status.st_size
                fits = size <= size_bytes if at_most else size == size_bytes
                if not stat.S_ISREG(status.st_mode) or not fits:
                    return b""
                with open(fd, "rb", closefd=False) as file:
                    return file.read(size)
            finally:
                os.close(fd)

    def put(self, name: str, data: bytes) -> os.stat_result:
        """Put a file at ``name``, whole or not at all, replacing what is there.

        Returns its status.
        """
        # Not the name of another producer's, even if that has the same process id in its container.
        work = f".dropping-{secrets.token_hex(16)}"
        with self._named(name):
            try:
                with os.fdopen(os.open(work, _WRITE, 0o666, dir_fd=self._fd), "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                    status = os.fstat(file.fileno())
                os.rename(work, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(work, dir_fd=self._fd)
                raise
        return status

    def remove_file(self, name: str) -> None:
        """Remove a file; a link is removed, not what it leads to. Nothing is no error."""
        with self._named(name), contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def remove_tree(self, name: str) -> None:
        """Remove a directory and all in it; what is none, such as a link, stays."""
        with self._named(name):
            try:
                status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            except FileNotFoundError:
                return
            if stat.S_ISDIR(status.st_mode):
                remove_tree(self._fd, name)

    def remove_directory(self, name: str) -> None:
        """Remove a directory that is empty."""
        with self._named(name):
            os.rmdir(name, dir_fd=self._fd)

    def sync(self) -> None:
        """Make the names in it durable, and its own on the way from the root."""
        with self._named(""):
            for fd in reversed(self._chain):
                os.fsync(fd)

    def _keep(self, fd: int) -> int:
        self._opened.callback(os.close, fd)
        return fd

    def _open(self, name: str) -> int:
        return openat2.open_at(self._fd, name, _READ)

    @contextlib.contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Let errors name the whole path: names in a directory say too little."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path / name)) from error
