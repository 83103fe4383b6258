"""Bodies in chunks: put, fetched, and refused if they are not as announced."""

import asyncio
import hashlib
from collections.abc import Iterator

import msgspec
import pytest

from tests.support.fleet.chunk_memory import ChunkMemory
from wasmdrop.fleet.bodies.chunks import (
    InvalidBodyError,
    MissingChunkError,
    StreamFullError,
    get_blob,
    put_blob,
    read_blob,
)
from wasmdrop.fleet.messages import CHUNK_BYTES, Blob
from wasmdrop.fleet.transport.connection import Stored

STREAM = "S"


def subject(number: int) -> str:
    """Return the subject of a chunk."""
    return f"body.{number}"


def put(store: ChunkMemory, *pieces: bytes) -> Blob:
    """Store a body."""
    return asyncio.run(put_blob(store, subject, pieces))


def get(store: ChunkMemory, blob: Blob, max_bytes: int = 1 << 30) -> bytes:
    """Fetch a body."""
    return bytes(asyncio.run(get_blob(store, STREAM, subject, blob, max_bytes)))


def body_of(size: int) -> bytes:
    """Return bytes that differ between chunks."""
    return b"".join(index.to_bytes(4, "big") for index in range(-(-size // 4)))[:size]


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 20 * CHUNK_BYTES + 7]
)
def test_body_is_fetched_as_it_was_put(size: int) -> None:
    """Its description has its size and its digest; no chunk is larger than the limit."""
    store, body = ChunkMemory(), body_of(size)
    blob = put(store, body)
    assert blob == Blob(hashlib.sha256(body).hexdigest(), size)
    assert get(store, blob) == body
    assert list(store.messages) == [subject(n) for n in range(-(-size // CHUNK_BYTES))]
    assert max(map(len, store.messages.values()), default=0) <= CHUNK_BYTES
    assert store.most_at_once <= 8


def test_body_in_pieces_of_any_size_is_cut_into_equal_chunks() -> None:
    """All but the last one."""
    store, body = ChunkMemory(), body_of(2 * CHUNK_BYTES + 100)
    pieces = [b"", body[:3], body[3 : CHUNK_BYTES + 9], b"", body[CHUNK_BYTES + 9 :]]
    blob = put(store, *pieces)
    assert get(store, blob) == body
    assert [*map(len, store.messages.values())] == [CHUNK_BYTES, CHUNK_BYTES, 100]


def test_put_into_a_slow_store_holds_few_chunks() -> None:
    """It reads on only when a chunk was stored."""
    taken: list[int] = []

    def pieces() -> Iterator[bytes]:
        for number in range(30):
            taken.append(number)
            yield bytes(CHUNK_BYTES)

    async def scene() -> None:
        store, gate = ChunkMemory(), asyncio.Event()

        async def slow(subject: str, data: bytes) -> Stored:
            await gate.wait()
            return await store.store(subject, data)

        waiting = ChunkMemory()
        waiting.store = slow  # type: ignore[method-assign]
        putting = asyncio.create_task(put_blob(waiting, subject, pieces()))
        while len(taken) < 9:
            await asyncio.to_thread(len, taken)
        for _ in range(100):
            await asyncio.to_thread(len, taken)
        assert len(taken) == 9
        gate.set()
        assert (await putting).size_bytes == 30 * CHUNK_BYTES

    asyncio.run(scene())


def test_put_of_an_iterator_that_fails_raises_its_error() -> None:
    """Such as a file that has changed."""

    def pieces() -> Iterator[bytes]:
        yield body_of(CHUNK_BYTES)
        raise OSError("it is gone")

    with pytest.raises(OSError, match="it is gone"):
        asyncio.run(put_blob(ChunkMemory(), subject, pieces()))


def test_put_into_a_full_stream_raises() -> None:
    """After the time that the caller gives it."""
    store = ChunkMemory()
    store.is_full = True
    with pytest.raises(StreamFullError, match=r"no room for body\.0"):
        put(store, b"x")


def test_put_into_a_full_stream_waits_for_room() -> None:
    """Chunks that found no room are stored again."""
    store = ChunkMemory()
    store.is_full = True

    async def scene() -> Blob:
        putting = asyncio.create_task(put_blob(store, subject, [b"x"], full_seconds=60))
        await store.reached.wait()
        store.is_full = False
        return await putting

    assert get(store, asyncio.run(scene())) == b"x"


def test_body_larger_than_allowed_is_not_fetched() -> None:
    """Not one chunk of it."""
    store = ChunkMemory()
    blob = put(store, body_of(10))
    store.most_at_once = 0
    with pytest.raises(InvalidBodyError, match="10 bytes are more than 9"):
        get(store, blob, 9)
    assert store.most_at_once == 0


@pytest.mark.parametrize(
    ("number", "chunk"),
    [(0, b""), (1, b"x" * (CHUNK_BYTES + 1)), (2, b"longer than the rest"), (1, b"short")],
)
def test_chunk_of_another_size_is_refused(number: int, chunk: bytes) -> None:
    """Before the next ones are used."""
    store = ChunkMemory()
    blob = put(store, body_of(2 * CHUNK_BYTES + 9))
    store.messages[subject(number)] = chunk
    with pytest.raises(InvalidBodyError, match=f"chunk {number} has {len(chunk)} bytes"):
        get(store, blob)


def test_swapped_chunks_are_refused() -> None:
    """The digest covers their order."""
    store = ChunkMemory()
    blob = put(store, body_of(2 * CHUNK_BYTES))
    messages = store.messages
    messages[subject(0)], messages[subject(1)] = messages[subject(1)], messages[subject(0)]
    with pytest.raises(InvalidBodyError, match="does not match its digest"):
        get(store, blob)


def test_missing_chunk_is_named_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader gives up by itself."""
    monkeypatch.setattr("wasmdrop.fleet.bodies.chunks.MISSING_SECONDS", 0.01)
    store = ChunkMemory()
    blob = put(store, body_of(3 * CHUNK_BYTES))
    del store.messages[subject(1)]

    async def read() -> None:
        async for _chunk in read_blob(store, STREAM, subject, blob, 1 << 30):
            pass

    with pytest.raises(MissingChunkError, match=r"body\.1 is missing"):
        asyncio.run(read())


def test_chunk_that_appears_later_is_found() -> None:
    """A replica that lags behind its leader has it a moment later."""
    store, body = ChunkMemory(), body_of(CHUNK_BYTES + 1)
    blob = put(store, body)
    late = store.messages.pop(subject(1))

    async def scene() -> bytes:
        store.reached.clear()
        getting = asyncio.create_task(get_blob(store, STREAM, subject, blob, 1 << 30))
        await store.reached.wait()
        store.messages[subject(1)] = late
        return bytes(await getting)

    assert asyncio.run(scene()) == body


def test_announced_size_of_a_terabyte_takes_no_memory_and_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first chunk that is not there ends it; a count in the message would not be believed."""
    monkeypatch.setattr("wasmdrop.fleet.bodies.chunks.MISSING_SECONDS", 0.01)
    store = ChunkMemory()
    blob = msgspec.structs.replace(put(store, body_of(CHUNK_BYTES)), size_bytes=1 << 40)

    async def read() -> None:
        async for _chunk in read_blob(store, STREAM, subject, blob, 1 << 41):
            pass

    with pytest.raises(MissingChunkError):
        asyncio.run(read())
    assert store.most_at_once <= 8
