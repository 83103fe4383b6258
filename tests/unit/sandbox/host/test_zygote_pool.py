"""Unit tests of the zygote pool: reuse, limits, eviction and death."""

import asyncio
import contextlib
import errno
import itertools
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from structlog.testing import capture_logs

from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import FunctionType, ModuleKind, ModuleSummary
from wasmdrop.sandbox.host import zygote_pool
from wasmdrop.sandbox.host.call import Call, cpu_limit_seconds, preparation_of
from wasmdrop.sandbox.host.child_process import ChildProcess
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule
from wasmdrop.sandbox.host.zygote_pool import Zygote, ZygotePool
from wasmdrop.sandbox.native_wire import MAX_NATIVE_REPORT_BYTES, REPORT, Result
from wasmdrop.sandbox.wire import FORK, FRAME, EngineOptions, ZygoteRequest, decode_request

CALL = Call("run", FunctionType())


#: Process IDs that the kernel does not give (PID_MAX_LIMIT).
PIDS = itertools.count(1 << 22)


class FakeZygote(ChildProcess):
    """A zygote's process: it is prepared with ``result``, and forks children that do nothing.

    Without a result it ends before it reports.
    """

    def __init__(self, result: Result | None = Result.RETURNED) -> None:
        ours, self._link_end = socket.socketpair()
        pidfd, self._pidfd_end = os.pipe()
        super().__init__(next(PIDS), ours, pidfd)
        self.result = result
        self.forked = 0
        self.limits: list[int] = []
        self.refusal = b""
        """The answer to requests for a child, if it forks none."""
        self.dies_after_its_report = False
        self.is_killed = False
        self.control: socket.socket | None = None
        self._links: list[socket.socket] = []

    async def send(self, frame: bytes, descriptors: Sequence[int]) -> None:
        """Take the request to become a zygote."""
        request = decode_request(frame[FRAME.size :])
        assert isinstance(request, ZygoteRequest)
        self.control = socket.socket(fileno=os.dup(descriptors[1]))
        self.control.setblocking(False)
        asyncio.get_running_loop().add_reader(self.control, self._fork)

    async def receive(self, _max_bytes: int = MAX_NATIVE_REPORT_BYTES) -> bytes | None:
        """Report the end of the preparation."""
        if self.result is None:
            self.ended(signal.SIGABRT, 0)
            return None
        if self.dies_after_its_report:
            self.die()
        return REPORT.pack(self.result, -1, 0, 0, 0.0, 0.0, -1, -1, 0, 0) + bytes(8)

    def kill(self) -> None:
        """Die."""
        self.is_killed = True
        self.die()

    def die(self) -> None:
        """Close all that it has open."""
        if self.control is not None:
            asyncio.get_running_loop().remove_reader(self.control)
            self.control.close()
            self.control = None
        for link in (self._link_end, *self._links):
            link.close()
        with contextlib.suppress(OSError):
            os.close(self._pidfd_end)

    def _fork(self) -> None:
        assert self.control is not None
        message = self.control.recv(64)
        if not message:
            self.die()
            return
        word, _space, cpu_seconds = message.partition(b" ")
        assert word == FORK
        self.limits.append(int(cpu_seconds))
        if self.refusal:
            self.control.send(self.refusal)
            return
        self.forked += 1
        ours, theirs = socket.socketpair()
        self._links.append(theirs)
        reading, writing = os.pipe()  # any descriptor: no process is killed by it
        with ours:
            message = b"child %d" % next(PIDS)
            socket.send_fds(self.control, [message], [ours.fileno(), reading])
        os.close(reading)
        os.close(writing)


class FakeForkServer:
    """A fork server whose children become the zygotes that a test plays."""

    def __init__(self) -> None:
        self.zygotes: list[FakeZygote] = []
        self.result: Result | None = Result.RETURNED
        self.die_after_their_report = False
        self.sweeps = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def take(self) -> FakeZygote:
        """Return a process."""
        zygote = FakeZygote(self.result)
        zygote.dies_after_its_report = self.die_after_their_report
        self.zygotes.append(zygote)
        await self.answers.wait()
        return zygote

    def sweep(self) -> None:
        """Count the sweeps."""
        self.sweeps += 1


