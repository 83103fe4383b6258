"""Durable files: each is complete or absent, also after a power cut.

A file is written under a temporary name in its directory, synced and renamed, and the directory is
synced (rename(2), fsync(2)). Temporary names begin with ``.wasmdrop-``. Names that begin with a dot
are ignored, and a daemon removes temporary files of earlier ones.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from wasmdrop.system import libc, openat2
from wasmdrop.system.descriptors import CREATE_FLAGS

TEMPORARY_PREFIX: Final = ".wasmdrop-"
#: Random, because a daemon in a container has the same process id after each start.
_OWN_PREFIX: Final = f"{TEMPORARY_PREFIX}{os.urandom(5).hex()}-"

_serial = itertools.count()

_SYNC_FILE_RANGE_WRITE: Final = 2


def temporary_name() -> str:
    """Return a file name that no other writer of this or another process uses."""
    return f"{_OWN_PREFIX}{next(_serial)}"


def is_stale_temporary(name: str) -> bool:
    """Whether ``name`` is that of a temporary file of an earlier daemon."""
    return name.startswith(TEMPORARY_PREFIX) and not name.startswith(_OWN_PREFIX)


def begin_writing(fd: int) -> None:
    """Start to write out the file open at ``fd``, without waiting (sync_file_range(2)).

    This makes nothing durable, it only shortens the fsync that follows.
    """
    with contextlib.suppress(OSError):  # not every filesystem can do it
        libc.sync_file_range(fd, 0, 0, _SYNC_FILE_RANGE_WRITE)


def sync_directory(root: Path, relative: str = "") -> None:
    """Make the names in the directory ``relative`` below ``root`` durable. Follows no link."""
    fd = openat2.open_directory(str(root), relative)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory_durably(path: Path, mode: int) -> None:
    """Create ``path`` with this mode, and missing directories above it, durably.

    A durable file is lost in a power cut if the name of a directory above it is not durable.
    """
    missing = [above for above in path.parents if not above.exists()]
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    for created in (path, *missing):
        # A directory whose parent can't be read existed before.
        with contextlib.suppress(PermissionError):
            sync_directory(created.parent)


@contextlib.contextmanager
def write_durably(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write. When the block ends, it is durably at ``path``.

    If the block raises, no file is left and ``path`` is unchanged.
    """
    directory = openat2.open_directory(str(path.parent), "")
    try:
        with replace_file(directory, path.name, temporary_name()) as file:
            yield file
        os.fsync(directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def replace_file(
    directory: int, name: str, temporary: str, mode: int = 0o666
) -> Iterator[BinaryIO]:
    """Do :func:`write_durably` in an open directory, which the caller has to sync.

    The file is written as ``temporary``, with ``mode``.
    """
    fd = os.open(temporary, CREATE_FLAGS, mode, dir_fd=directory)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(fd)
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise
