"""Jobs are pulled for free slots only, with one waiting request for each class."""

import asyncio

import pytest

from tests.support.loop_clock import LoopClock
from tests.unit.fleet.worker.fakes import Clock, FakeConnection, FakeLease, settled, until
from wasmdrop.fleet.errors import FleetUnavailableError, NoAnswerError
from wasmdrop.fleet.worker.job_source import STUCK_SECONDS, JobSource, Pulled, StuckError

ANY, OWN = "any", "p1-50"


def source_of(connection: FakeConnection, clock: Clock | None = None) -> JobSource:
    """Return a source of both classes."""
    return JobSource(connection.as_connection(), "JOBS", (OWN, ANY), clock or Clock())


async def _cancel(slots: list["asyncio.Task[Pulled]"]) -> None:
    for slot in slots:
        slot.cancel()
    await asyncio.wait(slots)


def test_source_of_queued_jobs_gives_them_without_a_waiting_request() -> None:
    """The server then has nothing to look at when other jobs arrive."""

    async def play() -> None:
        connection = FakeConnection()
        jobs = [connection.put(ANY, FakeLease()) for _ in range(3)]
        source = source_of(connection)
        got = [(await source.pull()).lease for _ in jobs]
        assert got == [job.as_lease() for job in jobs]
        assert {seconds for _consumer, seconds in connection.pulls} == {0}

    asyncio.run(play())


def test_source_with_free_slots_waits_once_and_gives_each_job_to_one() -> None:
    """The cost of a job at the server grows with the requests that wait."""

    async def play() -> None:
        connection = FakeConnection()
        source = source_of(connection)
        slots = [asyncio.create_task(source.pull()) for _ in range(8)]
        await until(lambda: connection.waiting[ANY])
        await settled()
        assert dict(connection.waiting) == {ANY: 1}
        jobs = [connection.put(ANY, FakeLease()) for _ in range(3)]
        await until(lambda: sum(slot.done() for slot in slots) == 3)
        got = {slot.result().lease for slot in slots if slot.done()}
        assert got == {job.as_lease() for job in jobs}
        await _cancel(slots)

    asyncio.run(play())


def test_source_class_without_jobs_is_asked_at_intervals() -> None:
    """No slot waits for it."""

    async def play() -> None:
        clock, connection = Clock(), FakeConnection()
        source = source_of(connection, clock)
        slot = asyncio.create_task(source.pull())
        await until(lambda: connection.waiting[ANY])
        job = connection.put(OWN, FakeLease())
        clock.seconds += 1
        assert (await slot).lease == job.as_lease()

    asyncio.run(play())


def test_source_of_both_classes_waits_for_each_with_a_slot_of_its_own() -> None:
    """It never asks for more jobs than there are free slots."""

    async def play() -> None:
        connection = FakeConnection()
        source = source_of(connection)
        for consumer in (OWN, ANY):
            connection.put(consumer, FakeLease())
            await source.pull()
        slots = [asyncio.create_task(source.pull())]
        await until(lambda: sum(connection.waiting.values()) == 1)
        slots += [asyncio.create_task(source.pull()) for _ in range(3)]
        await until(lambda: connection.waiting[ANY] and connection.waiting[OWN])
        await settled()
        assert dict(connection.waiting) == {ANY: 1, OWN: 1}
        await _cancel(slots)

    asyncio.run(play())


def test_source_with_jobs_of_both_classes_takes_turns() -> None:
    """Neither class starves."""

    async def play() -> list[str]:
        connection = FakeConnection()
        for _ in range(4):
            connection.put(ANY, FakeLease())
            connection.put(OWN, FakeLease())
        source = source_of(connection)
        return [(await source.pull()).engine for _ in range(8)]

    assert asyncio.run(play()) == [OWN, ANY] * 4


def test_source_whose_own_class_is_missing_serves_the_other() -> None:
    """The fleet was set up for another version of wasmtime."""

    async def play() -> None:
        connection = FakeConnection()
        connection.errors[OWN] = FleetUnavailableError("no such consumer")
        jobs = [connection.put(ANY, FakeLease()) for _ in range(3)]
        source = source_of(connection)
        assert [(await source.pull()).lease for _ in jobs] == [job.as_lease() for job in jobs]
        slot = asyncio.create_task(source.pull())
        await until(lambda: connection.waiting[ANY])
        last = connection.put(ANY, FakeLease())
        assert (await slot).lease == last.as_lease()

    asyncio.run(play())


def test_source_goes_on_when_the_fleet_is_back() -> None:
    """Slots that found no server ask again."""

    async def play() -> None:
        connection = FakeConnection()
        connection.errors[ANY] = connection.errors[OWN] = FleetUnavailableError("no server")
        clock = Clock()
        source = source_of(connection, clock)
        slots = [asyncio.create_task(source.pull()) for _ in range(2)]
        loop = LoopClock()
        await settled()
        connection.errors.clear()
        jobs = [connection.put(ANY, FakeLease()) for _ in slots]
        for _ in range(4):
            clock.seconds += 3
            await loop.jump(3)
        await until(lambda: all(slot.done() for slot in slots))
        assert {slot.result().lease for slot in slots} == {job.as_lease() for job in jobs}

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
