"""Send and fetch bodies that are too large for a message, in chunks of one subject each.

A body is a module, a large call, a large outcome, or output files. Its message has its digest and
its size, so nothing else need be stored, chunks may be stored again, and many are read in parallel.
A reader is not told how much it will read: it computes that from the size, whose limit its caller
knows, and stops at the first chunk that is not as long as it must be.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator
from typing import Any, Final, Protocol

from wasmdrop.fleet.bodies.invalid_answers import Flaw
from wasmdrop.fleet.messages import CHUNK_BYTES, Blob
from wasmdrop.fleet.transport.connection import Stored

#: Chunks of one body that are stored or fetched at a time; so much of a body is in memory.
_PARALLEL: Final = 8

#: How long a chunk may be missing, in seconds: a server that has just come back may lag behind.
MISSING_SECONDS: Final = 5.0

#: Pause before a missing chunk is fetched again, and before one that found no room is stored again.
_PAUSE_SECONDS: Final = 0.25

SubjectOf = Callable[[int], str]
"""Returns the subject of a chunk, by its number from 0."""


class ChunkStore(Protocol):
    """The part of a connection that bodies need, see :mod:`wasmdrop.fleet.transport.connection`."""

    async def store(self, subject: str, data: bytes) -> Stored:
        """Store a message durably."""

    async def get(self, stream: str, subject: str) -> bytes | None:
        """Return the last message of a subject; None if there is none."""


class StreamFullError(Exception):
    """A stream has no room for a body. The text names the subject."""


class InvalidBodyError(Exception):
    """A body is not as its message says: too large, of another size, or of another digest."""

    def __init__(self, flaw: Flaw, reason: str) -> None:
        super().__init__(reason)
        self.flaw = flaw


class MissingChunkError(InvalidBodyError):
    """A chunk is not there, or not any more."""


async def put_blob(
    store: ChunkStore,
    subject_of: SubjectOf,
    pieces: Iterable[bytes],
    *,
    upload: str = "",
    full_seconds: float = 0.0,
) -> Blob:
    """Store a body and return its description.

    ``pieces`` may have any sizes. The iterator is advanced on a thread, so it may read files; what
    it raises ends the upload. If the stream is full, stores again for ``full_seconds``.

    Raises ``StreamFullError``, and ``FleetUnavailableError`` as the connection does.
    """
    chunks = _Chunks(pieces)
    pending: deque[asyncio.Task[None]] = deque()
    number = 0
    try:
        while (chunk := await asyncio.to_thread(chunks.next)) is not None:
            if len(pending) >= _PARALLEL:
                await pending[0]
                del pending[0]
            storing = _put(store, subject_of(number), chunk, full_seconds)
            pending.append(asyncio.create_task(storing))
            number += 1
        for task in pending:
            await task
    finally:
        await _cancel(pending)
    return Blob(chunks.digest.hexdigest(), chunks.size_bytes, upload)


async def read_blob(
    store: ChunkStore,
    stream: str,
    subject_of: SubjectOf,
    blob: Blob,
    max_bytes: int,
) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of a body in order.

    The digest is checked after the last chunk: the caller uses nothing of the body before the end.
    Raises ``InvalidBodyError`` if the body is larger than ``max_bytes``, or not as described;
    ``MissingChunkError`` if a chunk is missing for :data:`MISSING_SECONDS`;
    ``FleetUnavailableError`` as the connection does.
    """
    if blob.size_bytes > max_bytes:
        raise InvalidBodyError(Flaw.SIZE, f"{blob.size_bytes} bytes are more than {max_bytes}")
    digest = hashlib.sha256()
    count = -(-blob.size_bytes // CHUNK_BYTES)
    pending: deque[asyncio.Task[bytes]] = deque()
    begun = 0
    try:
        for number in range(count):
            while begun < min(count, number + _PARALLEL):
                fetching = _get(store, stream, subject_of(begun))
                pending.append(asyncio.create_task(fetching))
                begun += 1
            chunk = await pending[0]
            del pending[0]
            wanted_bytes = min(CHUNK_BYTES, blob.size_bytes - number * CHUNK_BYTES)
            if len(chunk) != wanted_bytes:
                raise InvalidBodyError(
                    Flaw.SIZE,
                    f"chunk {number} has {len(chunk)} bytes; {wanted_bytes} were announced",
                )
            digest.update(chunk)
            yield chunk
    finally:
        await _cancel(pending)
    if digest.hexdigest() != blob.sha256:
        raise InvalidBodyError(Flaw.DIGEST, "it does not match its digest")


async def get_blob(
    store: ChunkStore, stream: str, subject_of: SubjectOf, blob: Blob, max_bytes: int
) -> bytearray:
    """Return a body that fits into memory. Raises as :func:`read_blob` does."""
    found = bytearray()
    async for chunk in read_blob(store, stream, subject_of, blob, max_bytes):
        found += chunk
    return found


class _Chunks:
    """Cuts pieces of any size into chunks, and computes size and digest of the whole."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.digest = hashlib.sha256()
        self.size_bytes = 0
        self._pieces: Iterator[bytes] = iter(pieces)
        self._rest = memoryview(b"")

    def next(self) -> bytes | None:
        """Return the next chunk, or None after the last one."""
        parts: list[memoryview] = []
        room_bytes = CHUNK_BYTES
        while room_bytes:
            if not self._rest:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._rest = memoryview(piece)
                continue
            part, self._rest = self._rest[:room_bytes], self._rest[room_bytes:]
            room_bytes -= len(part)
            parts.append(part)
        if not parts:
            return None
        chunk = b"".join(parts)
        self.digest.update(chunk)
        self.size_bytes += len(chunk)
        return chunk


async def _put(store: ChunkStore, subject: str, chunk: bytes, full_seconds: float) -> None:
    deadline = asyncio.get_running_loop().time() + full_seconds
    # An occupied subject has this very chunk: an earlier attempt stored it.
    while await store.store(subject, chunk) is Stored.FULL:
        if asyncio.get_running_loop().time() >= deadline:
            raise StreamFullError(f"the stream has no room for {subject}")
        await asyncio.sleep(_PAUSE_SECONDS)


async def _get(store: ChunkStore, stream: str, subject: str) -> bytes:
    deadline = asyncio.get_running_loop().time() + MISSING_SECONDS
    while (chunk := await store.get(stream, subject)) is None:
        if asyncio.get_running_loop().time() >= deadline:
            raise MissingChunkError(Flaw.MISSING, f"{subject} is missing")
        await asyncio.sleep(_PAUSE_SECONDS)
    return chunk


async def _cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for their end; the error of the first one is enough."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
