"""MountThreads: calls that are slow or hang, and pauses of the whole process."""

import asyncio
import errno
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.loop_clock import LoopClock
from wasmdrop.system.mount_threads import MountThreads


def with_threads(use: Callable[[MountThreads, LoopClock], Awaitable[None]]) -> None:
    """Use new threads and the loop's clock."""

    async def run() -> None:
        clock, threads = LoopClock(), MountThreads()
        try:
            await use(threads, clock)
        finally:
            threads.close()

    asyncio.run(run())


def test_mount_threads_call_that_is_slow_after_a_pause_is_awaited(tmp_path: Path) -> None:
    """The pause was longer than the timeout, but the call had no time."""

    async def use(threads: MountThreads, clock: LoopClock) -> None:
        may_end = threading.Event()
        call = asyncio.create_task(threads.run(str(tmp_path), may_end.wait, wait_seconds=600))
        await clock.jump(1000)
        may_end.set()
        assert await call

    with_threads(use)


def test_mount_threads_call_that_hangs_raises_after_the_timeout(tmp_path: Path) -> None:
    """One that waits behind it for a thread is not made later."""

    async def use(threads: MountThreads, clock: LoopClock) -> None:
        may_end = threading.Event()
        made: list[int] = []
        hanging = [
            asyncio.create_task(threads.run(str(tmp_path), may_end.wait, wait_seconds=600))
            for _ in range(4)
        ]
        await asyncio.sleep(0)
        behind = asyncio.create_task(threads.run(str(tmp_path), made.append, 1, wait_seconds=600))
        for _ in range(5):
            await clock.jump(1000)
        for call in (*hanging, behind):
            with pytest.raises(OSError, match="timed out") as raised:
                await call
            assert raised.value.errno == errno.ETIMEDOUT
        may_end.set()
        await threads.run(str(tmp_path), made.append, 2)
        assert made == [2]

    with_threads(use)


def test_mount_threads_call_that_fails_raises_its_error(tmp_path: Path) -> None:
    """As if it were called here."""

    async def use(threads: MountThreads, _clock: LoopClock) -> None:
        with pytest.raises(FileNotFoundError):
            await threads.run(str(tmp_path), (tmp_path / "none").read_bytes, wait_seconds=600)

    with_threads(use)
