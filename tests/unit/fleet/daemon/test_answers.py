"""Answers: whose each is, and which are acknowledged without a job that takes them."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.fleet.doubles import FakeFleet, FakeLease
from wasmdrop.fleet.daemon.metrics import Verdict
from wasmdrop.fleet.messages import Answer, Returned, encode
from wasmdrop.fleet.names import input_chunks_filter, outcome_subject, output_chunks_filter


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Callable[[FakeFleet], Awaitable[None]]], None]:
    """Return a function that plays a scenario with a fleet."""

    def run(scenario: Callable[[FakeFleet], Awaitable[None]]) -> None:
        async def main() -> None:
            await scenario(FakeFleet(tmp_path))

        asyncio.run(main())

    return run


async def deliver(
    fleet: FakeFleet, ticket: str, job: str = "job", attempt: int = 1, generation: int = 0
) -> FakeLease:
    """Deliver an answer that no task waits for."""
    data = encode(Answer(job, attempt, generation, "w1", Returned("it stops")))
    lease = fleet.deliver(ticket, data)
    await fleet.cleanup.flush()
    return lease


Play = Callable[[Callable[[FakeFleet], Awaitable[None]]], None]


def test_answer_to_open_job_that_is_not_resumed_yet_is_left(play: Play) -> None:
    """It is delivered again, or found when the job's turn comes."""

    async def scenario(fleet: FakeFleet) -> None:
        lease = await deliver(fleet, fleet.tickets.ticket("job", 1, 0))
        assert not lease.is_acknowledged
        assert not any(fleet.metrics.answers.values())

    play(scenario)


def test_answer_to_job_that_is_not_open_is_late(play: Play) -> None:
    """Its results were delivered before, by a daemon that may have died before it tidied up."""

    async def scenario(fleet: FakeFleet) -> None:
        ticket = fleet.tickets.ticket("done", 1, 0)
        lease = await deliver(fleet, ticket, "done")
        assert lease.is_acknowledged
        assert fleet.metrics.answers[Verdict.LATE] == 1
        assert await fleet.purged() == [
            input_chunks_filter("d", ticket),
            output_chunks_filter("d", ticket),
        ]

    play(scenario)


@pytest.mark.parametrize(
    ("job", "attempt", "generation"), [("other", 1, 0), ("job", 2, 0), ("job", 1, 1)]
)
def test_answer_with_ticket_of_another_job_is_unknown(
    play: Play, job: str, attempt: int, generation: int
) -> None:
    """A ticket is for one job, one attempt and one generation."""

    async def scenario(fleet: FakeFleet) -> None:
        fleet.open.add("other")
        ticket = fleet.tickets.ticket("job", 1, 0)
        lease = await deliver(fleet, ticket, job, attempt, generation)
        assert lease.is_acknowledged
        assert fleet.metrics.answers[Verdict.UNKNOWN] == 1

    play(scenario)


def test_answer_with_forged_ticket_does_not_reach_the_job(play: Play) -> None:
    """The job goes on to wait for its own."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        message = await fleet.published()
        lease = await deliver(fleet, "0" * 32)
        assert lease.is_acknowledged
        assert fleet.metrics.answers[Verdict.UNKNOWN] == 1
        fleet.answer(message, await fleet.ran(message))
        await running
        assert len(fleet.connection.jobs) == 1

    play(scenario)


def test_answers_with_wrong_tickets_are_logged_once_a_minute(play: Play) -> None:
    """A worker that was taken over can send so many that their lines would fill a disk."""

    async def scenario(fleet: FakeFleet) -> None:
        with capture_logs() as logs:
            for number in range(100):
                await deliver(fleet, f"{number:032x}")
            fleet.now += 61
            await deliver(fleet, "f" * 32)
        counts = [one["count"] for one in logs if one["event"] == "fleet-answer-unknown"]
        assert counts == [1, 100]

    play(scenario)


def test_answer_that_does_not_decode_under_unknown_ticket_is_unknown(play: Play) -> None:
    """Nothing is known of it that could be kept."""

    async def scenario(fleet: FakeFleet) -> None:
        lease = fleet.deliver("0" * 32, b"\xc1")
        await fleet.cleanup.flush()
        assert lease.is_acknowledged
        assert fleet.metrics.answers[Verdict.UNKNOWN] == 1

    play(scenario)


def test_answer_to_earlier_attempt_is_late(play: Play) -> None:
    """A worker may answer after its job was repeated."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin(number=2)
        message = await fleet.published()
        lease = await deliver(fleet, fleet.tickets.ticket("job", 1, 0))
        assert lease.is_acknowledged
        assert fleet.metrics.answers[Verdict.LATE] == 1
        fleet.answer(message, await fleet.ran(message))
        await running

    play(scenario)


def test_answer_to_generation_of_an_earlier_daemon_is_taken(play: Play) -> None:
    """Generations begin anew with each daemon; their tickets stay valid."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin(is_resumed=True)
        message = await fleet.published()
        assert message.generation == 0
        ticket = fleet.tickets.ticket("job", 1, 4)
        content = await fleet.ran(message, "of the fifth")
        fleet.deliver(ticket, encode(Answer("job", 1, 4, "w1", content)))
        assert (await running).message == "of the fifth"

    play(scenario)


@pytest.mark.parametrize(
    "data", [b"\xc1", encode(Answer("other", 1, 0, "w1", Returned("")))], ids=["bytes", "job"]
)
def test_waiting_answer_that_is_not_valid_is_not_taken(play: Play, data: bytes) -> None:
    """It is judged when it is delivered."""

    async def scenario(fleet: FakeFleet) -> None:
        ticket = fleet.tickets.ticket("job", 1, 0)
        fleet.connection.messages[outcome_subject("d", ticket)] = data
        running = fleet.begin(is_resumed=True)
        message = await fleet.published()
        fleet.answer(message, await fleet.ran(message))
        await running

    play(scenario)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80"])
def test_started_message_that_does_not_decode_is_ignored(play: Play, data: bytes) -> None:
    """Anybody with a key of the pool can send one."""

    async def scenario(fleet: FakeFleet) -> None:
        fleet.answers.take_started(data)

    play(scenario)
