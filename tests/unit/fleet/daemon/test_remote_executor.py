"""Where a job runs: in the fleet, or on this machine."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from tests.support.fleet.doubles import CALL, FakeFleet, settle
from wasmdrop.fleet.daemon.availability import AWAY_SECONDS
from wasmdrop.fleet.errors import FleetUnavailableError
from wasmdrop.fleet.names import ANY_ENGINE, engine_class
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.runtime_versions import own_versions
from wasmdrop.sandbox.wire import EngineOptions

DETERMINISTIC = EngineOptions(fuel=True, deterministic=True)

Play = Callable[..., None]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Return a function that plays a scenario with a fleet."""

    def run(
        scenario: Callable[[FakeFleet], Awaitable[None]],
        *,
        runs_here: bool = True,
        window: int = 4,
    ) -> None:
        async def main() -> None:
            await scenario(FakeFleet(tmp_path, runs_here=runs_here, window=window))

        asyncio.run(main())

    return run


def lose(fleet: FakeFleet) -> None:
    """Have the connection away for long enough."""
    fleet.connection.is_connected = False
    fleet.connection.away_seconds = AWAY_SECONDS
    fleet.connection.problem = "Connection refused"
    fleet.availability.check()


def test_executor_publishes_as_many_jobs_as_the_window_has(play: Play) -> None:
    """The others wait in the order of their requests."""

    async def scenario(fleet: FakeFleet) -> None:
        running = [fleet.begin(f"job{number}") for number in range(4)]
        await fleet.published(2)
        await settle()
        assert [message.job for message in fleet.connection.jobs] == ["job0", "job1"]
        assert (fleet.metrics.unanswered, fleet.metrics.waiting) == (2, 2)
        for number in range(4):
            message = await fleet.published(number + 1)
            assert message.job == f"job{number}"
            fleet.answer(message, await fleet.ran(message))
            await running[number]
        assert (fleet.metrics.unanswered, fleet.metrics.waiting) == (0, 0)

    play(scenario, window=2)


def test_executor_capacity_is_the_window_and_this_machine(play: Play) -> None:
    """Jobs of both kinds run at the same time."""

    async def scenario(fleet: FakeFleet) -> None:
        assert fleet.executor.capacity == 4 + 2

    play(scenario)


@pytest.mark.parametrize("runs_here", [True, False])
def test_executor_job_with_grants_runs_here(play: Play, runs_here: bool) -> None:
    """Its directories are on this machine; that is no fallback."""

    async def scenario(fleet: FakeFleet) -> None:
        lose(fleet)
        running = fleet.begin(call=msgspec.structs.replace(CALL, grants={"data": "/data"}))
        await fleet.until(lambda: fleet.local.begun == 1)
        fleet.local.end.set_result(Outcome(code=Code.OK))
        await running
        assert (fleet.connection.jobs, fleet.metrics.fallback_runs) == ([], 0)

    play(scenario, runs_here=runs_here)


def test_executor_new_job_runs_here_while_the_fleet_is_away(play: Play) -> None:
    """It is not published, and its attempt is not one that outlives the daemon."""

    async def scenario(fleet: FakeFleet) -> None:
        lose(fleet)
        running = fleet.begin()
        await fleet.until(lambda: fleet.local.begun == 1)
        fleet.local.end.set_result(Outcome(code=Code.OK))
        await running
        assert (fleet.connection.jobs, fleet.metrics.fallback_runs) == ([], 1)

    play(scenario)


def test_executor_job_that_waits_for_the_window_runs_here_when_the_fleet_is_away(
    play: Play,
) -> None:
    """The jobs that hold the window may never be answered."""

    async def scenario(fleet: FakeFleet) -> None:
        first = fleet.begin("job0")
        await fleet.published()
        second = fleet.begin("job1")
        await settle()
        lose(fleet)
        await fleet.until(lambda: fleet.local.begun == 2)
        fleet.local.end.set_result(Outcome(code=Code.OK))
        await asyncio.gather(first, second)

    play(scenario, window=1)


def test_executor_new_job_waits_while_the_fleet_is_away_and_says_why(play: Play) -> None:
    """With ``wait``; it is published when the fleet is back."""

    async def scenario(fleet: FakeFleet) -> None:
        lose(fleet)
        running = fleet.begin()
        await settle()
        assert fleet.notes == ["waits for the fleet: no server is reached: Connection refused"]
        fleet.connection.is_connected = True
        fleet.availability.check()
        message = await fleet.published()
        fleet.answer(message, await fleet.ran(message))
        await running
        assert fleet.local.begun == 0

    play(scenario, runs_here=False)


def test_executor_job_does_not_go_to_a_fleet_that_could_not_answer(play: Play) -> None:
    """It lacks the stream of this daemon's answers, say; until the operator makes it."""

    async def scenario(fleet: FakeFleet) -> None:
        first = fleet.begin("job0")
        await fleet.published()
        fleet.availability.lack = "the fleet has no daemon d"
        fleet.availability.check()
        second = fleet.begin("job1")
        await fleet.until(lambda: fleet.local.begun == 2)
        fleet.now += 2 * AWAY_SECONDS
        third = fleet.begin("job2")
        await fleet.until(lambda: fleet.local.begun == 3)
        fleet.local.end.set_result(Outcome(code=Code.OK))
        await asyncio.gather(first, second, third)
        assert fleet.availability.why_away == "waits for the fleet: the fleet has no daemon d"
        fleet.availability.lack = ""
        fleet.availability.check()
        running = fleet.begin("job3")
        message = await fleet.published(2)
        assert message.job == "job3"
        fleet.answer(message, await fleet.ran(message))
        await running

    play(scenario)


