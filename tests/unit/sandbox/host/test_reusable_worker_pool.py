"""Unit tests of the reusable worker pool: which workers serve another job."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import pytest

from wasmdrop.protocol.errors import SandboxError
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import FunctionType, ModuleKind, ModuleSummary
from wasmdrop.protocol.outcome import Code
from wasmdrop.sandbox.host import reusable_worker_pool
from wasmdrop.sandbox.host.call import Call, preparation_of
from wasmdrop.sandbox.host.child_process import ChildProcess
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule
from wasmdrop.sandbox.host.reusable_worker_pool import ReusableWorkerPool
from wasmdrop.sandbox.wire import EngineOptions, RunReport, encode_frame

CALL = Call("run", FunctionType())


class FakeForkServer:
    """A fork server whose children report at once that they are prepared."""

    def __init__(self) -> None:
        self.links: list[socket.socket] = []
        self.code = Code.OK

    async def take(self) -> ChildProcess:
        """Return a child."""
        ours, theirs = socket.socketpair()
        theirs.sendall(encode_frame(RunReport(self.code)))
        self.links.append(theirs)
        pidfd, writing = os.pipe()  # any descriptor: no process is killed by it
        os.close(writing)
        return ChildProcess(len(self.links), ours, pidfd, untrusted_parent=1)


class Scene:
    """A pool, and the jobs of two modules."""

    def __init__(self) -> None:
        self.fork_server = FakeForkServer()
        self.pool = ReusableWorkerPool(self.fork_server)  # type: ignore[arg-type]
        summary = ModuleSummary(ModuleKind.LIBRARY)
        self.modules = [
            CompiledModule(f"{number:064}", EngineOptions(), summary, os.memfd_create("code"))
            for number in range(2)
        ]

    async def acquire(self, number: int = 0, timeout_seconds: float = 1.0) -> ChildProcess:
        """Acquire a worker for a job of a module."""
        limits = Limits(timeout_sec=timeout_seconds)
        module = self.modules[number]
        return await self.pool.acquire(module, preparation_of(module, CALL, limits))

    async def run_job(self, number: int = 0, timeout_seconds: float = 1.0) -> ChildProcess:
        """Run a job whose worker reports; return its process."""
        child = await self.acquire(number, timeout_seconds)
        self.fork_server.links[child.pid - 1].sendall(report_frame())
        assert await child.receive(1000) is not None
        self.pool.release(child)
        return child


def report_frame() -> bytes:
    """Return the frame of a report."""
    return encode_frame(RunReport(Code.OK))


def play(act: Callable[[Scene], Awaitable[None]]) -> None:
    """Run one test with a pool."""

    async def run() -> None:
        scene = Scene()
        try:
            await act(scene)
        finally:
            scene.pool.close()
            for link in scene.fork_server.links:
                link.close()

    asyncio.run(run())


def test_worker_that_reported_serves_the_next_job_of_its_module() -> None:
    """Whatever the timeout of the job is; another module gets another worker."""

    async def act(scene: Scene) -> None:
        first = await scene.run_job()
        assert await scene.run_job(timeout_seconds=50) is first
        assert await scene.run_job(1) is not first
        assert await scene.run_job() is first

    play(act)


def test_worker_without_report_is_ended() -> None:
    """Its job was killed, or it died."""

    async def act(scene: Scene) -> None:
        child = await scene.acquire()
        scene.pool.release(child)
        assert child.is_closed
        assert await scene.run_job() is not child

    play(act)


def test_worker_that_sends_more_than_its_report_is_ended() -> None:
    """It may belong to its guest."""

    async def act(scene: Scene) -> None:
        child = await scene.acquire()
        scene.fork_server.links[0].sendall(report_frame())
        assert await child.receive(1000) is not None
        scene.fork_server.links[0].sendall(b"more")
        scene.pool.release(child)
        assert child.is_closed

    play(act)


def test_worker_after_many_jobs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it leaks is bounded."""
    monkeypatch.setattr(reusable_worker_pool, "_MAX_JOBS", 3)

    async def act(scene: Scene) -> None:
        children = [await scene.run_job() for _ in range(4)]
        assert children[0] is children[1] is children[2]
        assert children[0].is_closed
        assert children[3] is not children[2]

    play(act)


def test_worker_that_cannot_be_prepared_fails_its_job() -> None:
    """The failure is the sandbox's, so that the job is retried."""

    async def act(scene: Scene) -> None:
        scene.fork_server.code = Code.INTERNAL
        with pytest.raises(SandboxError):
            await scene.acquire()

    play(act)
