"""The content ids of modules, computed when they are copied, or from the copy when needed."""

import os
import threading
from collections.abc import Callable
from typing import Final

from wasmdrop.unixfs.file_digest import FileDigest

#: Content ids in memory; others are computed again.
_MAX_CIDS: Final = 4096

_CHUNK_BYTES: Final = 1 << 20


class ModuleCids:
    """The content ids of modules by SHA-256 in hex. Thread-safe.

    ``open_module`` returns a descriptor of the copy of a module, or raises ``FileNotFoundError``.
    """

    def __init__(self, open_module: Callable[[str], int]) -> None:
        self._open_module = open_module
        self._lock = threading.Lock()
        self._cids: dict[str, str] = {}

    def known(self, sha256: str) -> str | None:
        """Return the content id of a module if it is in memory; no I/O."""
        return self._cids.get(sha256)

    def of(self, sha256: str) -> str | None:
        """Return the content id of a module; None if it is not known and there is no copy.

        Reads the whole copy. Raises ``OSError`` if that fails.
        """
        if (known := self.known(sha256)) is not None:
            return known
        try:
            fd = self._open_module(sha256)
        except FileNotFoundError:
            return None
        digest, offset = FileDigest(), 0
        try:
            while chunk := os.pread(fd, _CHUNK_BYTES, offset):
                digest.update(chunk)
                offset += len(chunk)
        finally:
            os.close(fd)
        return self.add(digest)

    def add(self, digest: FileDigest) -> str:
        """Remember the content id of a module that was read whole, and return it."""
        cid = digest.link().cid.text
        with self._lock:
            if len(self._cids) >= _MAX_CIDS:
                self._cids.clear()
            self._cids[digest.sha256] = cid
        return cid
