"""What becomes of a received job, and of the jobs in hand when the worker stops."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from tests.support.loop_clock import LoopClock
from tests.unit.fleet.worker.fakes import FakeCheck, FakeConnection, FakeLease, settled, until
from tests.unit.fleet.worker.messages import MESSAGE
from wasmdrop.fleet.errors import FleetUnavailableError
from wasmdrop.fleet.messages import (
    CHUNK_BYTES,
    Answer,
    GivenUp,
    JobMessage,
    Ran,
    Returned,
    Revocation,
    decode,
    encode,
)
from wasmdrop.fleet.names import ANY_ENGINE, job_subject, outcome_subject, revocation_subject
from wasmdrop.fleet.transport.connection import Stored
from wasmdrop.fleet.worker.counters import Verdict, WorkerCounters
from wasmdrop.fleet.worker.job_request import UnfitJobError
from wasmdrop.fleet.worker.job_run import Executed, JobRun, RunFailedError
from wasmdrop.fleet.worker.job_source import JobSource, Pulled, StuckError
from wasmdrop.fleet.worker.sandbox_health import SandboxHealth
from wasmdrop.fleet.worker.worker import Worker
from wasmdrop.protocol.errors import SandboxError
from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.protocol.outcome import Code, Outcome, OutputTree
from wasmdrop.sandbox.host.call import Call
from wasmdrop.settings import load

CALL = Call("run", FunctionType())
OK = Executed(Outcome(code=Code.OK, results=()), CALL)

Run = Callable[[], Awaitable[Executed]]


class World:
    """A worker with a server, a sandbox and a queue that the test plays."""

    def __init__(self, run: Run, **settings: str) -> None:
        self.connection = FakeConnection()
        self.queue: asyncio.Queue[Pulled | StuckError] = asyncio.Queue()
        self.check = FakeCheck("")
        self.counters = WorkerCounters()
        self.health = SandboxHealth(self.check, (1.0,))
        self.runs = 0
        self.stop = asyncio.Event()
        self.now = asyncio.Event()
        self._run = run
        variables = {"WASMDROP_FLEET_POOL": "p", "WASMDROP_FLEET_NAME": "w", "HOME": "/h"}
        loaded = load(variables | {"WASMDROP_WORKERS": "2"} | settings, {})
        self.worker = Worker(
            self.connection.as_connection(),
            cast(JobSource, self),
            cast(JobRun, self),
            self.health,
            loaded.settings,
            self.counters,
            asyncio.get_running_loop().time,
        )

    async def pull(self) -> Pulled:
        """Give the next job of the test (``JobSource``)."""
        found = await self.queue.get()
        if isinstance(found, StuckError):
            raise found
        return found

    async def run(self, _message: JobMessage, _engine: str, _delivery: int) -> Executed:
        """Run a job as the test wants it (``JobRun``)."""
        self.runs += 1
        return await self._run()

    def put(self, delivery: int = 1, message: JobMessage = MESSAGE) -> FakeLease:
        """Have the worker receive a job."""
        subject = job_subject(
            "p", ANY_ENGINE, message.daemon, message.job, message.attempt, message.generation
        )
        lease = FakeLease(encode(message), subject, delivery)
        self.queue.put_nowait(Pulled(lease.as_lease(), ANY_ENGINE))
        return lease

    def answer(self) -> Ran | Returned | GivenUp:
        """Return what was answered to the job."""
        data = self.connection.stored[outcome_subject(MESSAGE.daemon, MESSAGE.ticket)]
        answer = decode(data, Answer)
        assert (answer.job, answer.worker) == (MESSAGE.job, "w")
        return answer.content


@contextlib.asynccontextmanager
async def working(run: Run, **settings: str) -> AsyncIterator[World]:
    """Run a worker during the block, and stop it."""
    world = World(run, **settings)
    task = asyncio.create_task(world.worker.run(world.stop, world.now))
    try:
        yield world
    finally:
        world.now.set()
        world.stop.set()
        await task


async def _ok() -> Executed:
    return OK


def failing(error: Exception) -> Run:
    """Return a run that fails."""

    async def run() -> Executed:
        raise error

    return run


def _answer_of(run: Run, delivery: int = 1) -> tuple[Ran | Returned | GivenUp, World]:
    async def play() -> tuple[Ran | Returned | GivenUp, World]:
        async with working(run) as world:
            lease = world.put(delivery)
            await until(lambda: lease.acks)
            return world.answer(), world

    return asyncio.run(play())


def test_worker_job_that_runs_is_answered_with_its_outcome() -> None:
    """And counted by its code."""
    content, world = _answer_of(_ok)
    assert isinstance(content, Ran)
    assert world.counters.codes[Code.OK] == world.counters.verdicts[Verdict.RAN] == 1


@pytest.mark.parametrize(("delivery", "runs"), [(3, 1), (4, 0)])
def test_worker_job_is_given_up_after_its_deliveries(delivery: int, runs: int) -> None:
    """So many workers died of it; this one does not run it."""
    content, world = _answer_of(_ok, delivery)
    assert world.runs == runs
    assert isinstance(content, Ran) if runs else content == GivenUp(delivery)


@pytest.mark.parametrize(
    ("error", "needs_module"),
    [
        (UnfitJobError("its module can't be compiled: too large"), False),
        (UnfitJobError("a chunk is gone", needs_module=True), True),
        (SandboxError("the module could not be kept: no space left"), False),
        (FleetUnavailableError("no answer"), False),
        (KeyError("a fault of our own"), False),
    ],
)
def test_worker_job_that_it_can_not_run_is_returned(
    error: Exception, *, needs_module: bool
) -> None:
    """With the reason."""
    content, world = _answer_of(failing(error))
    assert isinstance(content, Returned)
    assert content.needs_module == needs_module
    assert content.reason
    assert world.counters.verdicts[Verdict.RETURNED] == 1


def test_worker_job_that_fails_in_a_sound_sandbox_ran() -> None:
    """As at a daemon: the attempt counts, so that a hostile job does not go round for ever."""
    error = RunFailedError(SandboxError("a child reported nonsense"), CALL)
    content, world = _answer_of(failing(error))
    assert isinstance(content, Ran)
    assert world.counters.codes[Code.INTERNAL] == 1


def test_worker_job_that_fails_in_a_broken_sandbox_is_returned() -> None:
    """The worker takes no other one, and ends if its sandbox does not recover."""

    async def play() -> None:
        loop = LoopClock()
        broken = failing(RunFailedError(SandboxError("no process"), CALL))
        world = World(broken, WASMDROP_WORKERS="1")
        world.check.answer = "no process"
        task = asyncio.create_task(world.worker.run(world.stop, world.now))
        lease = world.put()
        await until(lambda: lease.acks)
        assert isinstance(world.answer(), Returned)
        other = world.put()
        await until(lambda: world.health.problem)
        while not task.done():
            await loop.jump(10)
        with pytest.raises(SandboxError, match="the sandbox does not work: no process"):
            await task
        assert (world.runs, other.acks) == (1, 0)

    asyncio.run(play())


def test_worker_job_that_outlasts_its_lease_is_returned() -> None:
    """Another worker has it by then."""

    async def play() -> None:
        loop = LoopClock()
        async with working(_forever) as world:
            lease = world.put()
            await until(lambda: world.counters.running)
            await loop.jump(60 + MESSAGE.limits.timeout_sec + 61)
            await until(lambda: lease.acks)
            assert isinstance(world.answer(), Returned)

    asyncio.run(play())


async def _forever() -> Executed:
    await asyncio.Event().wait()
    raise AssertionError


def test_worker_that_returns_jobs_slows_down() -> None:
    """It must not take the jobs that others can run."""

    async def play() -> int:
        loop = LoopClock()
        async with working(failing(UnfitJobError("too large")), WASMDROP_WORKERS="1") as world:
            for _ in range(100):
                world.put()
            for _ in range(20):
                await loop.jump(1)
            return world.runs

    assert asyncio.run(play()) < 10


def test_worker_with_unsent_answers_takes_no_more_jobs_than_twice_its_slots() -> None:
    """A fleet with no room for answers gets no new ones."""

    async def play() -> None:
        loop = LoopClock()
        async with working(_ok) as world:
            world.connection.store_replies.extend([Stored.FULL] * 10_000)
            leases = [world.put() for _ in range(10)]
            for _ in range(20):
                await loop.jump(1)
            assert world.runs == 4
            world.connection.store_replies.clear()
            while not all(lease.acks for lease in leases):
                await loop.jump(10)
            assert world.runs == 10

    asyncio.run(play())


def test_worker_unreadable_job_is_acknowledged() -> None:
    """It can't be answered."""

    async def play() -> None:
        async with working(_ok) as world:
            lease = FakeLease(b"\xc1", "wd1.job.p.any.d.job-1-0")
            world.queue.put_nowait(Pulled(lease.as_lease(), ANY_ENGINE))
            await until(lambda: lease.acks)
            assert (world.runs, world.connection.stores) == (0, 0)
            assert world.counters.verdicts[Verdict.INVALID] == 1

    asyncio.run(play())


