"""Modules on their way to workers: uploaded once, downloaded once, checked."""

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.fleet.chunk_memory import ChunkMemory
from tests.support.module_cache import ROOMY, Clock, ingest
from wasmdrop.fleet.bodies.chunks import InvalidBodyError, MissingChunkError, StreamFullError
from wasmdrop.fleet.bodies.modules import ModuleDownloads, ModuleUploads
from wasmdrop.fleet.messages import CHUNK_BYTES, Blob
from wasmdrop.protocol.errors import SandboxError
from wasmdrop.sandbox.host.module_cache.cache import ModuleCache

POOL = "p"
CONTENT = b"\0asm" + os.urandom(2 * CHUNK_BYTES)


@pytest.fixture
def store() -> ChunkMemory:
    """Give a fleet's stream of modules."""
    return ChunkMemory()


def new_cache(base: Path, cache_bytes: int = ROOMY, clock: Clock | None = None) -> ModuleCache:
    """Return an empty module cache."""
    base.mkdir(mode=0o700)
    return ModuleCache(base, cache_bytes, clock or Clock())


@pytest.fixture
def cache(tmp_path: Path) -> ModuleCache:
    """Give the module cache of a daemon."""
    return new_cache(tmp_path / "daemon")


@pytest.fixture
def sha256(cache: ModuleCache, tmp_path: Path) -> str:
    """Give the digest of a module in the cache of the daemon."""
    return ingest(cache, CONTENT, tmp_path)


@pytest.fixture
def uploads(store: ChunkMemory, cache: ModuleCache) -> ModuleUploads:
    """Give the uploads of the daemon."""
    return ModuleUploads(store, POOL, cache.open_module)


def test_module_is_uploaded_once(store: ChunkMemory, uploads: ModuleUploads, sha256: str) -> None:
    """However many jobs need it, at the same time or later."""

    async def run() -> list[Blob]:
        blobs = await asyncio.gather(*(uploads.ensure(sha256) for _ in range(5)))
        return [*blobs, await uploads.ensure(sha256)]

    assert asyncio.run(run()) == [Blob(sha256, len(CONTENT))] * 6
    assert store.stored == 3


def test_upload_that_is_cancelled_is_taken_over(
    store: ChunkMemory, uploads: ModuleUploads, sha256: str
) -> None:
    """The other jobs of the module still get it."""

    async def run() -> Blob:
        first = asyncio.create_task(uploads.ensure(sha256))
        second = asyncio.create_task(uploads.ensure(sha256))
        await store.reached.wait()
        first.cancel()
        return await second

    assert asyncio.run(run()) == Blob(sha256, len(CONTENT))


def test_failed_upload_is_not_remembered(
    store: ChunkMemory, uploads: ModuleUploads, sha256: str
) -> None:
    """The next job tries again."""
    store.is_full = True
    with pytest.raises(StreamFullError):
        asyncio.run(uploads.ensure(sha256))
    store.is_full = False
    asyncio.run(uploads.ensure(sha256))
    assert len(store.messages) == 3


@pytest.mark.parametrize("way", ["one", "all"])
def test_forgotten_module_is_uploaded_again(
    store: ChunkMemory, uploads: ModuleUploads, sha256: str, way: str
) -> None:
    """A worker misses its chunks, or the fleet lost its data."""
    asyncio.run(uploads.ensure(sha256))
    store.messages.clear()
    if way == "one":
        uploads.forget(sha256)
    else:
        uploads.forget_all()
    asyncio.run(uploads.ensure(sha256))
    assert len(store.messages) == 3


def test_forgetting_while_a_module_is_uploaded_uploads_it_again(
    store: ChunkMemory, uploads: ModuleUploads, sha256: str
) -> None:
    """Chunks that were stored before the loss are gone."""

    async def run() -> None:
        uploading = asyncio.create_task(uploads.ensure(sha256))
        await store.reached.wait()
        store.messages.clear()
        uploads.forget_all()
        await uploading
        await uploads.ensure(sha256)

    asyncio.run(run())
    assert len(store.messages) == 3


def test_module_without_a_copy_is_not_sent(uploads: ModuleUploads) -> None:
    """The daemon can run the job itself: it has the machine code."""
    with pytest.raises(SandboxError, match="can't be sent"):
        asyncio.run(uploads.ensure("ab" * 32))


def test_copy_that_is_another_module_is_not_described_as_sent(
    store: ChunkMemory, tmp_path: Path
) -> None:
    """Workers would refuse it."""
    path = tmp_path / "module"
    path.write_bytes(b"another")
    uploads = ModuleUploads(store, POOL, lambda _: os.open(path, os.O_RDONLY))
    with pytest.raises(SandboxError, match="changed while it was sent"):
        asyncio.run(uploads.ensure("ab" * 32))


class Worker:
    """The downloads of a worker."""

    def __init__(
        self, store: ChunkMemory, base: Path, cache_bytes: int = ROOMY, max_bytes: int = ROOMY
    ) -> None:
        self.clock = Clock()
        self.base = base
        self.cache = new_cache(base, cache_bytes, self.clock)
        self.downloads = ModuleDownloads(store, POOL, self.cache, base, max_bytes)

    def download(self, blob: Blob) -> bytes:
        """Download a module; return what the cache has of it."""

        async def run() -> bytes:
            async with self.downloads.module(blob):
                return self.content(blob.sha256)

        return asyncio.run(run())

    def content(self, sha256: str) -> bytes:
        """Return the copy of a module in the cache."""
        fd = self.cache.open_module(sha256)
        try:
            return os.pread(fd, ROOMY, 0)
        finally:
            os.close(fd)

    def files(self) -> list[str]:
        """Return the names of all files in the state directory."""
        return [path.name for path in self.base.rglob("*") if path.is_file()]


