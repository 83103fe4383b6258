"""Shutdown: the signals that request it, and those that end the grace period of running jobs."""

import asyncio
import signal
from typing import Final

import structlog

from wasmdrop.system import signals

_log = structlog.get_logger()

#: Signals that end the drain when they are repeated. SIGHUP is not one: the shell and the kernel
#: may both send it.
_REPEATED: Final = frozenset({signal.SIGTERM, signal.SIGINT})

#: How long repetitions count as the same request, in seconds: timeout(1) signals its command and
#: then its process group, and a terminal and a wrapper such as `uv run` both forward Ctrl-C.
_ONE_REQUEST_SECONDS: Final = 0.1


class Shutdown:
    """Shutdown requested by signals; a second SIGTERM or SIGINT, or SIGQUIT, skips the drain."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.now = asyncio.Event()
        self.reason = ""
        """The name of the first signal."""
        self._repeats_at = 0.0
        self._loop = asyncio.get_running_loop()
        for numbers, handle in (
            (signals.STOP, self._on_stop),
            (signals.STOP_AT_ONCE, self._on_stop_at_once),
            (signals.OTHERS, self._on_other),
        ):
            for number in numbers:
                is_ignored = signal.getsignal(number) is signal.SIG_IGN
                if not is_ignored or number in signals.NEVER_LEFT_IGNORED:
                    self._loop.add_signal_handler(number, handle, number)

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

    def _on_other(self, number: int) -> None:
        _log.warning("signal-ignored", signal=signals.name_of(number))

    def _ask(self, number: int) -> None:
        self.reason = self.reason or signals.name_of(number)
        self.asked.set()
