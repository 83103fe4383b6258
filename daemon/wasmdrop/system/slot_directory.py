"""A slot's directory, held open: its files are dropped, read and removed by descriptor.

The owner of the directory may be hostile and may put links, FIFOs or other directories in the place
of anything at any moment. The directory is found below the shared one without following a link,
each name is looked up in the open directory, and only regular files are read. So a process with
more rights than the owner, such as root, is not led outside.
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
from wasmdrop.system.descriptors import DIRECTORY_FLAGS, NotRegularError
from wasmdrop.system.durable_files import replace_file
from wasmdrop.system.renaming import rename_to_new
from wasmdrop.system.tree_removal import remove_tree

#: A link is on the way, or another process holds a lease of the file.
_UNREADABLE: Final = frozenset({errno.ELOOP, errno.EWOULDBLOCK})
_MISSING: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})


class SlotDirectory:
    """The untrusted directory ``below`` a trusted ``root``.

    Raises ``OSError`` if it is missing, or if a link is on the way below ``root``. With ``make``,
    missing directories below ``root`` are created.
    """

    def __init__(self, root: str, below: PurePosixPath, *, make: bool = False) -> None:
        self._path = PurePosixPath(root) / below  # only for messages
        self._opened = contextlib.ExitStack()
        with contextlib.ExitStack() as undo, self._named(""):
            undo.push(self._opened)
            try:
                self._chain = [self._keep(openat2.open_directory(root, ""))]
            except FileNotFoundError as error:
                reason = "the shared directory does not exist"
                raise FileNotFoundError(error.errno, reason, root) from None
            if make:
                for part in below.parts:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, dir_fd=self._chain[-1])
                    self._chain.append(
                        self._keep(os.open(part, DIRECTORY_FLAGS, dir_fd=self._chain[-1]))
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
        """Return the content of a file of this size, or ``at_most`` this; None if it is missing.

        ``name`` may have directories. Anything but a regular file, and a file of another size, is
        not read and counts as empty. If the file grows meanwhile, the growth is not read.
        """
        with self._named(name):
            try:
                fd, status = openat2.open_regular_at(self._fd, name)
            except NotRegularError:
                return b""
            except OSError as error:
                if error.errno in _MISSING:
                    return None
                if error.errno in _UNREADABLE:
                    return b""
                raise
            with os.fdopen(fd, "rb") as file:
                size = status.st_size
                fits = size <= size_bytes if at_most else size == size_bytes
                return file.read(size) if fits else b""

    def put(self, name: str, data: bytes) -> os.stat_result:
        """Put a file at ``name``, complete or not at all, replacing what is there.

        Returns its status. :meth:`sync` makes it durable.
        """
        # Random: producers in other containers may have the same process id.
        temporary = f".dropping-{secrets.token_hex(16)}"
        with self._named(name), replace_file(self._fd, name, temporary) as file:
            file.write(data)
            file.flush()
            return os.fstat(file.fileno())

    def status(self, name: str) -> os.stat_result | None:
        """Return the status of a file, or of a link itself; None if it is missing."""
        with self._named(name), contextlib.suppress(FileNotFoundError):
            return os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        return None

    def remove_file(self, name: str) -> None:
        """Remove a file, or a link itself. A missing file is no error."""
        with self._named(name), contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def remove_version(self, name: str, version: tuple[int, int]) -> bool:
        """Remove a file of this size and modification time; return False if it is another one.

        It is renamed before it is judged, because another process may replace it at any moment.
        Another one gets its name back, unless a newer one has it by then. A missing file is no
        error.
        """
        aside = f".withdrawn-{secrets.token_hex(16)}"
        with self._named(name):
            try:
                os.rename(name, aside, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            except FileNotFoundError:
                return True
            status = os.stat(aside, dir_fd=self._fd, follow_symlinks=False)
            is_it = (status.st_size, status.st_mtime_ns) == version
            if not is_it:
                with contextlib.suppress(FileExistsError):
                    rename_to_new(aside, self._fd, name, self._fd)
                    return False
            os.unlink(aside, dir_fd=self._fd)
            return is_it

    def remove_tree(self, name: str) -> None:
        """Remove a directory with its content. Anything else, such as a link, is kept."""
        with self._named(name):
            try:
                status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            except FileNotFoundError:
                return
            if stat.S_ISDIR(status.st_mode):
                remove_tree(self._fd, name)

    def remove_directory(self, name: str) -> None:
        """Remove an empty directory."""
        with self._named(name):
            os.rmdir(name, dir_fd=self._fd)

    def sync(self) -> None:
        """Make the names in it durable, and the names of the directories down from the root."""
        with self._named(""):
            for fd in reversed(self._chain):
                os.fsync(fd)

    def _keep(self, fd: int) -> int:
        self._opened.callback(os.close, fd)
        return fd

    @contextlib.contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Put the whole path into errors, instead of the name in the directory."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path / name)) from error
