"""Versions of files in the form that the journal stores: 32 bytes, and 8 of an input's digest."""

import os
import stat
from typing import Final

from wasmdrop.protocol.slot import FileVersion

_NUMBER_BYTES: Final = 8
_DIGEST_BYTES: Final = 8


def pack(version: FileVersion) -> bytes:
    """Return the version in 32 bytes."""
    return b"".join(
        (number & 0xFFFFFFFFFFFFFFFF).to_bytes(_NUMBER_BYTES, "little")
        for number in (version.device, version.inode, version.size_bytes, version.mtime_ns)
    )


def pack_unreadable(status: os.stat_result) -> bytes:
    """Return the version of an unreadable file, which differs from that of any readable one."""
    kind = stat.S_IFMT(status.st_mode)
    # A new mode or owner may make a file readable, and changes its change time alone. A link never
    # changes, but its inode's number may be reused at once.
    has_changes = kind in {stat.S_IFREG, stat.S_IFLNK}
    changed_ns = status.st_ctime_ns if has_changes else 0
    return pack(FileVersion(status.st_dev, status.st_ino, -kind, changed_ns))


def is_unreadable(version: bytes) -> bool:
    """Return whether the version is one of :func:`pack_unreadable`."""
    size = version[2 * _NUMBER_BYTES : 3 * _NUMBER_BYTES]
    return int.from_bytes(size, "little", signed=True) < 0


def is_same_version(version: bytes, status: os.stat_result) -> bool:
    """Return whether ``version`` is that of a file with this status (lstat(2)).

    A link to an unreadable file is never the same: the file may have become readable since.
    """
    if is_unreadable(version):
        return not stat.S_ISLNK(status.st_mode) and version.startswith(pack_unreadable(status))
    return version.startswith(pack(FileVersion.of(status)))


def with_digest(version: bytes, digest: bytes) -> bytes:
    """Return the version of an input: two writes within a tick of the clock have one mtime."""
    return version + digest[:_DIGEST_BYTES]


def digest_of(version: bytes) -> bytes:
    """Return the part of the digest in an input's version."""
    return version[-_DIGEST_BYTES:]


def mtime_ns_of(version: bytes) -> int:
    """Return the modification time in a version, in nanoseconds since 1970."""
    return int.from_bytes(version[3 * _NUMBER_BYTES : 4 * _NUMBER_BYTES], "little", signed=True)