def test_worker_job_whose_output_finds_no_room_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """To try again would fill the store with more parts of it: the daemon removes these."""
    monkeypatch.setattr("wasmdrop.fleet.bodies.transfers._FULL_SECONDS", (0.0, 0.0))
    large = Outcome(code=Code.OK, results=(), stdout=bytes(2 * CHUNK_BYTES - 1000), stderr=b"")

    async def run() -> Executed:
        return Executed(large, CALL)

    async def play() -> None:
        async with working(run) as world:
            world.connection.store_replies.extend([Stored.FULL] * 2)
            lease = world.put()
            await until(lambda: lease.acks)
            content = world.answer()
            assert isinstance(content, Returned)
            assert "could not be stored" in content.reason
            assert world.connection.stores == 3

    asyncio.run(play())


def test_worker_that_is_paused_takes_no_job() -> None:
    """Its disk is nearly full."""

    async def play() -> None:
        loop = LoopClock()
        world = World(_ok)
        world.worker.why_paused = "no space"
        task = asyncio.create_task(world.worker.run(world.stop, world.now))
        lease = world.put()
        await loop.jump(10)
        assert world.runs == 0
        world.worker.why_paused = ""
        while not lease.acks:
            await loop.jump(1)
        world.stop.set()
        await task

    asyncio.run(play())


