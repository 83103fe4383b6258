"""Remember which jobs their daemons revoked, and end their runs.

A daemon names its own jobs only: it is in the subject of the message, and the server lets no other
daemon send under that name.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from wasmdrop.fleet.messages import InvalidMessageError, JobMessage, Revocation, decode

#: How long a revoked job is remembered, in seconds. The daemon names it again every ten seconds
#: while it is in its stream.
_MEMORY_SECONDS: Final = 60.0

#: Most jobs that are remembered; beyond it, the oldest are forgotten until they are named again.
_MOST_REMEMBERED: Final = 10_000


class _Key(NamedTuple):
    daemon: str
    job_id: str


class Revocations:
    """The revoked jobs; used from one event loop. ``clock``: monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[_Key, float] = OrderedDict()
        """When each revoked job was last named, the oldest first."""
        self._runs: dict[asyncio.Task[Any], _Key] = {}

    def take(self, subject: str, data: bytes) -> None:
        """Take a message of a daemon; see :func:`~wasmdrop.fleet.names.revocation_subject`."""
        try:
            message = decode(data, Revocation)
        except InvalidMessageError:
            return
        now, daemon = self._clock(), subject.rpartition(".")[2]
        named = {_Key(daemon, job_id) for job_id in message.jobs}
        for key in named:
            self._known[key] = now
            self._known.move_to_end(key)
        while self._known:
            oldest = next(iter(self._known))
            is_old = now - self._known[oldest] > _MEMORY_SECONDS
            if not is_old and len(self._known) <= _MOST_REMEMBERED:
                break
            del self._known[oldest]
        for run, key in self._runs.items():
            if key in named:
                run.cancel()

    def has(self, message: JobMessage) -> bool:
        """Whether the daemon of a job has revoked it."""
        named_at = self._known.get(_Key(message.daemon, message.job))
        return named_at is not None and self._clock() - named_at <= _MEMORY_SECONDS

    @contextlib.contextmanager
    def ending(self, message: JobMessage, run: "asyncio.Task[Any]") -> Iterator[None]:
        """Cancel a run if its job is revoked during the block."""
        self._runs[run] = _Key(message.daemon, message.job)
        try:
            yield
        finally:
            del self._runs[run]