def test_module_is_downloaded_into_the_cache(
    store: ChunkMemory, uploads: ModuleUploads, sha256: str, tmp_path: Path
) -> None:
    """And not again if it is there."""
    blob = asyncio.run(uploads.ensure(sha256))
    worker = Worker(store, tmp_path / "worker")
    assert worker.download(blob) == CONTENT
    store.messages.clear()
    assert worker.download(blob) == CONTENT
    assert worker.files() == [f"{sha256}.wasm"]


def test_module_is_downloaded_once_by_concurrent_jobs(
    store: ChunkMemory, uploads: ModuleUploads, sha256: str, tmp_path: Path
) -> None:
    """The second job waits for the first."""
    blob = asyncio.run(uploads.ensure(sha256))
    worker = Worker(store, tmp_path / "worker")
    fetched: list[str] = []
    store_get = store.get

    async def get(stream: str, subject: str) -> bytes | None:
        fetched.append(subject)
        return await store_get(stream, subject)

    store.get = get  # type: ignore[method-assign]

    async def one() -> None:
        async with worker.downloads.module(blob):
            pass

    async def run() -> None:
        await asyncio.gather(*(one() for _ in range(4)))

    asyncio.run(run())
    assert len(fetched) == 3


def test_damaged_copy_is_downloaded_again(
    store: ChunkMemory, uploads: ModuleUploads, sha256: str, tmp_path: Path
) -> None:
    """A worker heals itself."""
    blob = asyncio.run(uploads.ensure(sha256))
    worker = Worker(store, tmp_path / "worker")
    worker.download(blob)
    copy = worker.cache.module_path(sha256)
    copy.chmod(0o644)
    copy.write_bytes(b"damaged")
    assert worker.download(blob) == CONTENT


def test_module_in_use_is_not_evicted(
    store: ChunkMemory, cache: ModuleCache, uploads: ModuleUploads, tmp_path: Path
) -> None:
    """Even if the cache is too small for both and the grace period is over."""
    first, second = (
        asyncio.run(uploads.ensure(ingest(cache, b"\0asm" + os.urandom(CHUNK_BYTES), tmp_path)))
        for _ in range(2)
    )
    worker = Worker(store, tmp_path / "worker", cache_bytes=CHUNK_BYTES + 100)

    async def run() -> None:
        async with worker.downloads.module(first):
            worker.clock.pass_grace()
            async with worker.downloads.module(second):
                assert worker.content(first.sha256)
        worker.clock.pass_grace()

    asyncio.run(run())
    third = asyncio.run(uploads.ensure(ingest(cache, b"\0asm" + os.urandom(99), tmp_path)))
    worker.download(third)
    assert not worker.cache.has_module(first.sha256)


def test_missing_chunk_of_a_module_is_told_apart(
    store: ChunkMemory,
    uploads: ModuleUploads,
    sha256: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The daemon is then asked to send it again; no incomplete copy remains."""
    monkeypatch.setattr("wasmdrop.fleet.bodies.chunks.MISSING_SECONDS", 0.01)
    blob = asyncio.run(uploads.ensure(sha256))
    del store.messages[[*store.messages][1]]
    worker = Worker(store, tmp_path / "worker")
    with pytest.raises(MissingChunkError):
        worker.download(blob)
    assert worker.files() == []


def forged(blob: Blob, **fields: Any) -> Blob:
    """Return a description with other fields."""
    return msgspec.structs.replace(blob, **fields)


def test_module_that_is_not_as_described_is_refused(
    store: ChunkMemory, uploads: ModuleUploads, sha256: str, tmp_path: Path
) -> None:
    """By its digest or its sizes; nothing of it becomes a module."""
    blob = asyncio.run(uploads.ensure(sha256))
    worker = Worker(store, tmp_path / "worker")
    subject = next(iter(store.messages))
    sound = store.messages[subject]
    store.messages[subject] = sound[:-1] + bytes([sound[-1] ^ 1])
    with pytest.raises(InvalidBodyError, match="digest"):
        worker.download(blob)
    store.messages[subject] = sound
    with pytest.raises(InvalidBodyError, match="bytes; "):
        worker.download(forged(blob, size_bytes=blob.size_bytes - 1))
    assert worker.files() == []
    assert worker.download(blob) == CONTENT


def test_module_larger_than_allowed_is_not_fetched(
    store: ChunkMemory, uploads: ModuleUploads, sha256: str, tmp_path: Path
) -> None:
    """The worker's own limit holds, whatever the job says."""
    blob = asyncio.run(uploads.ensure(sha256))
    worker = Worker(store, tmp_path / "worker", max_bytes=1000)
    store.reached.clear()
    with pytest.raises(InvalidBodyError, match="are more than 1000"):
        worker.download(blob)
    with pytest.raises(InvalidBodyError, match="are more than 1000"):
        worker.download(forged(blob, size_bytes=1 << 48))
    assert not store.reached.is_set()
