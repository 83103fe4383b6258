"""Signals that request a shutdown, and their repetitions."""

import asyncio
import os
import queue
import signal
import threading

import pytest

from wasmdrop.service.shutdown import Shutdown


async def heard(*numbers: int, is_service: bool = False) -> Shutdown:
    """Return a shutdown that has received these signals, one after the other."""
    stop = Shutdown(is_service=is_service)
    heard_last: asyncio.Queue[None] = asyncio.Queue()
    asyncio.get_running_loop().add_signal_handler(signal.SIGURG, heard_last.put_nowait, None)
    for number in numbers:
        os.kill(os.getpid(), number)
        # Signals are heard in their order, so that this one says that the other was.
        os.kill(os.getpid(), signal.SIGURG)
        await heard_last.get()
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
        ((signal.SIGUSR2,), 0, False),
        ((signal.SIGALRM, signal.SIGINT), 0, True),
        ((signal.SIGRTMIN, signal.SIGRTMIN), 0, False),
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


def test_sighup_of_a_service_without_a_terminal_asks_for_a_reload(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It stops nothing."""
    monkeypatch.setattr("wasmdrop.system.signals.has_terminal", lambda: False)
    stop = asyncio.run(heard(signal.SIGHUP, is_service=True))
    assert stop.reload_wanted.is_set()
    assert not stop.asked.is_set()


@pytest.mark.parametrize(
    ("looks", "is_stopped"),
    [
        ((True, True, True), False),
        ((True, False, False), True),
        # The shell has ended, and the kernel takes the terminal away a moment later.
        ((True, True, False), True),
    ],
)
def test_sighup_of_a_service_stops_it_if_its_terminal_is_gone(
    monkeypatch: pytest.MonkeyPatch, looks: tuple[bool, ...], is_stopped: bool
) -> None:
    """``looks``: whether there is a terminal, at the start and after the signal."""

    async def settled() -> Shutdown:
        stop = await heard(signal.SIGHUP, is_service=True)
        waits = [asyncio.create_task(one.wait()) for one in (stop.asked, stop.reload_wanted)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return stop

    answers = iter(looks)
    monkeypatch.setattr("wasmdrop.system.signals.has_terminal", lambda: next(answers))
    stop = asyncio.run(settled())
    assert stop.asked.is_set() is is_stopped
    assert stop.reload_wanted.is_set() is not is_stopped


def test_status_is_logged_on_another_thread_whatever_happens_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The main thread may be in the middle of a line of the log, and an error must not end it."""
    called: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def fail() -> dict[str, object]:
        called.put(threading.current_thread() is threading.main_thread())
        raise ValueError

    async def asked() -> None:
        stop = await heard()
        stop.facts = fail
        os.kill(os.getpid(), signal.SIGUSR1)
        assert not await asyncio.to_thread(called.get)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert not await asyncio.to_thread(called.get)

    monkeypatch.setattr("wasmdrop.service.shutdown._STATUS_PAUSE_SECONDS", 0)
    asyncio.run(asked())
