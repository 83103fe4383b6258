"""Trees of files that somebody hostile may have made: taken stock of, copied, removed.

What a program leaves in its directory may be anything: links out of it, names that are not text,
directories thousands deep, files of a terabyte that take no room. These functions go by descriptor,
one name at a time, follow no link, and hold few descriptors however deep a tree is. :func:`measure`
may run while the tree is still written to; :func:`inventory` and :func:`copy_tree` assume that its
writers are dead, and notice where they were not.
"""

import contextlib
import errno
import hashlib
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from wasmdrop.protocol.outcome import OutputFile, OutputTree
from wasmdrop.system.descriptors import write_all
from wasmdrop.system.durable_files import begin_writing
from wasmdrop.system.openat2 import open_at

__all__ = [
    "MAX_ENTRIES",
    "ChangedTreeError",
    "TreeLimitError",
    "copy_tree",
    "inventory",
    "is_daemon_directory",
    "is_empty",
    "make_daemon_directory",
    "measure",
    "removal",
    "remove_tree",
]

#: Files, directories and all else in one tree. Empty files take no bytes, but each takes an inode
#: of the disk, a line of the marker and a sync.
MAX_ENTRIES: Final = 10_000

#: Levels of directories, and bytes of a path below the tree: what an input may lay in, too.
_MAX_DEPTH: Final = 32
_MAX_PATH_BYTES: Final = 1024

#: Entries that were left out and are named one by one; the others are counted.
_NAMED: Final = 5

_CHUNK_BYTES: Final = 1 << 20

#: Entries that one step of a removal takes: some milliseconds.
_PIECE: Final = 256

