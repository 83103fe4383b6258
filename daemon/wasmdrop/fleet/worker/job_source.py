"""Pull jobs: of the class that any worker may run, and of the worker's own class.

A worker asks for no more jobs than it has free slots: a job that waits here could run elsewhere.
The server looks at each waiting request when a job arrives, so one slot waits for a class, however
many are free. A class without jobs for a while is only asked at intervals, so that the slot that
would wait for it can wait for the other.
"""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import structlog

from wasmdrop.fleet.errors import FleetUnavailableError, NoAnswerError
from wasmdrop.fleet.transport.connection import FleetConnection, Lease

_log = structlog.get_logger()

#: How long a request waits for a job, in seconds.
_WAIT_SECONDS: Final = 0.5

#: Interval at which a class that has no jobs is asked, in seconds.
_QUIET_SECONDS: Final = 0.5

#: How long after its last job a slot waits for a class, in seconds.
_BUSY_SECONDS: Final = 60.0

#: How long a class is not asked after a request failed, in seconds: random, so that the workers do
#: not ask a restarted server all at once.
_PAUSE_SECONDS: Final = (0.5, 2.0)

#: A connected server that answers no request for so long will not answer any more, in seconds.
STUCK_SECONDS: Final = 60.0


class StuckError(Exception):
    """Requests for jobs are not answered any more, although the server is connected."""


class Pulled(NamedTuple):
    """A job that was received."""

    lease: Lease
    engine: str
    """The class whose consumer gave it."""


class _JobClass:
    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.waits = asyncio.Lock()
        """Held by the slot that waits for a job of it."""
        self.quiet_until = 0.0
        """It had no job or could not be asked, and is not asked before, except by that slot."""
        self.busy_until = 0.0
        """It had a job recently."""
        self.problem = ""


class JobSource:
    """Pulls jobs of a stream from the consumers of ``engines``; shared by all slots of a worker.

    The last of the classes is the one to wait for until there are jobs. ``clock``: a monotonic
    clock in seconds.
    """

    def __init__(
        self,
        connection: FleetConnection,
        stream: str,
        engines: tuple[str, ...],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._clock = clock
        self._classes = [_JobClass(engine) for engine in engines]
        """In the order in which slots ask them: the one that gave the last job is the last."""
        self._unanswered_since: float | None = None

    async def pull(self) -> Pulled:
        """Return the next job, however long that takes. Raises ``StuckError``."""
        while True:
            now = self._clock()
            for one in list(self._classes):
                if one.quiet_until <= now and (pulled := await self._ask(one, 0)) is not None:
                    return pulled
            one = self._to_wait_for()
            async with one.waits:
                if one.problem:
                    pause_seconds = random.uniform(*_PAUSE_SECONDS)  # noqa: S311 - no secret
                    await asyncio.sleep(pause_seconds)
                elif (pulled := await self._ask(one, _WAIT_SECONDS)) is not None:
                    return pulled

    def _to_wait_for(self) -> _JobClass:
        """Return the class that gave the last job, or another busy one for which no slot waits."""
        now = self._clock()
        usable = [one for one in self._classes if not one.problem] or self._classes
        busy = [one for one in usable if one.busy_until > now] or usable[-1:]
        free = [one for one in busy if not one.waits.locked()]
        return (free or busy)[-1]

    async def _ask(self, one: _JobClass, seconds: float) -> Pulled | None:
        begun = self._clock()
        try:
            lease = await self._connection.fetch(self._stream, one.engine, seconds)
        except FleetUnavailableError as error:
            self._on_failed(one, error, begun)
            return None
        now = self._clock()
        self._unanswered_since = None
        if one.problem:
            _log.info("pull-resumed", consumer=one.engine)
            one.problem = ""
        if lease is None:
            one.quiet_until = now + _QUIET_SECONDS
            return None
        one.quiet_until = 0.0
        one.busy_until = now + _BUSY_SECONDS
        self._classes.remove(one)
        self._classes.append(one)
        return Pulled(lease, one.engine)

    def _on_failed(self, one: _JobClass, error: FleetUnavailableError, begun: float) -> None:
        now = self._clock()
        one.quiet_until = now + _PAUSE_SECONDS[0]
        if not one.problem:
            _log.warning("pull-failed", consumer=one.engine, reason=str(error))
        one.problem = str(error)
        if not isinstance(error, NoAnswerError) or not self._connection.is_connected:
            self._unanswered_since = None
            return
        if self._unanswered_since is None:
            self._unanswered_since = begun
        if now - self._unanswered_since > STUCK_SECONDS:
            raise StuckError(
                f"no request for jobs was answered for {STUCK_SECONDS:g} s, although the server is"
                f" connected: {error}"
            )