class Scene:
    """A pool over a fake fork server, and modules."""

    def __init__(self, idle: int) -> None:
        self.fork_server = FakeForkServer()
        self.pool = ZygotePool(self.fork_server, idle)  # type: ignore[arg-type]
        self._modules: dict[int, CompiledModule] = {}
        self._acquired: list[ChildProcess] = []

    def module(self, number: int) -> CompiledModule:
        """Return a module."""
        if number not in self._modules:
            summary = ModuleSummary(ModuleKind.LIBRARY)
            code_fd = os.memfd_create("code")
            options = EngineOptions()
            self._modules[number] = CompiledModule(f"{number:064}", options, summary, code_fd)
        return self._modules[number]

    async def acquire(
        self, number: int = 0, limits: Limits | None = None
    ) -> tuple[ChildProcess, Zygote] | None:
        """Acquire a child for a job of a module."""
        module = self.module(number)
        limits = limits or Limits()
        preparation = preparation_of(module, CALL, limits)
        acquired = await self.pool.acquire(module, preparation, cpu_limit_seconds(limits), ())
        if acquired is not None:
            self._acquired.append(acquired[0])
        return acquired

    async def close(self) -> None:
        """End everything."""
        starting = list(self.pool._starting.values())
        self.pool.close()
        await asyncio.gather(*starting, return_exceptions=True)
        for child in (*self._acquired, *self.fork_server.zygotes):
            child.close()

    async def start_zygote(self, number: int = 0) -> FakeZygote:
        """Call a module twice and wait until its zygote is ready."""
        for _ in range(2):
            assert await self.acquire(number) is None
        await until(lambda: not self.pool._starting)
        await self.settle()
        return self.fork_server.zygotes[-1]

    async def settle(self) -> None:
        """Wait until all requested children have come."""
        await until(lambda: not any(zygote._requested for zygote in self.pool._ready.values()))

    def idle_children(self) -> int:
        """Return the number of idle children of all zygotes."""
        return sum(len(one._idle) for one in (*self.pool._ready.values(), *self.pool._retired))