#: Files that are synced together: the first sync finds the others' data on its way too.
_CHUNK_FILES: Final = 64

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK a FIFO would be waited for.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_KINDS: Final = {
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class TreeLimitError(Exception):
    """A tree holds more than it may; the text says of what."""


class ChangedTreeError(OSError):
    """A tree is not what its inventory says."""


def is_empty(root: str | int) -> bool:
    """Whether the directory ``root``, a path or a descriptor, holds nothing."""
    with os.scandir(root) as entries:
        return next(entries, None) is None


def measure(root: str, max_bytes: int) -> None:
    """Raise ``TreeLimitError`` where the files below ``root`` are more than they may be.

    What appears or goes while this looks may be counted or not. Counts apparent sizes: a hole
    takes no room here, but a copy of it would.
    """
    total_bytes = 0
    for _path, _directory, entry in _walk(root):
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                total_bytes += status.st_size
                if total_bytes > max_bytes:
                    raise TreeLimitError(f"more than {max_bytes} bytes of files")


def inventory(root: str, max_bytes: int) -> OutputTree:
    """Return what is below ``root``: regular files and directories whose names are text.

    Raises ``TreeLimitError`` as :func:`measure` does.
    """
    files: list[OutputFile] = []
    directories: list[str] = []
    left_out: list[str] = []
    room_bytes = max_bytes
    for path, directory, entry in _walk(root):
        mode = entry.stat(follow_symlinks=False).st_mode
        reason = _KINDS.get(stat.S_IFMT(mode)) or _why_odd(path)
        if reason is not None:
            left_out.append(f"{ascii(path)[:80]} ({reason})")
        elif stat.S_ISDIR(mode):
            directories.append(path)
        else:
            found = _digest(directory, entry.name, path, room_bytes)
            room_bytes -= found.size_bytes
            files.append(found)
    return OutputTree(root, tuple(files), tuple(directories), _summed(left_out))


def copy_tree(tree: OutputTree, target: int, mode: int) -> None:
    """Copy ``tree`` into the empty directory open at ``target``, durably but for its own name.

    ``mode`` is that of directories. The umask is no part of it if ``target`` hands down an access
    control list (acl(5)), whose entries this mode bounds as well.
    Raises ``ChangedTreeError`` where a file is not what the inventory says, ``OSError`` where
    storage fails.
    """
    source = os.open(tree.root, _DIRECTORY)
    written: list[int] = []
    with _Parents(source) as sources, _Parents(target) as targets:
        try:
            for path in tree.directories:
                parent, name = targets.of(path)
                os.mkdir(name, mode, dir_fd=parent)
            for file in tree.files:
                written.append(_copy(file, sources.of(file.path), targets.of(file.path)))
                if len(written) >= _CHUNK_FILES:
                    _sync(written)
            _sync(written)
            for path in tree.directories:
                written.append(open_at(target, path, _DIRECTORY))
                _sync(written)
            os.fsync(target)
        finally:
            for fd in (source, *written):
                os.close(fd)


class _Parents:
    """Opens the directories of paths below the one open at ``root``, following no link.

    Keeps the last one open: an inventory names what is in a directory together.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._path = ""
        self._fd = root

    def of(self, path: str) -> tuple[int, str]:
        """Return the open directory of ``path``, until the next call, and the name in it."""
        parent, _, name = path.rpartition("/")
        if parent != self._path:
            self.__exit__()
            if parent:
                self._fd = open_at(self._root, parent, _DIRECTORY)
            self._path = parent
        return self._fd, name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._fd != self._root:
            os.close(self._fd)
        self._path, self._fd = "", self._root


def make_daemon_directory(parent: int, name: str) -> int:
    """Make a directory that nobody else can enter, and return its descriptor.

    It is marked as the daemon's own, see :func:`is_daemon_directory`. Raises
    ``ChangedTreeError`` if another directory has its name already when it is opened.
    """
    os.mkdir(name, stat.S_ISVTX | 0o700, dir_fd=parent)
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        status = os.fstat(fd)
        # Whoever may rename in `parent` can put another directory there, but none like this.
        if not is_daemon_directory(status) or status.st_mode & 0o077 or not is_empty(fd):
            raise ChangedTreeError(errno.ESTALE, "another directory was put in its place", name)
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_daemon_directory(status: os.stat_result) -> bool:
    """Whether the daemon made this directory, so that it may remove it with all that is in it.

    The mark is the sticky bit, which only the owner can set, and which means nothing unless others
    can write: others can move a directory to a place where the daemon looks for its own, but not
    mark it. One that all may write to is not the daemon's: root makes such directories for all to
    put files into.
    """
    is_own_directory = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return is_own_directory and status.st_mode & (stat.S_ISVTX | stat.S_IWOTH) == stat.S_ISVTX


def remove_tree(parent: int, name: str, *, marked: bool = False) -> None:
    """Do all of :func:`removal`."""
    for _ in removal(parent, name, marked=marked):
        pass


def removal(parent: int, name: str, *, marked: bool = False) -> Iterator[None]:
    """Remove the directory ``name`` in the one open at ``parent``, a bounded piece at each step.

    With ``marked``, only if the daemon made it. What is in a directory of the tree is removed or
    moved to the tree's top, so that a tree of any depth and size takes two descriptors and little
    memory. Raises ``OSError`` where something stays.
    """
    try:
        root = _open_directory(parent, name)
    except FileNotFoundError:
        return
    try:
        if marked and not is_daemon_directory(os.fstat(root)):
            raise OSError(errno.EPERM, "a directory that the daemon did not make", name)
        while piece := _piece(root):
            for inner, is_directory in piece:
                if is_directory:
                    yield from _flatten(root, inner)
                else:
                    os.unlink(inner, dir_fd=root)
            yield
    finally:
        os.close(root)
    os.rmdir(name, dir_fd=parent)


def _flatten(root: int, name: str) -> Iterator[None]:
    """Remove the directory ``name`` in ``root``; what is in its directories moves to ``root``."""
    fd = _open_directory(root, name)
    try:
        while piece := _piece(fd):
            for inner, is_directory in piece:
                if is_directory:
                    new = f".{os.urandom(16).hex()}"
                    os.rename(inner, new, src_dir_fd=fd, dst_dir_fd=root)
                else:
                    os.unlink(inner, dir_fd=fd)
            yield
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=root)


def _piece(directory: int) -> list[tuple[str, bool]]:
    """Return some of what is in the directory, and of each whether it is a directory."""
    with os.scandir(directory) as entries:
        some = itertools.islice(entries, _PIECE)
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in some]


def _open_directory(parent: int, name: str) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:
        # Its maker took our right to look into it, which the owner can give back: of the directory
        # that is held, not of what has its name by now.
        place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            status = os.fstat(place)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                raise
            held = Path(f"/proc/self/fd/{place}")
            held.chmod(0o700)
            return os.open(held, _DIRECTORY & ~os.O_NOFOLLOW)
        finally:
            os.close(place)


def _walk(root: str) -> Iterator[tuple[str, int, "os.DirEntry[str]"]]:
    """Give each entry with its path and its open directory; directories before what is in them.

    Raises ``TreeLimitError`` for more entries or levels than a tree may have.
    """
    # One open directory a level, of which there are few.
    levels: list[tuple[str, int, Iterator[os.DirEntry[str]]]] = []
    count = 0
    try:
        levels.append(_level("", os.open(root, _DIRECTORY)))
        while levels:
            prefix, directory, entries = levels[-1]
            entry = next(entries, None)
            if entry is None:
                os.close(levels.pop()[1])
                continue
            count += 1
            if count > MAX_ENTRIES:
                raise TreeLimitError(f"more than {MAX_ENTRIES} files and directories")
            path = prefix + entry.name
            yield path, directory, entry
            if not entry.is_dir(follow_symlinks=False):
                continue
            if len(levels) > _MAX_DEPTH:
                raise TreeLimitError(f"directories more than {_MAX_DEPTH} deep")
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                inner = os.open(entry.name, _DIRECTORY, dir_fd=directory)
                levels.append(_level(path + "/", inner))
    finally:
        for _prefix, directory, _entries in levels:
            os.close(directory)


def _level(prefix: str, directory: int) -> tuple[str, int, Iterator["os.DirEntry[str]"]]:
    with os.scandir(directory) as entries:
        # At most one more than may be: reading on would let a guest keep this busy.
        return prefix, directory, iter(list(itertools.islice(entries, MAX_ENTRIES + 1)))


def _why_odd(path: str) -> str | None:
    try:
        size_bytes = len(path.encode())
    except UnicodeEncodeError:
        return "a name that is not UTF-8"
    if not path.isprintable():
        return "a name with control characters"
    return "a path that is too long" if size_bytes > _MAX_PATH_BYTES else None


def _summed(left_out: list[str]) -> str:
    if not left_out:
        return ""
    more = len(left_out) - _NAMED
    named = ", ".join(left_out[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"not published: {named}"


def _digest(directory: int, name: str, path: str, room_bytes: int) -> OutputFile:
    fd = os.open(name, _FILE, dir_fd=directory)
    try:
        digest, size_bytes = hashlib.sha256(), 0
        while chunk := os.read(fd, _CHUNK_BYTES):
            size_bytes += len(chunk)
            if size_bytes > room_bytes:
                raise TreeLimitError("more bytes of files than its limit")
            digest.update(chunk)
    finally:
        os.close(fd)
    return OutputFile(path, digest.hexdigest(), size_bytes)


def _copy(file: OutputFile, source: tuple[int, str], target: tuple[int, str]) -> int:
    reading = os.open(source[1], _FILE, dir_fd=source[0])
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        writing = os.open(target[1], flags, 0o666, dir_fd=target[0])
        try:
            digest, left_bytes = hashlib.sha256(), file.size_bytes
            while chunk := os.read(reading, min(_CHUNK_BYTES, left_bytes + 1)):
                left_bytes -= len(chunk)
                if left_bytes < 0:
                    break
                digest.update(chunk)
                write_all(writing, chunk)
            if left_bytes != 0 or digest.hexdigest() != file.sha256:
                raise ChangedTreeError(errno.ESTALE, "changed after it was looked at", file.path)
            begin_writing(writing)
        except BaseException:
            os.close(writing)
            raise
    finally:
        os.close(reading)
    return writing


def _sync(written: list[int]) -> None:
    while written:
        os.fsync(written[-1])
        os.close(written.pop())
