"""End the process if its event loop is stuck, so that its supervisor starts it again.

A thread, because nothing else runs then. It works without a service manager; that of systemd is fed
besides.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Final, Self

#: How long the event loop may be silent, in seconds. One sync of a bad disk can take ten.
STUCK_SECONDS: Final = 60.0

_PERIOD_SECONDS: Final = 5.0


class LoopWatchdog:
    """Calls ``on_stuck`` with the reason, on a thread, if ``loop`` runs nothing for too long.

    A pause of the whole process (SIGSTOP, a frozen container) does not count. ``clock``: a
    monotonic clock in seconds.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_stuck: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._on_stuck = on_stuck
        self._clock = clock
        self._heard_at = self._checked_at = clock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Ask the loop for a sign of life; call ``on_stuck`` if the last one is too long ago."""
        now = self._clock()
        if now - self._checked_at > 2 * _PERIOD_SECONDS:
            self._heard_at = now  # this thread did not run either
        self._checked_at = now
        if now - self._heard_at > STUCK_SECONDS:
            self._on_stuck(f"the event loop did not run for {STUCK_SECONDS:g} s")
        self._loop.call_soon_threadsafe(self._beat)

    def _run(self) -> None:
        while not self._stop.wait(_PERIOD_SECONDS):
            self.check()

    def _beat(self) -> None:
        self._heard_at = self._clock()
