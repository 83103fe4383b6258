"""Jobs are pulled for free slots only, with one waiting request for each class."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.loop_clock import LoopClock
from tests.unit.fleet.worker.fakes import Clock, FakeConnection, FakeLease, settled, until
from wasmdrop.fleet.errors import FleetUnavailableError, NoAnswerError
from wasmdrop.fleet.worker.job_source import STUCK_SECONDS, JobSource, StuckError

ANY, OWN = "any", "p1-50"


@asynccontextmanager
async def running(
    connection: FakeConnection, clock: Clock | None = None
) -> AsyncIterator[JobSource]:
    """Give a source of both classes that runs during the block."""
    source = JobSource(connection.as_connection(), "JOBS", (OWN, ANY), clock or Clock())
    task = asyncio.create_task(source.run())
    try:
        yield source
    finally:
        task.cancel()
        await asyncio.wait([task])


def test_source_of_queued_jobs_gives_them_without_a_waiting_request() -> None:
    """The server then has nothing to look at when other jobs arrive."""

    async def play() -> None:
        connection = FakeConnection()
        jobs = [connection.put(ANY, FakeLease()) for _ in range(3)]
        async with running(connection) as source:
            got = [(await source.pull()).lease for _ in jobs]
        assert got == [job.as_lease() for job in jobs]
        assert {seconds for _consumer, seconds in connection.pulls} == {0}

    asyncio.run(play())


def test_source_without_free_slots_asks_for_nothing() -> None:
    """A job that waits here could run elsewhere."""

    async def play() -> None:
        connection = FakeConnection()
        async with running(connection):
            await settled()
        assert connection.pulls == []

    asyncio.run(play())


def test_source_with_many_free_slots_waits_once_for_each_class() -> None:
    """The cost of a job at the server grows with the requests that wait."""

    async def play() -> None:
        connection = FakeConnection()
        async with running(connection) as source:
            slots = [asyncio.create_task(source.pull()) for _ in range(8)]
            await until(lambda: connection.waiting[OWN] and connection.waiting[ANY])
            await settled()
            assert dict(connection.waiting) == {ANY: 1, OWN: 1}
            for consumer in (ANY, OWN, ANY):
                connection.put(consumer, FakeLease())
            await until(lambda: sum(slot.done() for slot in slots) == 3)
            for slot in slots:
                slot.cancel()

    asyncio.run(play())


def test_source_with_jobs_of_both_classes_takes_turns() -> None:
    """Neither class starves."""

    async def play() -> list[str]:
        connection = FakeConnection()
        for _ in range(4):
            connection.put(ANY, FakeLease())
            connection.put(OWN, FakeLease())
        async with running(connection) as source:
            return [(await source.pull()).engine for _ in range(8)]

    engines = asyncio.run(play())
    assert engines == [OWN, ANY] * 4


def test_source_job_without_a_slot_goes_to_the_next_free_one() -> None:
    """Both waiting requests were answered, and one slot was free: the job is held for a moment."""

    async def play() -> None:
        connection = FakeConnection()
        async with running(connection) as source:
            slot = asyncio.create_task(source.pull())
            await until(lambda: connection.waiting[OWN] and connection.waiting[ANY])
            both = [connection.put(ANY, FakeLease()), connection.put(OWN, FakeLease())]
            first = await slot
            await settled()
            assert {first.lease, (await source.pull()).lease} == {job.as_lease() for job in both}
        assert [lease.given_back for lease in both] == [0, 0]

    asyncio.run(play())


def test_source_job_that_no_slot_takes_is_given_back() -> None:
    """Another worker may be idle."""

    async def play() -> None:
        clock = LoopClock()
        connection = FakeConnection()
        async with running(connection) as source:
            slot = asyncio.create_task(source.pull())
            await until(lambda: connection.waiting[OWN] and connection.waiting[ANY])
            both = [connection.put(ANY, FakeLease()), connection.put(OWN, FakeLease())]
            await slot
            await clock.jump(10)
            await until(lambda: sum(lease.given_back for lease in both) == 1)

    asyncio.run(play())


def test_source_job_of_a_cancelled_slot_is_given_back() -> None:
    """The worker stops in the moment in which the job arrives."""

    async def play() -> None:
        connection = FakeConnection()
        async with running(connection) as source:
            slot = asyncio.create_task(source.pull())
            await until(lambda: connection.waiting[ANY])
            (waiter,) = source._waiters
            lease = FakeLease()
            connection.put(ANY, lease)
            await until(waiter.done)
            slot.cancel()
            await asyncio.wait([slot])
            assert lease.given_back == 1

    asyncio.run(play())


def test_source_whose_own_class_is_missing_serves_the_other() -> None:
    """The fleet was set up for another version of wasmtime."""

    async def play() -> None:
        connection = FakeConnection()
        connection.errors[OWN] = FleetUnavailableError("no such consumer")
        jobs = [connection.put(ANY, FakeLease()) for _ in range(3)]
        async with running(connection) as source:
            assert [(await source.pull()).lease for _ in jobs] == [job.as_lease() for job in jobs]
            slot = asyncio.create_task(source.pull())
            await until(lambda: connection.waiting[ANY])
            last = connection.put(ANY, FakeLease())
            assert (await slot).lease == last.as_lease()

    asyncio.run(play())


async def _fail_until(
    clock: Clock, connection: FakeConnection, seconds: float, ask_seconds: float = 10
) -> None:
    """Let slots ask at intervals for so many seconds."""
    source = JobSource(connection.as_connection(), "JOBS", (ANY,), clock)
    end = clock.seconds + seconds
    while clock.seconds < end:
        slot = asyncio.create_task(source.pull())
        await settled()
        if slot.done():
            await slot
        slot.cancel()
        await asyncio.wait([slot])
        clock.seconds += ask_seconds


def test_source_whose_requests_stay_unanswered_is_stuck() -> None:
    """The worker's supervisor starts it again."""

    async def play() -> None:
        connection = FakeConnection()
        connection.errors[ANY] = NoAnswerError("no answer within 4 s")
        with pytest.raises(StuckError, match="no answer within 4 s"):
            await _fail_until(Clock(), connection, 3 * STUCK_SECONDS)

    asyncio.run(play())


@pytest.mark.parametrize("is_connected", [True, False])
def test_source_whose_fleet_is_away_or_wiped_is_not_stuck(*, is_connected: bool) -> None:
    """A restart would not help: the worker waits without end."""

    async def play() -> None:
        connection = FakeConnection()
        connection.is_connected = is_connected
        error = FleetUnavailableError if is_connected else NoAnswerError
        connection.errors[ANY] = error("no server has it")
        await _fail_until(Clock(), connection, 10 * STUCK_SECONDS)

    asyncio.run(play())
