"""Files that are either wholly there or not at all, also after a power cut.

Durable means: written under a temporary name in the same directory, synced, renamed, and the
directory synced (rename(2), fsync(2)). Temporary names begin with ``.wasmdrop-``; names that begin
with a dot are never looked at, and these may be swept by whoever finds them stale.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from wasmdrop.system import libc, openat2

__all__ = [
    "TEMPORARY_PREFIX",
    "begin_writing",
    "is_stale_temporary",
    "make_directory_durably",
    "sync_directory",
    "temporary_name",
    "write_durably",
]

TEMPORARY_PREFIX: Final = ".wasmdrop-"
#: Not the process's number: in a container that is the same at each start.
_OURS: Final = f"{TEMPORARY_PREFIX}{os.urandom(5).hex()}-"

_serial = itertools.count()

_SYNC_FILE_RANGE_WRITE: Final = 2


def temporary_name() -> str:
    """Return a file name that no other writer of this or another process uses."""
    return f"{_OURS}{next(_serial)}"


def is_stale_temporary(name: str) -> bool:
    """Whether ``name`` is a temporary file's that a daemon before this one left behind."""
    return name.startswith(TEMPORARY_PREFIX) and not name.startswith(_OURS)


def begin_writing(fd: int) -> None:
    """Start to write out the file open at ``fd``, without waiting (sync_file_range(2)).

    This makes nothing durable, it only shortens the fsync that follows.
    """
    with contextlib.suppress(OSError):  # not every filesystem can do it
        libc.sync_file_range(fd, 0, 0, _SYNC_FILE_RANGE_WRITE)


def sync_directory(root: Path, relative: str = "") -> None:
    """Make the names in a directory durable; ``relative`` to ``root`` no link is followed."""
    fd = openat2.open_directory(str(root), relative)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory_durably(path: Path, mode: int) -> None:
    """Make ``path`` with this mode, and what is missing above it, so that a power cut keeps it.

    What is durable inside a directory is lost all the same where the directory's own name is not.
    """
    missing = [above for above in path.parents if not above.exists()]
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    for made in (path, *missing):
        # Who may not look into the directory above can't have made it a moment ago.
        with contextlib.suppress(PermissionError):
            sync_directory(made.parent)


@contextlib.contextmanager
def write_durably(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write; at the end of the block it is at ``path``, durably.

    Where the block raises, nothing is left and ``path`` is as it was.
    """
    work = path.with_name(temporary_name())
    try:
        with work.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        work.replace(path)
    except BaseException:
        work.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
