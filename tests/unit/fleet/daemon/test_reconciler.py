"""The reconciler: which jobs it publishes again, and which it leaves."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.fleet.doubles import FakeFleet, settle
from wasmdrop.fleet.daemon.metrics import Reason
from wasmdrop.fleet.errors import FleetUnavailableError
from wasmdrop.fleet.names import ANY_ENGINE, outcome_subject
from wasmdrop.protocol.limits import Limits
from wasmdrop.sandbox.wire import EngineOptions


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Callable[[FakeFleet], Awaitable[None]]], None]:
    """Return a function that plays a scenario with a fleet."""

    def run(scenario: Callable[[FakeFleet], Awaitable[None]]) -> None:
        async def main() -> None:
            await scenario(FakeFleet(tmp_path))

        asyncio.run(main())

    return run


Play = Callable[[Callable[[FakeFleet], Awaitable[None]]], None]


def test_job_missing_twice_in_a_row_is_published_again(play: Play) -> None:
    """Its modules may be lost, too."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        message = await fleet.published()
        there = set(fleet.connection.there)
        modules = {name for name in fleet.connection.messages if ".module." in name}
        fleet.connection.messages.clear()
        for is_there in (False, True, False):
            fleet.connection.there = there if is_there else set()
            await fleet.reconciler.compare()
            await settle()
            assert len(fleet.connection.jobs) == 1
        await fleet.reconciler.compare()
        message = await fleet.published(2)
        assert (message.attempt, message.generation) == (1, 1)
        assert modules <= fleet.connection.messages.keys()
        assert fleet.metrics.published[Reason.LOST] == 1
        fleet.answer(message, await fleet.ran(message))
        await running

    play(scenario)


def test_job_missing_with_waiting_answer_takes_it(play: Play) -> None:
    """The answer should have been delivered; a consumer may be stuck."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        message = await fleet.published()
        fleet.connection.there.clear()
        await fleet.reconciler.compare()
        data = fleet.answer_data(message, await fleet.ran(message, "found"))
        fleet.connection.messages[outcome_subject("d", message.ticket)] = data
        await fleet.reconciler.compare()
        assert (await running).message == "found"
        assert len(fleet.connection.jobs) == 1

    play(scenario)


def test_job_begun_long_ago_is_published_again(play: Play) -> None:
    """Its worker hangs, and extends its lease."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        message = await fleet.published()
        fleet.now += 10_000
        await fleet.reconciler.compare()  # it waits in its queue, however long
        fleet.started(message)
        fleet.now += 180 + Limits().timeout_sec
        await fleet.reconciler.compare()
        await settle()
        assert len(fleet.connection.jobs) == 1
        fleet.now += 1
        await fleet.reconciler.compare()
        first, message = message, await fleet.published(2)
        assert fleet.metrics.published[Reason.OVERDUE] == 1
        fleet.started(first, 2)  # of the generation before
        fleet.now += 10_000
        await fleet.reconciler.compare()  # the new generation was not begun
        await settle()
        assert len(fleet.connection.jobs) == 2
        fleet.answer(message, await fleet.ran(message))
        await running

    play(scenario)


@pytest.mark.parametrize(
    ("pending", "is_overtaken", "is_lost"),
    [(0, False, True), (1, False, False), (1, True, True)],
)
def test_job_that_a_worker_keeps_without_a_word_is_published_again(
    play: Play, pending: int, is_overtaken: bool, is_lost: bool
) -> None:
    """A worker can have a job delivered again in a hundred years; others wait for their turn."""

    async def scenario(fleet: FakeFleet) -> None:
        fleet.connection.consumers[ANY_ENGINE]["num_pending"] = pending
        running = [fleet.begin()]
        kept = await fleet.published()
        fleet.now += 1
        if is_overtaken:
            fleet.open.add("next")
            running.append(fleet.begin("next"))
            fleet.started(await fleet.published(2))
        before = len(fleet.connection.jobs)
        fleet.now += 20
        await fleet.reconciler.compare()
        fleet.now += fleet.job().answer_seconds - 1
        await fleet.reconciler.compare()
        await settle()
        assert len([one for one in fleet.connection.jobs if one.job == kept.job]) == 1
        fleet.now += 2
        await fleet.reconciler.compare()
        if is_lost:
            await fleet.until(lambda: len(fleet.connection.jobs) > before)
        await settle()
        again = [one.generation for one in fleet.connection.jobs if one.job == kept.job]
        assert again == ([0, 1] if is_lost else [0])
        for one in running:
            one.cancel()
        await asyncio.wait(running)

    play(scenario)


def test_answered_job_is_not_looked_for(play: Play) -> None:
    """Its message is gone, and its results may take long to deliver."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        message = await fleet.published()
        fleet.answer(message, await fleet.ran(message))
        await running
        fleet.connection.there.clear()
        for _ in range(3):
            await fleet.reconciler.compare()
        await settle()
        assert len(fleet.connection.jobs) == 1

    play(scenario)


def test_servers_that_do_not_answer_prove_nothing(play: Play) -> None:
    """Nothing is known of any job then."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        message = await fleet.published()
        fleet.connection.failure = FleetUnavailableError("no leader")
        for _ in range(3):
            with pytest.raises(FleetUnavailableError):
                await fleet.reconciler.compare()
        fleet.connection.failure = None
        await fleet.reconciler.compare()
        await settle()
        assert len(fleet.connection.jobs) == 1
        fleet.answer(message, await fleet.ran(message))
        await running

    play(scenario)


@pytest.mark.parametrize(
    ("options", "words"),
    [(None, "takes jobs now"), (EngineOptions(fuel=True, deterministic=True), "deterministic")],
)
def test_job_that_no_worker_asks_for_says_so(
    play: Play, options: EngineOptions | None, words: str
) -> None:
    """Until a worker asks for jobs of its class, or has some."""

    async def scenario(fleet: FakeFleet) -> None:
        consumers = fleet.connection.consumers
        running = fleet.begin(options=options)
        message = await fleet.published()
        for name in consumers:
            consumers[name] = {"num_waiting": 0, "num_ack_pending": 0}
        await fleet.reconciler.compare()
        assert fleet.notes == []  # it has not waited for long
        fleet.now += 16
        for _ in range(2):
            await fleet.reconciler.compare()
        (note,) = fleet.notes
        assert words in note
        for name in consumers:
            consumers[name] = {"num_waiting": 0, "num_ack_pending": 7}
        for _ in range(2):
            await fleet.reconciler.compare()
        assert fleet.notes[1:] == ["is in the fleet"]
        fleet.answer(message, await fleet.ran(message))
        await running

    play(scenario)


def test_job_that_a_worker_may_take_says_nothing(play: Play) -> None:
    """The queue is long, or its worker just began it."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        message = await fleet.published()
        fleet.now += 1000
        await fleet.reconciler.compare()
        fleet.connection.consumers["any"] = {"num_waiting": 0, "num_ack_pending": 0}
        fleet.started(message)
        await fleet.reconciler.compare()
        assert fleet.notes == []
        fleet.answer(message, await fleet.ran(message))
        await running

    play(scenario)
