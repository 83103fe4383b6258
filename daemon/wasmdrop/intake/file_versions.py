"""Versions of files that were taken, as the journal has them: 32 bytes, and 8 of a digest."""

import os
import stat
from typing import Final

from wasmdrop.protocol.slot import FileVersion

__all__ = [
    "digest_of",
    "is_odd",
    "is_taken",
    "mtime_ns_of",
    "pack",
    "pack_odd",
    "with_digest",
]

_NUMBER_BYTES: Final = 8
_DIGEST_KEPT_BYTES: Final = 8


def pack(version: FileVersion) -> bytes:
    """Return the version in 32 bytes."""
    return b"".join(
        (number & 0xFFFFFFFFFFFFFFFF).to_bytes(_NUMBER_BYTES, "little")
        for number in (version.device, version.inode, version.size_bytes, version.mtime_ns)
    )


def pack_odd(status: os.stat_result) -> bytes:
    """Return the version of what can't be read. No file that can be read has the same."""
    kind = stat.S_IFMT(status.st_mode)
    # A new mode or owner, with which a file may become readable, changes this time alone. A link
    # can't change, but its inode's number may serve another one a moment later.
    is_counted = kind in {stat.S_IFREG, stat.S_IFLNK}
    changed_ns = status.st_ctime_ns if is_counted else 0
    return pack(FileVersion(status.st_dev, status.st_ino, -kind, changed_ns))


def is_odd(taken: bytes) -> bool:
    """Whether the version is one of :func:`pack_odd`."""
    size = taken[2 * _NUMBER_BYTES : 3 * _NUMBER_BYTES]
    return int.from_bytes(size, "little", signed=True) < 0


def is_taken(taken: bytes, status: os.stat_result) -> bool:
    """Whether ``taken`` is the version of a file with this status (lstat(2)).

    Never of a link to what could not be read: that may have become readable since.
    """
    if is_odd(taken):
        return not stat.S_ISLNK(status.st_mode) and taken.startswith(pack_odd(status))
    return taken.startswith(pack(FileVersion.of(status)))


def with_digest(version: bytes, digest: bytes) -> bytes:
    """Return the version of an input: two writes within a tick of the clock have one mtime."""
    return version + digest[:_DIGEST_KEPT_BYTES]


def digest_of(taken: bytes) -> bytes:
    """Return the part of the digest in an input's version."""
    return taken[-_DIGEST_KEPT_BYTES:]


def mtime_ns_of(taken: bytes) -> int:
    """Return the modification time in a version, in nanoseconds since 1970."""
    return int.from_bytes(taken[3 * _NUMBER_BYTES : 4 * _NUMBER_BYTES], "little", signed=True)
