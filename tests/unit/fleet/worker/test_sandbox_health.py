"""A worker whose sandbox is broken takes no jobs, and ends if it stays so."""

import asyncio

from tests.support.loop_clock import LoopClock
from tests.unit.fleet.worker.fakes import FakeCheck, settled
from wasmdrop.fleet.worker.sandbox_health import SandboxHealth


def test_sandbox_that_works_is_not_judged_by_a_failed_job() -> None:
    """The job is at fault."""

    async def play() -> None:
        health = SandboxHealth(FakeCheck(""))
        assert await health.judge() == ""
        assert health.problem == ""

    asyncio.run(play())


def test_sandbox_that_recovers_is_used_again() -> None:
    """For example when the disk has room again."""

    async def play() -> None:
        loop, check = LoopClock(), FakeCheck("no space")
        health = SandboxHealth(check)
        assert await health.judge() == health.problem == "no space"
        await loop.jump(1)
        check.answer = ""
        await loop.jump(2)
        await settled()
        assert health.problem == ""
        assert not health.failure.done()
        health.close()

    asyncio.run(play())


def test_sandbox_that_stays_broken_ends_the_worker() -> None:
    """After about a minute, with the reason."""

    async def play() -> None:
        loop, check = LoopClock(), FakeCheck("no space")
        health = SandboxHealth(check)
        await health.judge()
        await health.judge()
        for _ in range(6):
            assert not health.failure.done()
            await loop.jump(30)
            await settled()
        assert health.failure.result() == "no space"
        assert check.checks == 8

    asyncio.run(play())
