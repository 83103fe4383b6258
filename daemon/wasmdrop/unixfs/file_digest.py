"""The SHA-256 of a file and its CID by the default profile, in one pass.

A file of one block has the CID that follows from its SHA-256, so only a larger one is hashed twice.
Values that describe a file therefore hold its CID only if it is larger; :func:`cid_of` returns it
in both cases.
"""

import hashlib

from wasmdrop.unixfs.cid import raw_cid
from wasmdrop.unixfs.dag_pb import Link
from wasmdrop.unixfs.files import FileImporter, raw_link
from wasmdrop.unixfs.profiles import DEFAULT_PROFILE

_BLOCK_BYTES = DEFAULT_PROFILE.chunk_bytes


class FileDigest:
    """Hashes a file that is passed to ``update`` in chunks.

    Memory: the first block of the file, until it has a second one.
    """

    def __init__(self) -> None:
        self.size_bytes = 0
        self._hash = hashlib.sha256()
        self._first_block: list[bytes] = []
        self._importer: FileImporter | None = None

    def update(self, data: bytes) -> None:
        """Add the next bytes of the file, of any number."""
        self._hash.update(data)
        self.size_bytes += len(data)
        if self._importer is not None:
            self._importer.update(data)
            return
        self._first_block.append(data)
        if self.size_bytes > _BLOCK_BYTES:
            self._importer = FileImporter()
            for part in self._first_block:
                self._importer.update(part)
            self._first_block.clear()

    @property
    def sha256(self) -> str:
        """The SHA-256 in hex."""
        return self._hash.hexdigest()

    def link(self) -> Link:
        """Return the link to the file. Called once, after the last ``update``."""
        if self._importer is not None:
            return self._importer.finish()
        return raw_link(self.sha256, self.size_bytes)


def large_cid(data: bytes) -> str | None:
    """Return the CID of a file with this content; None if it has one block."""
    if len(data) <= _BLOCK_BYTES:
        return None
    importer = FileImporter()
    importer.update(data)
    return importer.finish().cid.text


def large_cid_of(link: Link) -> str | None:
    """Return the CID of a file; None if it has one block."""
    return link.cid.text if link.content_bytes > _BLOCK_BYTES else None


def cid_of(sha256: str, size_bytes: int, of_large: str | None) -> str | None:
    """Return the CID of a file; ``of_large`` is that of a file of more than one block, if known."""
    return raw_cid(sha256) if size_bytes <= _BLOCK_BYTES else of_large
