"""Modules on their way to workers: each is uploaded and downloaded once.

The stream of modules is a cache: the oldest chunks make room for new ones, and a fleet that lost
its data has none. A worker that misses a chunk says so, and the daemon uploads the module again.
"""

import asyncio
import contextlib
import os
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Final
from weakref import WeakValueDictionary

from wasmdrop.fleet.bodies.chunks import ChunkStore, InvalidBodyError, put_blob, read_blob
from wasmdrop.fleet.bodies.invalid_answers import Flaw
from wasmdrop.fleet.bodies.threads import on_thread
from wasmdrop.fleet.messages import CHUNK_BYTES, Blob
from wasmdrop.fleet.names import MODULES, module_chunk_subject
from wasmdrop.protocol.errors import SandboxError, StorageError
from wasmdrop.sandbox.host.module_cache.cache import ModuleCache

#: Digests of uploaded modules in memory; others are uploaded again.
_MAX_UPLOADED: Final = 4096


class _Locks:
    """One lock for each module that is on its way."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, sha256: str) -> asyncio.Lock:
        """Return the lock of a module; it exists as long as somebody has it."""
        lock = self._locks.get(sha256)
        if lock is None:
            lock = self._locks[sha256] = asyncio.Lock()
        return lock


class ModuleUploads:
    """Uploads the modules of a daemon for its pool. Used from one event loop.

    ``open_module`` returns a descriptor of the copy of a module, or raises ``FileNotFoundError``;
    that is :meth:`.ModuleCache.open_module`.
    """

    def __init__(self, store: ChunkStore, pool: str, open_module: Callable[[str], int]) -> None:
        self._store = store
        self._pool = pool
        self._open_module = open_module
        self._uploaded: OrderedDict[str, Blob] = OrderedDict()
        """The least recently used first."""
        self._losses = 0
        self._locks = _Locks()

    async def ensure(self, sha256: str) -> Blob:
        """Upload a module unless that was done, and return its description.

        Raises ``SandboxError`` if there is no intact copy, and as :func:`.put_blob` does.
        """
        async with self._locks.of(sha256):
            blob = self._uploaded.get(sha256)
            if blob is None:
                losses = self._losses
                blob = await self._upload(sha256)
                if self._losses != losses:
                    return blob  # its first chunks may be lost
                self._uploaded[sha256] = blob
            self._uploaded.move_to_end(sha256)
            if len(self._uploaded) > _MAX_UPLOADED:
                self._uploaded.popitem(last=False)
            return blob

    def forget(self, sha256: str) -> None:
        """Upload a module again when it is needed next: a worker missed a chunk."""
        self._losses += 1
        self._uploaded.pop(sha256, None)

    def forget_all(self) -> None:
        """Upload all modules again when they are needed next: the fleet lost its data."""
        self._losses += 1
        self._uploaded.clear()

    async def _upload(self, sha256: str) -> Blob:
        try:
            fd = await asyncio.to_thread(self._open_module, sha256)
        except OSError as error:
            raise SandboxError(f"the copy of a module can't be sent: {error}") from error
        subject_of = partial(module_chunk_subject, self._pool, sha256)
        blob = await put_blob(self._store, subject_of, _content_and_close(fd))
        if blob.sha256 != sha256:
            raise SandboxError(f"the copy of module sha256:{sha256} changed while it was sent")
        return blob


class ModuleDownloads:
    """Downloads modules into the module cache of a worker. Used from one event loop.

    ``directory``: for incomplete copies, which have no name there. ``max_bytes``: size limit of a
    module.
    """

    def __init__(
        self, store: ChunkStore, pool: str, cache: ModuleCache, directory: Path, max_bytes: int
    ) -> None:
        self.count = 0
        """Modules that were downloaded."""
        self.total_bytes = 0
        """Their size."""
        self._store = store
        self._pool = pool
        self._cache = cache
        self._directory = directory
        self._max_bytes = max_bytes
        self._locks = _Locks()

    @contextlib.asynccontextmanager
    async def module(self, blob: Blob) -> AsyncIterator[None]:
        """Have a module in the cache during the block; download it unless it is there.

        Raises ``MissingChunkError`` if the daemon has to send it again, ``InvalidBodyError`` if it
        is too large or not what its digest says, ``SandboxError`` if the disk is at fault, and
        ``FleetUnavailableError`` as the connection does.
        """
        with self._cache.held(blob.sha256):
            async with self._locks.of(blob.sha256):
                # A copy that is there but damaged is downloaded again.
                if not await asyncio.to_thread(self._is_intact, blob.sha256):
                    await self._download(blob)
                    self.count += 1
                    self.total_bytes += blob.size_bytes
            yield

    def _is_intact(self, sha256: str) -> bool:
        try:
            os.close(self._cache.open_module(sha256))
        except FileNotFoundError:
            return False
        return self._cache.has_module(sha256)

    async def _download(self, blob: Blob) -> None:
        subject_of = partial(module_chunk_subject, self._pool, blob.sha256)
        chunks = read_blob(self._store, MODULES, subject_of, blob, self._max_bytes)
        try:
            with tempfile.TemporaryFile(dir=self._directory) as file:
                async with contextlib.aclosing(chunks):
                    async for chunk in chunks:
                        await on_thread(file.write, chunk)
                await on_thread(self._ingest, file, blob.sha256)
        except (OSError, StorageError) as error:
            raise SandboxError(f"a module could not be kept: {error}") from error

    def _ingest(self, file: IO[bytes], sha256: str) -> None:
        file.flush()
        if self._cache.ingest(file.fileno()) != sha256:
            raise InvalidBodyError(Flaw.DIGEST, "the module does not match its digest")


def _content_and_close(fd: int) -> Iterator[bytes]:
    try:
        offset = 0
        while chunk := os.pread(fd, CHUNK_BYTES, offset):
            offset += len(chunk)
            yield chunk
    finally:
        os.close(fd)
