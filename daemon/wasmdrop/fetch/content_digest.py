"""Hashes the content of a file, to compare it with the digest that a source names."""

import hashlib

from wasmdrop.fetch.source import IpfsSource, Source
from wasmdrop.unixfs.cid import Codec
from wasmdrop.unixfs.files import FileImporter
from wasmdrop.unixfs.profiles import PROFILES


class ContentDigest:
    """Counts and hashes content."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._hash = hashlib.sha256()

    def update(self, chunk: bytes) -> None:
        """Add the next bytes."""
        self.size_bytes += len(chunk)
        self._hash.update(chunk)

    @property
    def sha256(self) -> str:
        """SHA-256 of the content, in hex."""
        return self._hash.hexdigest()


class SourceDigest(ContentDigest):
    """Hashes content of which nothing is known yet, also as a tree of blocks.

    How a file was divided into blocks is not known from its CID, so all profiles are tried.
    """

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        is_tree = isinstance(source, IpfsSource) and source.cid.codec is Codec.DAG_PB
        self._importers = [FileImporter(profile) for profile in PROFILES.values() if is_tree]

    def update(self, chunk: bytes) -> None:
        """Add the next bytes."""
        super().update(chunk)
        for importer in self._importers:
            importer.update(chunk)

    def is_of_source(self) -> bool:
        """Return whether the content is certainly what the source names. Called once."""
        if not isinstance(self._source, IpfsSource):
            return self.sha256 == self._source.sha256
        digest = self._source.cid.digest
        if not self._importers:
            return self.sha256 == digest.hex()
        return any(importer.finish().cid.digest == digest for importer in self._importers)