def test_worker_whose_source_is_stuck_ends_with_the_reason() -> None:
    """Its supervisor starts it again."""

    async def play() -> None:
        world = World(_ok)
        world.queue.put_nowait(StuckError("no answer for 60 s"))
        with pytest.raises(SandboxError, match="no answer for 60 s"):
            await world.worker.run(world.stop, world.now)

    asyncio.run(play())


# Stop


def test_worker_that_stops_lets_its_jobs_end_and_takes_none() -> None:
    """Within the grace period."""

    async def play() -> None:
        gate = asyncio.Event()

        async def run() -> Executed:
            await gate.wait()
            return OK

        world = World(run)
        task = asyncio.create_task(world.worker.run(world.stop, world.now))
        lease = world.put()
        await until(lambda: world.runs)
        world.stop.set()
        await until(lambda: world.worker._is_stopping)
        late = world.put(message=msgspec.structs.replace(MESSAGE, job="late"))
        gate.set()
        await task
        assert isinstance(world.answer(), Ran)
        assert (lease.acks, late.acks, world.runs) == (1, 0, 1)

    asyncio.run(play())


@pytest.mark.parametrize("is_hurried", [True, False])
def test_worker_that_must_stop_returns_its_jobs(*, is_hurried: bool) -> None:
    """After the grace period, or at a second signal."""

    async def play() -> None:
        loop = LoopClock()
        world = World(_forever, WASMDROP_DRAIN_SEC="30")
        task = asyncio.create_task(world.worker.run(world.stop, world.now))
        lease = world.put()
        await until(lambda: world.runs)
        world.stop.set()
        await until(lambda: world.worker._is_stopping)
        await settled()
        await loop.jump(29)
        assert not task.done()
        if is_hurried:
            world.now.set()
        else:
            await loop.jump(2)
        await task
        assert world.answer() == Returned("the worker stops")
        assert lease.acks == 1

    asyncio.run(play())


