"""Reads a slot's input into a drop, also one that is refused."""

import hashlib
import os
import stat
import time
from collections.abc import Callable
from typing import Final

import msgspec

from wasmdrop.intake.drops import InputDrop
from wasmdrop.intake.file_versions import pack, pack_unreadable, with_digest
from wasmdrop.intake.layout import Layout, RootedPath
from wasmdrop.intake.untrusted_files import open_file, read_file
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.input import parse_input
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import FileVersion, InputFile, Slot
from wasmdrop.system import openat2
from wasmdrop.system.openat2 import Links
from wasmdrop.unixfs.file_digest import FileDigest, large_cid, large_cid_of

#: A refused file gets a digest up to this multiple of the largest input.
_DIGEST_RATIO: Final = 4

#: Most time for such a digest, in seconds: the thread that computes it also sees all other drops.
_DIGEST_SECONDS: Final = 1.0

_CHUNK_BYTES: Final = 1 << 20


class InputReader:
    """Reads inputs of at most ``max_bytes``."""

    def __init__(self, layout: Layout, max_bytes: int) -> None:
        self._layout = layout
        self._max_bytes = max_bytes

    def read(
        self, slot: Slot, admit: Callable[[os.stat_result], None] = lambda _status: None
    ) -> InputDrop:
        """Read and parse the input of ``slot``; a refusal becomes part of the drop.

        ``admit`` is called with the file's status before it is read, and may raise an error. Raises
        ``OSError``, and ``ChangedWhileReadError`` if the file was written to meanwhile.
        """
        path = slot.input_path
        file = self._layout.rooted(path)
        dropped_at_ns = time.time_ns()
        spec, refusal, data = None, None, b""
        try:
            read = read_file(file, self._max_bytes, Code.INVALID_INPUT, admit=admit)
            data = read.data
            if slot.directory == os.path.dirname(path):  # noqa: PTH120 - may hold any bytes
                slot = msgspec.structs.replace(slot, found_in=read.found_in)
            version = pack(read.version)
            spec = parse_input(data)
        except RefusedError as error:
            refusal = error
            if not data:
                version = pack_unreadable(openat2.lstat(file.root, file.relative))
        sha256 = hashlib.sha256(data)
        return InputDrop(
            slot,
            dropped_at_ns,
            data,
            InputFile(path, sha256.hexdigest(), len(data), cid=large_cid(data)),
            spec,
            refusal,
            with_digest(version, sha256.digest()),
        )

    def describe_unread(self, drop: InputDrop) -> InputDrop:
        """Complete the description of an input that was refused before it was read.

        It gets its digest if that takes reasonable time, else the version of the file, or link, at
        the path itself. Raises ``OSError`` if nothing is there.
        """
        if drop.refusal is None or drop.data:
            return drop
        path, reason = drop.slot.input_path, drop.refusal.message
        file = self._layout.rooted(path)
        try:
            digest = _digest(file, _DIGEST_RATIO * self._max_bytes)
        except RefusedError:
            digest = None
        if digest is not None:
            cid = large_cid_of(digest.link())
            size_bytes = digest.size_bytes
            described = InputFile(path, digest.sha256, size_bytes, refusal=reason, cid=cid)
        else:
            status = openat2.lstat(file.root, file.relative)
            read_bytes = status.st_size if stat.S_ISREG(status.st_mode) else None
            described = InputFile(path, None, read_bytes, FileVersion.of(status), reason)
        return msgspec.structs.replace(drop, input=described)


def _digest(file: RootedPath, max_bytes: int) -> FileDigest | None:
    """Return the digest of a file; None if it changes, is too large or takes too long."""
    end = time.monotonic() + _DIGEST_SECONDS
    digest = FileDigest()
    with open_file(file, max_bytes, Code.INVALID_INPUT, Links.LAST) as opened:
        while chunk := os.read(opened.fd, _CHUNK_BYTES):
            digest.update(chunk)
            if time.monotonic() > end or digest.size_bytes > max_bytes:
                return None
        if FileVersion.of(os.fstat(opened.fd)) != FileVersion.of(opened.status):
            return None
    return digest
