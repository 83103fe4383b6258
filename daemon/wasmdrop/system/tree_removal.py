"""Removal of directory trees that a hostile user may have made.

A tree may be thousands of levels deep and may change meanwhile. Removal follows no link and holds
two descriptors, however deep the tree is.
"""

import errno
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from wasmdrop.system.descriptors import DIRECTORY_FLAGS

#: Entries that one step of a removal takes: some milliseconds.
_STEP_ENTRIES: Final = 256


def make_daemon_directory(parent: int, name: str) -> int:
    """Make a directory that no other user can enter, and return its descriptor.

    :func:`is_daemon_directory` recognizes it. Raises ``OSError`` with ``ESTALE`` if another user
    has replaced it before it is opened.
    """
    os.mkdir(name, stat.S_ISVTX | 0o700, dir_fd=parent)
    fd = os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
    try:
        status = os.fstat(fd)
        # Users who may rename in `parent` can put another directory there, but none like this.
        if not is_daemon_directory(status) or status.st_mode & 0o077 or _entries(fd):
            raise OSError(errno.ESTALE, "another user has replaced the directory", name)
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_daemon_directory(status: os.stat_result) -> bool:
    """Whether the daemon made this directory, so that it may remove it with its content.

    The mark is the sticky bit without write permission for all. Only the owner can set it, and it
    has no effect unless others can write. Other users can move a directory to a place where the
    daemon looks for its own, but not mark it. A world-writable sticky directory is not the daemon's
    but a shared one that root made.
    """
    is_own_directory = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return is_own_directory and status.st_mode & (stat.S_ISVTX | stat.S_IWOTH) == stat.S_ISVTX


def remove_tree(parent: int, name: str, *, only_own: bool = False) -> None:
    """Do all steps of :func:`removal`."""
    for _ in removal(parent, name, only_own=only_own):
        pass


def removal(parent: int, name: str, *, only_own: bool = False) -> Iterator[None]:
    """Remove the directory ``name`` in the one open at ``parent``, in steps of bounded length.

    With ``only_own``, only if the daemon made it. Inner directories are moved to the top of the
    tree before they are emptied, so that a tree of any depth takes two descriptors and little
    memory. Raises ``OSError`` if something can't be removed.
    """
    try:
        root = _open_directory(parent, name)
    except FileNotFoundError:
        return
    try:
        if only_own and not is_daemon_directory(os.fstat(root)):
            raise OSError(errno.EPERM, "a directory that the daemon did not make", name)
        while entries := _entries(root):
            for inner, is_directory in entries:
                if is_directory:
                    yield from _flatten(root, inner)
                else:
                    os.unlink(inner, dir_fd=root)
            yield
    finally:
        os.close(root)
    os.rmdir(name, dir_fd=parent)


def _flatten(root: int, name: str) -> Iterator[None]:
    """Remove the directory ``name`` in ``root``; its inner directories are moved to ``root``."""
    fd = _open_directory(root, name)
    try:
        while entries := _entries(fd):
            for inner, is_directory in entries:
                if is_directory:
                    new = f".{os.urandom(16).hex()}"
                    os.rename(inner, new, src_dir_fd=fd, dst_dir_fd=root)
                else:
                    os.unlink(inner, dir_fd=fd)
            yield
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=root)


def _entries(directory: int) -> list[tuple[str, bool]]:
    """Return some entries of the directory: the name, and whether it is a directory."""
    with os.scandir(directory) as entries:
        some = itertools.islice(entries, _STEP_ENTRIES)
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in some]


def _open_directory(parent: int, name: str) -> int:
    try:
        return os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
    except PermissionError:
        # Restore the permission that a job removed, on this very directory, whatever has its name
        # by now.
        path_fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            status = os.fstat(path_fd)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                raise
            opened = Path(f"/proc/self/fd/{path_fd}")
            opened.chmod(0o700)
            return os.open(opened, DIRECTORY_FLAGS & ~os.O_NOFOLLOW)
        finally:
            os.close(path_fd)
