"""Timeouts of zygotes: a pause of the whole process is not the zygote's."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from tests.support.loop_clock import LoopClock
from wasmdrop.protocol.errors import SandboxError
from wasmdrop.sandbox.host import zygote_pool
from wasmdrop.sandbox.host.child_process import ChildProcess
from wasmdrop.sandbox.host.fork_server import ForkServer
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule
from wasmdrop.sandbox.host.zygote_pool import Zygote, ZygotePool
from wasmdrop.sandbox.wire import Preparation

#: A process ID that the kernel does not give (PID_MAX_LIMIT).
PID = 1 << 22


class SlowZygote:
    """A zygote whose test forks its children, and the reasons why it was given up."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        module = cast("CompiledModule", SimpleNamespace())
        self.zygote = Zygote(module, 1, lambda _zygote, reason: self.reasons.append(reason))
        self.zygote._process = cast("ChildProcess", SimpleNamespace(pid=PID, close=lambda: None))
        ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.zygote._connect(ours)

    def fork(self) -> None:
        """Report a child, which is no process."""
        link, other_end = socket.socketpair()
        reading, writing = os.pipe()
        with link, other_end:
            socket.send_fds(self._theirs, [b"child %d" % (PID + 1)], [link.fileno(), reading])
        os.close(reading)
        os.close(writing)

    def close(self) -> None:
        """End it."""
        self.zygote.close()
        self._theirs.close()


def play(act: Callable[[SlowZygote, LoopClock], Awaitable[None]]) -> None:
    """Run one test with a zygote."""

    async def run() -> None:
        clock, slow = LoopClock(), SlowZygote()
        try:
            await act(slow, clock)
        finally:
            slow.close()

    asyncio.run(run())


def test_zygote_that_is_slow_after_a_pause_is_kept() -> None:
    """The job that waits gets its child."""

    async def act(slow: SlowZygote, clock: LoopClock) -> None:
        child = asyncio.create_task(slow.zygote.take(1))
        await clock.jump(1000)
        slow.fork()
        (await child).close()
        assert slow.reasons == []

    play(act)


def test_zygote_that_does_not_answer_is_given_up() -> None:
    """And no job waits for it any more."""

    async def act(slow: SlowZygote, clock: LoopClock) -> None:
        children = [asyncio.create_task(slow.zygote.take(1)) for _ in range(2)]
        for _ in range(10):
            await clock.jump(1000)
        for child in children:
            with pytest.raises(SandboxError, match="does not answer"):
                await child
        assert slow.reasons == ["a zygote does not answer"]

    play(act)


class StartingZygote:
    """A zygote that starts when a test lets it."""

    is_gone = False
    may_start = asyncio.Event()

    def __init__(self, *_arguments: object) -> None:
        self.used_at = asyncio.get_running_loop().time()

    async def start(self, *_arguments: object) -> bool:
        """Wait."""
        await self.may_start.wait()
        return True

    def set_idle(self, _count: int) -> None:
        """Do nothing."""

    def check(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class FakeForkServer:
    """A fork server whose children do nothing."""

    def __init__(self) -> None:
        self.closed = 0

    async def take(self) -> ChildProcess:
        """Return a child."""
        exit_status = asyncio.get_running_loop().create_future()
        return cast("ChildProcess", SimpleNamespace(exit_status=exit_status, close=self._close))

    def sweep(self) -> None:
        """Do nothing."""

    def _close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("answers", [True, False])
def test_zygote_that_starts_slowly_after_a_pause_is_used(
    monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """One that never answers is not."""

    async def run() -> None:
        clock, fork_server = LoopClock(), FakeForkServer()
        StartingZygote.may_start = asyncio.Event()
        pool = ZygotePool(cast("ForkServer", fork_server), 1)
        module = cast("CompiledModule", SimpleNamespace(sha256="aa"))
        preparation = cast("Preparation", "any")
        directories: Sequence[int] = ()
        for _ in range(2):
            assert await pool.acquire(module, preparation, 1, directories) is None
        (starting,) = pool._starting.values()
        await clock.jump(30)
        if answers:
            StartingZygote.may_start.set()
        else:
            for _ in range(10):
                await clock.jump(30)
        await starting
        assert (len(pool._ready), fork_server.closed) == ((1, 0) if answers else (0, 1))
        pool.close()

    monkeypatch.setattr(zygote_pool, "Zygote", StartingZygote)
    asyncio.run(run())
