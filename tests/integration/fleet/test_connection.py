"""A connection to a real server: leases, stored messages, direct reads."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.fleet.ready import connected, ready_server
from tests.support.fleet.server import Server
from wasmdrop.fleet.admin.setup import Sizes, missing_for_daemon, missing_for_worker
from wasmdrop.fleet.messages import CHUNK_BYTES
from wasmdrop.fleet.names import (
    daemon_jobs_filter,
    input_chunk_subject,
    input_chunks_filter,
    input_stream,
    job_stream,
    job_subject,
    outcome_consumer,
    outcome_stream,
    outcome_subject,
)
from wasmdrop.fleet.transport.connection import Lease, Stored

TICKET: Final = "0" * 32
POOL: Final = "default"
STREAM: Final = job_stream(POOL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server that the tests share: each has jobs of its own."""
    with ready_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


def _job(name: str, generation: int = 0) -> str:
    return job_subject(POOL, "any", "daemon", name, 1, generation)


def test_job_stored_twice_is_occupied_until_it_is_acknowledged(server: Server) -> None:
    """One message per subject; the lease counts its deliveries."""

    async def run() -> None:
        async with connected(server) as connection:
            assert await connection.store(_job("a"), b"1", message_id="a") is Stored.STORED
            assert await connection.store(_job("a"), b"1", message_id="b") is Stored.OCCUPIED
            assert await connection.subjects(STREAM, daemon_jobs_filter(POOL, "daemon")) == {
                _job("a")
            }
            lease = await connection.fetch(STREAM, "any", 5)
            assert isinstance(lease, Lease)
            assert (lease.subject, lease.data, lease.delivery) == (_job("a"), b"1", 1)
            await lease.extend()
            await lease.ack()
            assert await connection.fetch(STREAM, "any", 0.2) is None
            assert await connection.store(_job("a"), b"1", message_id="c") is Stored.STORED
            again = await connection.fetch(STREAM, "any", 5)
            assert again is not None
            await again.ack()
            assert await connection.fetch(STREAM, "any", 0.2) is None

    asyncio.run(run())


def test_direct_get_returns_the_last_message_of_a_subject(server: Server) -> None:
    """Also of one that is leased; None if there is none, or if it was purged."""

    async def run() -> None:
        inputs, other = input_stream("daemon"), "1" * 32
        chunk = input_chunk_subject("daemon", POOL, TICKET, 0)
        async with connected(server) as connection:
            assert await connection.get(inputs, chunk) is None
            await connection.store(chunk, b"old")
            await connection.store(chunk, b"new")
            await connection.store(input_chunk_subject("daemon", POOL, other, 0), b"of another job")
            assert await connection.get(inputs, chunk) == b"new"
            await connection.purge(inputs, input_chunks_filter("daemon", TICKET))
            assert await connection.get(inputs, chunk) is None
            left = input_chunk_subject("daemon", POOL, other, 0)
            assert await connection.get(inputs, left) == b"of another job"
            subject = outcome_subject("daemon", TICKET)
            await connection.store(subject, b"outcome")
            lease = await connection.fetch(outcome_stream("daemon"), outcome_consumer("daemon"), 5)
            assert lease is not None
            assert await connection.get(outcome_stream("daemon"), subject) == b"outcome"
            await lease.ack()

    asyncio.run(run())


def test_full_stream_has_room_again_after_a_purge(tmp_path: Path) -> None:
    """Up to the last byte: no message, however small, has room before."""

    async def run(server: Server) -> None:
        stored = input_chunk_subject("daemon", POOL, TICKET, 0)
        async with connected(server) as connection:
            assert await connection.store(stored, bytes(CHUNK_BYTES)) is Stored.STORED
            for size in (CHUNK_BYTES, 16 * 1024, 1024, 32, 0):
                number = 1
                while True:
                    subject = input_chunk_subject("daemon", POOL, f"{size:032}", number)
                    became = await connection.store(subject, bytes(size))
                    if became is Stored.FULL:
                        break
                    number += 1
            await connection.purge(input_stream("daemon"), input_chunks_filter("daemon", TICKET))
            other = input_chunk_subject("daemon", POOL, "2" * 32, 0)
            assert await connection.store(other, bytes(CHUNK_BYTES - 64)) is Stored.STORED

    with ready_server(tmp_path, sizes=Sizes(1, 1, 1, 1, 1)) as server:
        asyncio.run(run(server))


def test_fetch_that_is_cancelled_gives_its_message_back(server: Server) -> None:
    """The next one gets it at once, not after the time of a lease."""

    async def run() -> None:
        async with connected(server) as connection:
            waiting = asyncio.create_task(connection.fetch(STREAM, "any", 30))
            await connection.api(f"CONSUMER.INFO.{STREAM}.any")
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await connection.store(_job("b"), b"2")
            lease = await connection.fetch(STREAM, "any", 8)
            assert lease is not None
            assert lease.delivery == 2
            await lease.ack()

    asyncio.run(run())


def test_subscription_receives_messages_that_are_not_stored(server: Server) -> None:
    """Subjects with a wildcard, too."""

    async def run() -> None:
        heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        async with connected(server) as connection, connected(server) as other:
            await connection.subscribe("wd1.worker.*.*", lambda *got: heard.put_nowait(got))
            await connection.api("INFO")  # the server has the subscription now
            await other.publish("wd1.worker.default.one", b"here")
            assert await asyncio.wait_for(heard.get(), 30) == ("wd1.worker.default.one", b"here")

    asyncio.run(run())


def test_check_names_the_daemon_the_pool_and_the_class_that_are_missing(server: Server) -> None:
    """Each with the command that makes it."""

    async def run() -> None:
        async with connected(server) as connection:
            assert await missing_for_daemon(connection, POOL, "daemon") == []
            assert await missing_for_daemon(connection, "other", "new", 0.1) == [
                "the fleet has no pool other; run `wasmdrop fleet init --pool other`",
                "the fleet has no daemon new; run `wasmdrop fleet init --daemon new`",
            ]
            assert await missing_for_worker(connection, POOL, "any") == []
            (missing,) = await missing_for_worker(connection, POOL, "p1-0_0_0", 0.1)
            assert "p1-0_0_0" in missing

    asyncio.run(run())