def test_worker_that_stops_without_a_server_does_not_wait_for_it() -> None:
    """Its leases lapse."""

    async def play() -> None:
        loop = LoopClock()
        world = World(_forever, WASMDROP_DRAIN_SEC="0")
        world.connection.is_connected = False
        world.connection.store_replies.extend([FleetUnavailableError("away")] * 10_000)
        task: asyncio.Task[Any] = asyncio.create_task(world.worker.run(world.stop, world.now))
        lease = world.put()
        await until(lambda: world.runs)
        world.stop.set()
        await loop.jump(0.01)
        await task
        assert lease.acks == 0

    asyncio.run(play())


# Revoked jobs


def revoke(world: World) -> None:
    """Have the daemon revoke the job."""
    hear = world.connection.subscriptions[revocation_subject("p", "*")]
    hear(revocation_subject("p", MESSAGE.daemon), encode(Revocation((MESSAGE.job,))))


def test_worker_job_revoked_while_it_runs_ends_without_an_answer() -> None:
    """It is acknowledged, so that no other worker gets it, and its slot is free again."""
    ended: list[str] = []

    async def run() -> Executed:
        try:
            return await _forever()
        finally:
            ended.append("run")

    async def play() -> None:
        async with working(run, WASMDROP_WORKERS="1") as world:
            lease = world.put()
            await until(lambda: world.runs)
            revoke(world)
            await until(lambda: lease.acks)
            assert (ended, world.connection.stores) == (["run"], 0)
            assert world.counters.verdicts[Verdict.REVOKED] == 1
            other = world.put(message=msgspec.structs.replace(MESSAGE, job="other"))
            await until(lambda: world.runs == 2)
            assert other.acks == 0

    asyncio.run(play())


def test_worker_job_revoked_before_it_is_received_does_not_run() -> None:
    """Not even to be given up; others run as ever."""

    async def play() -> None:
        async with working(_ok) as world:
            await until(lambda: world.connection.subscriptions)
            revoke(world)
            leases = [world.put(), world.put(delivery=4), world.put()]
            await until(lambda: all(lease.acks for lease in leases))
            assert (world.runs, world.connection.stores) == (0, 0)
            assert world.counters.verdicts[Verdict.REVOKED] == 3
            other = world.put(message=msgspec.structs.replace(MESSAGE, job="other"))
            await until(lambda: other.acks)

    asyncio.run(play())


def test_worker_job_revoked_at_its_end_leaves_no_output(tmp_path: Path) -> None:
    """Its run has ended, and the worker has yet to see that."""
    root = tmp_path / "output"
    worlds: list[World] = []

    async def run() -> Executed:
        root.mkdir()
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _task: revoke(worlds[0]))
        outcome = Outcome(code=Code.OK, results=(), output=OutputTree(str(root), (), ()))
        return Executed(outcome, CALL)

    async def play() -> None:
        async with working(run) as world:
            worlds.append(world)
            lease = world.put()
            await until(lambda: lease.acks)
            await until(lambda: not root.exists())
            assert world.connection.stores == 0

    asyncio.run(play())
