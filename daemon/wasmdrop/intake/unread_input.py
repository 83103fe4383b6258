"""Describes an input that was refused before it was read, so that its marker is true."""

import hashlib
import os
import stat
import time
from typing import Final

from wasmdrop.intake.layout import RootedPath
from wasmdrop.intake.untrusted_files import open_regular
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import FileVersion, InputFile
from wasmdrop.system import openat2
from wasmdrop.system.openat2 import Links

__all__ = ["describe_unread"]

#: How long a digest may take, in seconds: it is made on the thread that sees all other drops.
_DIGEST_SECONDS: Final = 1.0

_PIECE_BYTES: Final = 1 << 20


def describe_unread(path: str, place: RootedPath, max_bytes: int, refusal: str) -> InputFile:
    """Return the input at ``path``, with its digest if that can be made in reasonable time.

    Otherwise the digest is None, and the version is that of the file, or link, at the path itself.
    ``max_bytes`` is the size of the largest file that is read for it. Raises ``OSError`` if nothing
    is there.
    """
    try:
        found = _digest(place, max_bytes)
    except RefusedError:
        found = None
    if found is not None:
        return InputFile(path, *found, refusal=refusal)
    status = openat2.lstat(place.root, place.relative)
    size_bytes = status.st_size if stat.S_ISREG(status.st_mode) else None
    return InputFile(path, None, size_bytes, FileVersion.of(status), refusal)


def _digest(place: RootedPath, max_bytes: int) -> tuple[str, int] | None:
    end = time.monotonic() + _DIGEST_SECONDS
    digest, size_bytes = hashlib.sha256(), 0
    with open_regular(*(place.root, place.relative, max_bytes, Code.INVALID_INPUT, Links.LAST)) as (
        fd,
        status,
        _found_in,
    ):
        while part := os.read(fd, _PIECE_BYTES):
            digest.update(part)
            size_bytes += len(part)
            if time.monotonic() > end or size_bytes > max_bytes:
                return None
        if FileVersion.of(os.fstat(fd)) != FileVersion.of(status):
            return None
    return digest.hexdigest(), size_bytes
