"""Signals to a running process: requests to stop, to reload its settings, and to log its status."""

import asyncio
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

import structlog

from wasmdrop.service.status import log_status
from wasmdrop.system import signals

_log = structlog.get_logger()

#: Signals that end the drain when they are repeated. SIGHUP is not one: the shell and the kernel
#: may both send it.
_REPEATED: Final = frozenset({signal.SIGTERM, signal.SIGINT})

#: How long repetitions count as the same request, in seconds: timeout(1) signals its command and
#: then its process group, and a terminal and a wrapper such as `uv run` both forward Ctrl-C.
_ONE_REQUEST_SECONDS: Final = 0.1

#: When a shell exits, the kernel sends SIGHUP a moment before it takes the terminal away.
_HANG_UP_SECONDS: Final = 0.1

#: Pause after a logged status, in seconds. Signals that arrive meanwhile share the next one.
_STATUS_PAUSE_SECONDS: Final = 0.2


class Shutdown:
    """Shutdown requested by signals; a second SIGTERM or SIGINT, or SIGQUIT, skips the drain.

    ``is_service``: SIGHUP sets ``reload_wanted``, unless it comes from a terminal that was closed,
    and Ctrl-C is answered at a terminal.
    """

    def __init__(self, *, is_service: bool = False) -> None:
        self.asked = asyncio.Event()
        self.now = asyncio.Event()
        self.reload_wanted = asyncio.Event()
        self.reason = ""
        """The name of the first signal."""
        self.facts: Callable[[], dict[str, object]] = dict
        """Returns the fields of the event that SIGUSR1 logs. Called on another thread."""
        self.jobs: Callable[[], tuple[int, float]] = lambda: (0, 0.0)
        """Returns how many jobs are under way, and the seconds that a shutdown gives them. Called
        at any moment."""
        self._is_service = is_service
        self._has_terminal = signals.has_terminal()
        self._is_answered = False
        self._repeats_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._status_wanted = queue.SimpleQueue[int]()
        threading.Thread(target=self._log_statuses, name="status", daemon=True).start()
        for number in signals.STOP:
            self._handle(number, self._on_stop)
        for number in signals.STOP_AT_ONCE:
            self._handle(number, self._on_stop_at_once)
        self._handle(signals.RELOAD, self._on_hang_up)
        self._handle(signals.STATUS, lambda _number: None, self._on_status)
        if is_service and sys.stderr is not None and sys.stderr.isatty():
            self._handle(signal.SIGINT, self._on_stop, self._answer)

    def _handle(
        self,
        number: int,
        handle: Callable[[int], None],
        at_once: Callable[[int, FrameType | None], None] | None = None,
    ) -> None:
        """Call ``handle`` on the event loop, and ``at_once`` before, also if the loop is busy."""
        is_ignored = signal.getsignal(number) is signal.SIG_IGN
        if is_ignored and number not in signals.NEVER_LEFT_IGNORED:
            return
        self._loop.add_signal_handler(number, handle, number)
        if at_once is not None:
            signal.signal(number, at_once)  # the event loop is still told of the signal

    def _on_stop(self, number: int) -> None:
        if not self.asked.is_set():
            self._repeats_at = self._loop.time() + _ONE_REQUEST_SECONDS
            self._ask(number)
        elif number in _REPEATED and self._loop.time() > self._repeats_at:
            self._on_stop_at_once(number)

    def _on_stop_at_once(self, number: int) -> None:
        self._ask(number)
        if not self.now.is_set():
            _log.info("drain-skipped", signal=signals.name_of(number))
            self.now.set()

    def _on_hang_up(self, number: int) -> None:
        if self._has_terminal and signals.has_terminal():
            self._loop.call_later(_HANG_UP_SECONDS, self._stop_or_reload, number)
        else:
            self._stop_or_reload(number)

    def _stop_or_reload(self, number: int) -> None:
        if not self._is_service or (self._has_terminal and not signals.has_terminal()):
            self._on_stop(number)
        else:
            self.reload_wanted.set()

    def _ask(self, number: int) -> None:
        self.reason = self.reason or signals.name_of(number)
        self.asked.set()

    def _log_statuses(self) -> None:
        """Log the status whenever a signal wants it: the thread for it, which never ends."""
        while True:
            self._status_wanted.get()
            while not self._status_wanted.empty():
                self._status_wanted.get()
            try:
                log_status(self.facts())
            except Exception:  # noqa: BLE001 - the next signal must be answered
                _log.exception("status-failed")
            time.sleep(_STATUS_PAUSE_SECONDS)

    # As signal handlers proper: between any two instructions of the main thread

    def _on_status(self, number: int, _frame: FrameType | None) -> None:
        # The main thread may hold a lock of the log now, or be in a status that it is asked for.
        self._status_wanted.put(number)

    def _answer(self, _number: int, _frame: FrameType | None) -> None:
        """Answer the first Ctrl-C at a terminal."""
        if self._is_answered:
            return
        self._is_answered = True
        count, seconds = self.jobs()
        what = "stopping"
        if count and seconds:
            have = "1 job has" if count == 1 else f"{count} jobs have"
            what = f"stopping: {have} {seconds:g} s to end; press Ctrl-C again to stop now"
        sys.stderr.write(f"wasmdrop: {what}\n")  # its queue never blocks
