"""Signals that request a shutdown, and their repetitions."""

import asyncio
import os
import signal

import pytest
from structlog.testing import capture_logs

from wasmdrop.service.shutdown import Shutdown


async def heard(*numbers: int) -> Shutdown:
    """Return a shutdown that has received these signals, one after the other."""
    stop = Shutdown()
    with capture_logs() as logs:
        for turn, number in enumerate(numbers, start=1):
            os.kill(os.getpid(), number)
            # Signals are heard in their order, so that this one says that the other was.
            os.kill(os.getpid(), signal.SIGUSR1)
            while sum(event["event"] == "signal-ignored" for event in logs) < turn:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    return stop


@pytest.mark.parametrize(
    ("numbers", "window_seconds", "is_now"),
    [
        ((signal.SIGTERM,), 0, False),
        ((signal.SIGTERM, signal.SIGTERM), 0, True),
        ((signal.SIGHUP, signal.SIGINT), 0, True),
        ((signal.SIGTERM, signal.SIGTERM), 600, False),
        ((signal.SIGINT, signal.SIGTERM, signal.SIGINT), 600, False),
        ((signal.SIGHUP, signal.SIGHUP), 0, False),
        ((signal.SIGTERM, signal.SIGHUP), 0, False),
        ((signal.SIGXCPU, signal.SIGXCPU), 0, False),
        ((signal.SIGQUIT,), 600, True),
        ((signal.SIGTERM, signal.SIGQUIT), 600, True),
    ],
)
def test_shutdown_repeated_signal_skips_the_drain_unless_one_request(
    monkeypatch: pytest.MonkeyPatch, numbers: tuple[int, ...], window_seconds: float, is_now: bool
) -> None:
    """timeout(1) sends SIGTERM twice; a terminal that closes may send SIGHUP twice."""
    monkeypatch.setattr("wasmdrop.service.shutdown._ONE_REQUEST_SECONDS", window_seconds)
    stop = asyncio.run(heard(*numbers))
    assert stop.asked.is_set()
    assert stop.now.is_set() is is_now
    assert stop.reason == signal.Signals(numbers[0]).name
