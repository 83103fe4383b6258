"""Directory trees that a hostile job may have made: measure, list and copy them.

A job may leave anything in its directory: links out of it, names that are not text, directories
thousands of levels deep, sparse files of a terabyte. These functions work by descriptor, one name
at a time, follow no link, and hold few descriptors however deep a tree is. :func:`measure` may run
while the job still writes. :func:`inventory` and :func:`copy_tree` assume that all writers are
dead, and notice if they are not.
"""

import contextlib
import errno
import hashlib
import itertools
import os
import stat
from collections.abc import Iterator
from typing import Final, Self

from wasmdrop.protocol.limits import MAX_OUTPUT_ENTRIES
from wasmdrop.protocol.outcome import OutputFile, OutputTree
from wasmdrop.protocol.text import describe_value
from wasmdrop.system.descriptors import CREATE_FLAGS, DIRECTORY_FLAGS, file_kind, write_all
from wasmdrop.system.durable_files import begin_writing
from wasmdrop.system.openat2 import open_at, open_regular_at
from wasmdrop.unixfs.dag_pb import Link
from wasmdrop.unixfs.directories import tree_link
from wasmdrop.unixfs.file_digest import FileDigest, large_cid_of
from wasmdrop.unixfs.shards import NameCollisionError

#: Levels of directories, and bytes of a path below the tree, as for the files of an input.
MAX_DEPTH: Final = 32
MAX_PATH_BYTES: Final = 1024

#: Unpublished entries that a message names; it counts the others.
_NAMED: Final = 5

_CHUNK_BYTES: Final = 1 << 20

#: Files that are synced together. All of them are being written out when the first sync starts.
_CHUNK_FILES: Final = 64

#: Descriptors that a copy leaves to its caller to sync, who may hold those of many copies.
_MAX_LEFT_UNSYNCED: Final = 8


class TreeLimitError(Exception):
    """A tree exceeds a limit, which the text names."""


class ChangedTreeError(OSError):
    """A tree differs from its inventory."""


def is_empty(root: str | int) -> bool:
    """Whether the directory ``root``, a path or a descriptor, is empty."""
    with os.scandir(root) as entries:
        return next(entries, None) is None


def measure(root: str, max_bytes: int) -> None:
    """Raise ``TreeLimitError`` if the files below ``root`` exceed a limit.

    Entries that appear or disappear meanwhile may be counted or not. Counts apparent sizes: a hole
    takes no space here, but a copy of it would.
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
    """Return the regular files and directories below ``root`` whose names are printable text.

    Raises ``TreeLimitError`` as :func:`measure` does.
    """
    files: list[OutputFile] = []
    links: dict[str, Link] = {}
    directories: list[str] = []
    left_out: list[str] = []
    room_bytes = max_bytes
    for path, directory, entry in _walk(root):
        status = entry.stat(follow_symlinks=False)
        is_directory = stat.S_ISDIR(status.st_mode)
        reason = None if is_directory else file_kind(status)
        reason = reason or why_unpublished(path)
        if reason is not None:
            left_out.append(f"{describe_value(path)} ({reason})")
        elif is_directory:
            directories.append(path)
        else:
            digest = _digest(directory, entry.name, room_bytes)
            if digest is None:
                raise TreeLimitError(f"more than {max_bytes} bytes of files")
            room_bytes -= digest.size_bytes
            links[path] = link = digest.link()
            files.append(OutputFile(path, digest.sha256, digest.size_bytes, large_cid_of(link)))
    message = _left_out_message(left_out)
    cid = _tree_cid(links, directories)
    return OutputTree(root, tuple(files), tuple(directories), message, cid)


def copy_tree(tree: OutputTree, target: int, mode: int, unsynced: list[int]) -> None:
    """Copy ``tree`` into the empty directory open at ``target``.

    Adds to ``unsynced`` the descriptors of a few files and directories; the caller syncs these and
    ``target``, and closes them, also if this raises. The others are durable when it returns.
    Directories get ``mode``, which the caller has masked: the kernel ignores the umask if
    ``target`` has a default access control list (acl(5)). Raises ``ChangedTreeError`` if a file
    differs from the inventory, and ``OSError`` if storage fails.
    """
    source = os.open(tree.root, DIRECTORY_FLAGS)
    try:
        with _Parents(source) as sources, _Parents(target) as targets:
            for path in tree.directories:
                parent, name = targets.of(path)
                os.mkdir(name, mode, dir_fd=parent)
            for file in tree.files:
                _make_room(unsynced, _CHUNK_FILES)
                unsynced.append(_copy(file, sources.of(file.path), targets.of(file.path)))
            for path in tree.directories:
                _make_room(unsynced, _CHUNK_FILES)
                unsynced.append(open_at(target, path, DIRECTORY_FLAGS))
    finally:
        os.close(source)
    _make_room(unsynced, _MAX_LEFT_UNSYNCED + 1)


class _Parents:
    """Opens the parent directories of paths below ``root``, following no link.

    Keeps the last one open, because an inventory lists the entries of a directory together.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._path = ""
        self._fd = root

    def of(self, path: str) -> tuple[int, str]:
        """Return the open parent of ``path``, valid until the next call, and the name in it."""
        parent, _, name = path.rpartition("/")
        if parent != self._path:
            self.__exit__()
            if parent:
                self._fd = open_at(self._root, parent, DIRECTORY_FLAGS)
            self._path = parent
        return self._fd, name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._fd != self._root:
            os.close(self._fd)
        self._path, self._fd = "", self._root


