"""A stuck event loop ends the process; a paused process goes on."""

import asyncio

from tests.unit.fleet.worker.fakes import Clock
from wasmdrop.fleet.worker.loop_watchdog import STUCK_SECONDS, LoopWatchdog

_CHECK_SECONDS = 5


def _watch(rounds: int, check_seconds: float, *, is_loop_alive: bool) -> list[str]:
    """Check so often; return the reasons for which the process would have been ended."""
    clock, reasons = Clock(), list[str]()

    async def play() -> None:
        watchdog = LoopWatchdog(asyncio.get_running_loop(), reasons.append, clock)
        for _ in range(rounds):
            clock.seconds += check_seconds
            watchdog.check()
            if is_loop_alive:
                await asyncio.sleep(0)

    asyncio.run(play())
    return reasons


def test_watchdog_of_a_loop_that_runs_is_silent() -> None:
    """However long."""
    assert _watch(100, _CHECK_SECONDS, is_loop_alive=True) == []


def test_watchdog_of_a_stuck_loop_ends_the_process() -> None:
    """Not before its time."""
    rounds = int(STUCK_SECONDS / _CHECK_SECONDS)
    assert _watch(rounds, _CHECK_SECONDS, is_loop_alive=False) == []
    assert "did not run" in _watch(rounds + 1, _CHECK_SECONDS, is_loop_alive=False)[0]


def test_watchdog_of_a_paused_process_is_silent() -> None:
    """Its own thread did not run either (SIGSTOP, a frozen container)."""
    assert _watch(3, 10 * STUCK_SECONDS, is_loop_alive=False) == []