async def until(condition: Callable[[], object]) -> None:
    """Run the event loop until the condition holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the pool signals nothing
            await asyncio.sleep(0)


def play(act: Callable[[Scene], Awaitable[None]], idle: int = 2) -> None:
    """Run one test with a pool."""

    @contextlib.asynccontextmanager
    async def scene() -> AsyncIterator[Scene]:
        it = Scene(idle)
        try:
            yield it
        finally:
            await it.close()

    async def run() -> None:
        async with scene() as it:
            await act(it)

    asyncio.run(run())


def test_zygote_module_called_again_is_started_and_reused() -> None:
    """The first two jobs do not wait for it; the others have children of one zygote."""

    async def act(scene: Scene) -> None:
        zygote = await scene.start_zygote()
        pids = set()
        for _ in range(5):
            acquired = await scene.acquire()
            assert acquired is not None
            child, source = acquired
            pids.add(child.pid)
            assert child.is_native
            assert source._process is zygote
        assert len(pids) == 5
        assert scene.fork_server.zygotes == [zygote]

    play(act)


def test_zygote_other_timeout_is_reused_with_its_own_limit() -> None:
    """The timeout does not select the zygote; each child has the limit of its job."""

    async def act(scene: Scene) -> None:
        zygote = await scene.start_zygote()
        for seconds, limit in ((0.1, 2), (1.0, 2), (7.5, 9), (3600.0, 3601), (0.1, 2)):
            acquired = await scene.acquire(limits=Limits(timeout_sec=seconds))
            assert acquired is not None
            child, source = acquired
            assert source._process is zygote
            assert child.cpu_limit_seconds == limit
            assert limit in zygote.limits
            await scene.settle()
            assert scene.idle_children() <= 2
        assert len(scene.fork_server.zygotes) == 1

    play(act)


def test_idle_children_after_another_timeout_have_its_limit() -> None:
    """Jobs that all have a new timeout find idle children again."""

    async def act(scene: Scene) -> None:
        zygote = await scene.start_zygote()
        limits = Limits(timeout_sec=100)
        for _ in range(3):
            assert await scene.acquire(limits=limits) is not None
            await scene.settle()
        (source,) = scene.pool._ready.values()
        assert [child.cpu_limit_seconds for child in source._idle] == [101, 101]
        forked = zygote.forked
        assert await scene.acquire(limits=limits) is not None
        assert zygote.forked == forked

    play(act)


def test_jobs_that_wait_with_different_timeouts_get_their_own_children() -> None:
    """A child goes to the job whose limit it has."""

    async def act(scene: Scene) -> None:
        await scene.start_zygote()
        seconds = [5, 50, 500, 5, 50, 500]
        acquired = await asyncio.gather(
            *(scene.acquire(limits=Limits(timeout_sec=one)) for one in seconds)
        )
        limits = [one[0].cpu_limit_seconds for one in acquired if one is not None]
        assert limits == [one + 1 for one in seconds]

    play(act)


def test_zygote_other_memory_limit_is_not_reused() -> None:
    """The instance has its memory limit before the fork."""

    async def act(scene: Scene) -> None:
        await scene.start_zygote()
        assert await scene.acquire(limits=Limits(memory_mb=1)) is None

    play(act)


@pytest.mark.parametrize("workers", [1, 2, 64])
def test_idle_children_of_many_zygotes_are_bounded_together(workers: int) -> None:
    """One zygote may have one per worker, all together twice that, and each at least two."""

    async def act(scene: Scene) -> None:
        for number in range(12):
            await scene.start_zygote(number)
            assert scene.idle_children() <= max(2 * workers, 2 * len(scene.pool._ready))
            assert all(
                min(2, workers) <= len(one._idle) <= workers for one in scene.pool._ready.values()
            )
        assert len(scene.pool._ready) == zygote_pool._MAX_ZYGOTES
        assert scene.idle_children() == max(2 * workers, 8 * min(2, workers))

    play(act, idle=workers)


def test_idle_children_of_a_single_zygote_are_one_per_worker() -> None:
    """A burst of one module's jobs can use all workers."""

    async def act(scene: Scene) -> None:
        await scene.start_zygote()
        assert scene.idle_children() == 16

    play(act, idle=16)


def test_starting_zygotes_are_limited() -> None:
    """Each takes a process beside those of the workers; the others are started later."""

    async def act(scene: Scene) -> None:
        scene.fork_server.answers.clear()
        for _ in range(3):
            for number in range(20):
                assert await scene.acquire(number) is None
        await asyncio.sleep(0)
        assert len(scene.fork_server.zygotes) == zygote_pool._MAX_STARTING
        scene.fork_server.answers.set()
        await until(lambda: not scene.pool._starting)
        assert await scene.acquire(19) is None
        assert len(scene.pool._starting) == 1

    play(act)


def test_eviction_above_the_limit_takes_the_least_recently_used() -> None:
    """Its idle children go at once, the zygote when its last job has ended."""

    async def act(scene: Scene) -> None:
        first, second = [await scene.start_zygote(number) for number in (0, 1)]
        acquired = await scene.acquire(1)
        assert acquired is not None
        job, source = acquired
        assert await scene.acquire(0) is not None
        for number in range(2, 9):
            await scene.start_zygote(number)
        assert second not in [one._process for one in scene.pool._ready.values()]
        assert first in [one._process for one in scene.pool._ready.values()]
        assert not source._idle
        scene.pool._check()
        assert not second.is_killed
        job.has_reported = False
        source.release(job)
        scene.pool._check()
        assert second.is_killed
        assert not first.is_killed

    play(act)


def test_eviction_of_an_unused_zygote_leaves_none() -> None:
    """A daemon without jobs has no zygotes."""

    async def act(scene: Scene) -> None:
        zygote = await scene.start_zygote()
        scene.pool._check()
        assert not zygote.is_killed
        for one in scene.pool._ready.values():
            one.used_at -= zygote_pool._UNUSED_SECONDS + 1
        scene.pool._check()
        assert zygote.is_killed
        assert not scene.pool._ready
        assert not scene.pool._retired

    play(act)