def test_executor_one_job_at_a_time_tries_whether_the_fleet_is_back(play: Play) -> None:
    """The servers are reached, but acknowledge nothing."""

    async def scenario(fleet: FakeFleet) -> None:
        fleet.connection.failure = FleetUnavailableError("no leader")
        running = [fleet.begin("job0")]
        await fleet.until(lambda: any("no leader" in note for note in fleet.notes))
        fleet.now += AWAY_SECONDS
        fleet.availability.check()
        await fleet.until(lambda: fleet.local.begun == 1)
        assert fleet.availability.is_away
        running.append(fleet.begin("job1"))
        await fleet.until(lambda: fleet.local.begun == 2)
        fleet.now += AWAY_SECONDS
        fleet.connection.failure = None
        running += [fleet.begin("job2"), fleet.begin("job3")]
        await fleet.until(lambda: fleet.local.begun == 3)
        message = await fleet.published()
        assert message.job == "job2"
        assert not fleet.availability.is_away
        running.append(fleet.begin("job4"))
        await fleet.published(2)
        fleet.local.end.set_result(Outcome(code=Code.OK))
        for message in fleet.connection.jobs:
            fleet.answer(message, await fleet.ran(message))
        await asyncio.gather(*running)

    play(scenario)


def test_executor_deterministic_job_goes_to_its_own_class(play: Play) -> None:
    """Only workers with the same wasmtime and profile run it alike."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin("job0")
        await fleet.published()
        both = [running, fleet.begin("job1", options=DETERMINISTIC)]
        await fleet.published(2)
        engines = sorted(subject.split(".")[3] for subject in fleet.connection.there)
        assert engines == [ANY_ENGINE, engine_class(own_versions())]
        for message in fleet.connection.jobs:
            fleet.answer(message, await fleet.ran(message))
        await asyncio.gather(*both)

    play(scenario)


def test_executor_deterministic_job_without_a_queue_runs_here(play: Play) -> None:
    """Others go to the fleet nevertheless."""

    async def scenario(fleet: FakeFleet) -> None:
        fleet.executor.has_own_engine = False
        here = fleet.begin("job0", options=DETERMINISTIC)
        await fleet.until(lambda: fleet.local.begun == 1)
        there = fleet.begin("job1")
        message = await fleet.published()
        assert message.job == "job1"
        fleet.answer(message, await fleet.ran(message))
        fleet.local.end.set_result(Outcome(code=Code.OK))
        await asyncio.gather(here, there)

    play(scenario)


def test_executor_deterministic_job_without_a_queue_waits_and_says_why(play: Play) -> None:
    """With ``wait``; until the operator makes the queue."""

    async def scenario(fleet: FakeFleet) -> None:
        fleet.executor.has_own_engine = False
        running = fleet.begin(options=DETERMINISTIC)
        await settle()
        assert "run `wasmdrop fleet init`" in fleet.notes[0]
        fleet.executor.has_own_engine = True
        fleet.availability.check()
        message = await fleet.published()
        fleet.answer(message, await fleet.ran(message))
        await running

    play(scenario, runs_here=False)


def test_executor_detached_leaves_jobs_that_run_here(play: Play) -> None:
    """They are drained as ever; those in the fleet, and those that wait for it, end at once."""

    async def scenario(fleet: FakeFleet) -> None:
        here = fleet.begin("job0", call=msgspec.structs.replace(CALL, grants={"data": "/data"}))
        there = fleet.begin("job1")
        await fleet.published()
        waiting = fleet.begin("job2")
        await settle()
        fleet.executor.detach()
        await asyncio.wait([there, waiting])
        assert there.cancelled()
        assert waiting.cancelled()
        fleet.local.end.set_result(Outcome(code=Code.OK))
        assert (await here).code is Code.OK
        assert fleet.metrics.waiting == 0

    play(scenario, window=1)


def test_executor_detached_leaves_a_published_job_that_also_runs_here(play: Play) -> None:
    """Its work on this machine would be lost."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        await fleet.published()
        lose(fleet)
        await fleet.until(lambda: fleet.local.begun == 1)
        fleet.executor.detach()
        fleet.local.end.set_result(Outcome(code=Code.OK, message="here"))
        assert (await running).message == "here"

    play(scenario)


def test_executor_cancelled_job_gives_its_room_back(play: Play) -> None:
    """Whether it was in the fleet, or waited for room."""

    async def scenario(fleet: FakeFleet) -> None:
        first, second, third = (fleet.begin(f"job{number}") for number in range(3))
        await fleet.published()
        second.cancel()
        await asyncio.wait([second])
        first.cancel()
        message = await fleet.published(2)
        assert message.job == "job2"
        fleet.answer(message, await fleet.ran(message))
        await third

    play(scenario, window=1)
