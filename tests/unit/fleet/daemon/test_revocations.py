"""Which jobs of the stream are over, and when the workers hear of them."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from tests.support.fleet.doubles import CALL, FakeFleet, FakeLease, settle
from wasmdrop.fleet.messages import CHUNK_BYTES, MAX_REVOKED, Revocation, decode
from wasmdrop.fleet.names import job_subject, revocation_subject
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.sandbox.host.call import Call

Play = Callable[[Callable[[FakeFleet], Awaitable[None]]], None]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Return a function that plays a scenario with a fleet."""

    def run(scenario: Callable[[FakeFleet], Awaitable[None]]) -> None:
        async def main() -> None:
            await scenario(FakeFleet(tmp_path))

        asyncio.run(main())

    return run


async def told(fleet: FakeFleet) -> list[str]:
    """Return the jobs of the messages that are due."""
    sent: list[str] = []

    async def publish(subject: str, data: bytes) -> None:
        assert subject == revocation_subject("p", "d")
        sent.extend(decode(data, Revocation).jobs)

    fleet.connection.publish = publish  # type: ignore[method-assign]
    sending = asyncio.create_task(fleet.revocations.keep_sending())
    await settle()
    sending.cancel()
    return sent


def left_over(job_id: str = "old", attempt: int = 1) -> str:
    """Return the subject of a job that an earlier daemon published."""
    return job_subject("p", "any", "d", job_id, attempt, 2)


def test_revoked_jobs_are_sent_once_in_bounded_messages(play: Play) -> None:
    """A message has a size limit."""

    async def scenario(fleet: FakeFleet) -> None:
        jobs = [f"job{number}" for number in range(MAX_REVOKED + 1)]
        for job in jobs:
            fleet.revocations.revoke(job)
            fleet.revocations.revoke(job)
        assert await told(fleet) == jobs
        assert await told(fleet) == []

    play(scenario)


def test_job_left_in_its_stream_is_revoked_at_each_look_after_the_first(play: Play) -> None:
    """The first time its answer may be on its way. The large call is removed once."""

    async def scenario(fleet: FakeFleet) -> None:
        fleet.connection.there = {left_over(), left_over("job"), "wd1.job.p.any.d.strange"}
        await fleet.reconciler.compare()
        assert await told(fleet) == []
        for _ in range(3):
            await fleet.reconciler.compare()
            assert await told(fleet) == ["old"]
        ticket = fleet.tickets.ticket("old", 1, 2)
        assert await fleet.purged() == [f"wd1.input.d.*.{ticket}.*"]
        fleet.connection.there.clear()
        await fleet.reconciler.compare()
        assert await told(fleet) == []

    with capture_logs() as logs:
        play(scenario)
    assert [log["job"] for log in logs if log["event"] == "fleet-job-revoked"] == ["old"]


def test_job_acknowledged_after_the_first_look_is_not_revoked(play: Play) -> None:
    """And one that is there again must be seen twice again."""

    async def scenario(fleet: FakeFleet) -> None:
        for there in ({left_over()}, set(), {left_over()}):
            fleet.connection.there = there
            await fleet.reconciler.compare()
        assert await told(fleet) == []

    play(scenario)


def test_jobs_of_a_second_daemon_with_this_name_are_left_alone(play: Play) -> None:
    """Both would end each other's jobs."""

    async def scenario(fleet: FakeFleet) -> None:
        fleet.connection.there = {left_over()}
        await fleet.reconciler.compare()
        fleet.revocations.pause()
        for _ in range(3):
            await fleet.reconciler.compare()
        assert await told(fleet) == []
        fleet.now += 61
        await fleet.reconciler.compare()
        assert await told(fleet) == []
        await fleet.reconciler.compare()
        assert await told(fleet) == ["old"]

    play(scenario)


def test_cancelled_job_is_revoked_and_leaves_nothing(play: Play) -> None:
    """Its late answer is acknowledged, its chunks are removed; it gives its room back."""

    async def scenario(fleet: FakeFleet) -> None:
        call = Call("run", CALL.signature, stdin=bytes(2 * CHUNK_BYTES))
        running = fleet.begin(call=call)
        message = await fleet.published()
        late = fleet.answer_data(message, await fleet.ran(message))
        fleet.executor.cancel("job")
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()
        assert await told(fleet) == ["job"]
        assert fleet.metrics.unanswered == 0
        lease = fleet.deliver(message.ticket, late)
        fleet.executor.leave("job")
        fleet.open.clear()
        assert fleet.publications.of_job("job") is None
        assert await acknowledged(fleet, lease)
        assert sorted(await fleet.purged()) == [
            f"wd1.input.d.*.{message.ticket}.*",
            f"wd1.output.d.{message.ticket}.>",
        ]

    play(scenario)


async def acknowledged(fleet: FakeFleet, lease: FakeLease) -> bool:
    """Return whether the due acknowledgements include that of an answer."""
    await fleet.cleanup.flush()
    return lease.is_acknowledged


def test_cancelled_job_with_an_answer_that_is_not_judged_acknowledges_it(play: Play) -> None:
    """It came before the cancellation, in the same turn of the loop."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        message = await fleet.published()
        lease = fleet.answer(message, await fleet.ran(message))
        fleet.executor.cancel("job")
        running.cancel()
        await asyncio.wait([running])
        assert await acknowledged(fleet, lease)

    play(scenario)


def test_cancelled_job_that_also_runs_here_ends_here(play: Play) -> None:
    """The fleet is away; the message is sent when it is back."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        await fleet.published()
        fleet.connection.is_connected = False
        fleet.connection.away_seconds = 60.0
        fleet.availability.check()
        await fleet.until(lambda: fleet.local.begun == 1)
        fleet.executor.cancel("job")
        running.cancel()
        await asyncio.wait([running])
        assert fleet.local.cancelled == 1
        fleet.executor.leave("job")
        fleet.open.clear()
        await told(fleet)  # nothing is connected, so this is lost
        for _ in range(2):
            await fleet.reconciler.compare()
        assert await told(fleet) == ["job"]

    play(scenario)


def test_cancelled_job_that_is_not_in_the_fleet_is_not_revoked(play: Play) -> None:
    """It runs here, or waits for its turn."""

    async def scenario(fleet: FakeFleet) -> None:
        call = msgspec.structs.replace(CALL, grants={"data": "/data"})
        running = fleet.begin(call=call)
        await fleet.until(lambda: fleet.local.begun == 1)
        fleet.executor.cancel("job")
        fleet.executor.cancel("unknown")
        fleet.local.end.set_result(Outcome(code=Code.OK))
        await running
        assert await told(fleet) == []

    play(scenario)