def test_zygote_that_dies_is_not_started_again() -> None:
    """Its module's jobs go without; what it left behind is swept."""

    async def act(scene: Scene) -> None:
        zygote = await scene.start_zygote()
        acquired = await scene.acquire()
        assert acquired is not None
        job, _source = acquired
        zygote.die()
        await until(lambda: not scene.pool._ready)
        with pytest.raises(Exception, match="died"):
            await job.exit_status
        sweeps = scene.fork_server.sweeps
        zygote.ended(9, 0.0)
        await until(lambda: scene.fork_server.sweeps > sweeps)
        for _ in range(3):
            assert await scene.acquire() is None
        assert scene.fork_server.zygotes == [zygote]
        assert not scene.pool._starting

    play(act)


def test_zygote_that_cannot_fork_is_evicted_and_jobs_go_without() -> None:
    """A job that waits for a child is not lost."""

    async def act(scene: Scene) -> None:
        zygote = await scene.start_zygote()
        zygote.refusal = b"none %d" % errno.EAGAIN
        for _ in range(2):
            assert await scene.acquire() is not None
        assert await scene.acquire() is None
        assert not scene.pool._ready
        assert not zygote.is_killed  # two jobs run in its children

    play(act)


def test_zygote_that_reports_an_impossible_error_is_ended() -> None:
    """Its guest may have taken it over."""

    async def act(scene: Scene) -> None:
        zygote = await scene.start_zygote()
        zygote.refusal = b"none %d" % (1 << 64)
        for _ in range(2):
            assert await scene.acquire() is not None
        assert await scene.acquire() is None
        assert zygote.is_killed

    play(act)


def test_zygote_that_cannot_be_prepared_is_tried_once() -> None:
    """The jobs of its module run elsewhere, and report why."""

    async def act(scene: Scene) -> None:
        scene.fork_server.result = Result.FAILED
        for _ in range(2):
            assert await scene.acquire() is None
        await until(lambda: not scene.pool._starting)
        for _ in range(3):
            assert await scene.acquire() is None
        (zygote,) = scene.fork_server.zygotes
        assert zygote.is_killed
        assert not scene.pool._starting

    play(act)


def test_zygote_that_dies_after_its_report_is_not_used() -> None:
    """Before the pool has it; it would never be replaced there."""

    async def act(scene: Scene) -> None:
        scene.fork_server.die_after_their_report = True
        for _ in range(2):
            assert await scene.acquire() is None
        await until(lambda: not scene.pool._starting)
        await until(lambda: not scene.pool._ready)
        for _ in range(3):
            assert await scene.acquire() is None
        assert list(scene.pool._seen.values()) == [False]
        assert len(scene.fork_server.zygotes) == 1

    play(act)


@pytest.mark.parametrize(("result", "status"), [(Result.INTERNAL, ""), (None, "status -6")])
def test_native_program_that_fails_is_logged(result: Result | None, status: str) -> None:
    """Jobs run in the slower guest without it, so the operator must be able to find out why."""

    async def act(scene: Scene) -> None:
        scene.fork_server.result = result
        with capture_logs() as logs:
            for _ in range(2):
                assert await scene.acquire() is None
            await until(lambda: not scene.pool._starting)
        (logged,) = logs
        assert logged["event"] == "zygote-unavailable"
        assert status in logged["error"]

    play(act)


def test_zygote_with_unexpected_children_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zygote has only the children that it was asked for."""

    async def act(scene: Scene) -> None:
        zygote = await scene.start_zygote()
        monkeypatch.setattr(zygote_pool, "children_of", lambda _pid: set())
        scene.pool._check()
        assert not zygote.is_killed
        monkeypatch.setattr(
            zygote_pool, "children_of", lambda pid: {1, 2, 3} if pid == zygote.pid else set()
        )
        scene.pool._check()
        assert zygote.is_killed
        assert not scene.pool._ready

    play(act)