def _walk(root: str) -> Iterator[tuple[str, int, "os.DirEntry[str]"]]:
    """Yield each entry with its path and its open directory, a directory before its entries.

    Raises ``TreeLimitError`` if there are too many entries or levels.
    """
    # One open directory per level.
    levels: list[tuple[str, int, Iterator[os.DirEntry[str]]]] = []
    count = 0
    try:
        levels.append(_level("", os.open(root, DIRECTORY_FLAGS)))
        while levels:
            prefix, directory, entries = levels[-1]
            entry = next(entries, None)
            if entry is None:
                os.close(levels.pop()[1])
                continue
            count += 1
            if count > MAX_OUTPUT_ENTRIES:
                raise TreeLimitError(f"more than {MAX_OUTPUT_ENTRIES} files and directories")
            path = prefix + entry.name
            yield path, directory, entry
            if not entry.is_dir(follow_symlinks=False):
                continue
            if len(levels) > MAX_DEPTH:
                raise TreeLimitError(f"directories more than {MAX_DEPTH} deep")
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                inner = os.open(entry.name, DIRECTORY_FLAGS, dir_fd=directory)
                levels.append(_level(path + "/", inner))
    finally:
        for _prefix, directory, _entries in levels:
            os.close(directory)


def _level(prefix: str, directory: int) -> tuple[str, int, Iterator["os.DirEntry[str]"]]:
    with os.scandir(directory) as entries:
        # One entry over the limit is enough: a job that keeps adding entries must not stall us.
        return prefix, directory, iter(list(itertools.islice(entries, MAX_OUTPUT_ENTRIES + 1)))


def why_unpublished(path: str) -> str | None:
    """Return why an entry with this path is not published, for a message; None if it is."""
    try:
        size_bytes = len(path.encode())
    except UnicodeEncodeError:
        return "a name that is not UTF-8"
    if not path.isprintable():
        return "a name with control characters"
    return "a path that is too long" if size_bytes > MAX_PATH_BYTES else None


def _left_out_message(left_out: list[str]) -> str:
    if not left_out:
        return ""
    more = len(left_out) - _NAMED
    # Sorted: the order of a directory differs between disks, and results must not.
    named = ", ".join(sorted(left_out)[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"not published: {named}"


def _digest(directory: int, name: str, room_bytes: int) -> FileDigest | None:
    """Return the digest of a file, or ``None`` if it is larger than ``room_bytes``."""
    fd, _status = open_regular_at(directory, name)
    try:
        digest = FileDigest()
        while chunk := os.read(fd, _CHUNK_BYTES):
            if digest.size_bytes + len(chunk) > room_bytes:
                return None
            digest.update(chunk)
    finally:
        os.close(fd)
    return digest


def _tree_cid(links: dict[str, Link], directories: list[str]) -> str | None:
    try:
        return tree_link(links, directories).cid.text
    except NameCollisionError:
        return None


def _copy(file: OutputFile, source: tuple[int, str], target: tuple[int, str]) -> int:
    reading, _status = open_regular_at(*source)
    try:
        writing = os.open(target[1], CREATE_FLAGS, 0o666, dir_fd=target[0])
        try:
            digest, left_bytes = hashlib.sha256(), file.size_bytes
            while chunk := os.read(reading, min(_CHUNK_BYTES, left_bytes + 1)):
                left_bytes -= len(chunk)
                if left_bytes < 0:
                    break
                digest.update(chunk)
                write_all(writing, chunk)
            if left_bytes != 0 or digest.hexdigest() != file.sha256:
                raise ChangedTreeError(errno.ESTALE, "changed after the job ended", file.path)
            begin_writing(writing)
        except BaseException:
            os.close(writing)
            raise
    finally:
        os.close(reading)
    return writing


def _make_room(unsynced: list[int], most: int) -> None:
    """Sync and close all ``unsynced`` descriptors if there are ``most`` of them."""
    if len(unsynced) >= most:
        while unsynced:
            os.fsync(unsynced[-1])
            os.close(unsynced.pop())
