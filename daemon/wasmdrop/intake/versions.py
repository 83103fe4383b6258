"""Versions of files that were taken, as the journal has them: 32 bytes, and 8 of a digest."""

import os
import stat
from typing import Final

from wasmdrop.job import FileVersion

__all__ = ["digest_of", "mtime_ns_of", "pack", "pack_odd", "with_digest"]

_NUMBER_BYTES: Final = 8
_DIGEST_KEPT_BYTES: Final = 8


def pack(version: FileVersion) -> bytes:
    """Return the version in 32 bytes."""
    return b"".join(
        (number & 0xFFFFFFFFFFFFFFFF).to_bytes(_NUMBER_BYTES, "little")
        for number in (version.device, version.inode, version.size_bytes, version.mtime_ns)
    )


def pack_odd(status: os.stat_result) -> bytes:
    """Return the version of what is no readable file: its sizes and times mean nothing."""
    if stat.S_ISREG(status.st_mode):
        return pack(FileVersion.of(status))
    kind = stat.S_IFMT(status.st_mode)
    # A link can't change, but its inode's number may serve another one a moment later.
    changed_ns = status.st_ctime_ns if stat.S_ISLNK(status.st_mode) else 0
    return pack(FileVersion(status.st_dev, status.st_ino, kind, changed_ns))


def with_digest(version: bytes, digest: bytes) -> bytes:
    """Return the version of an input: two writes within a tick of the clock have one mtime."""
    return version + digest[:_DIGEST_KEPT_BYTES]


def digest_of(taken: bytes) -> bytes:
    """Return the part of the digest in an input's version."""
    return taken[-_DIGEST_KEPT_BYTES:]


def mtime_ns_of(taken: bytes) -> int:
    """Return the modification time in a version, in nanoseconds since 1970."""
    return int.from_bytes(taken[3 * _NUMBER_BYTES : 4 * _NUMBER_BYTES], "little", signed=True)
