"""Pull jobs: of the class that any worker may run, and of the worker's own class.

The server looks at each waiting pull request when a job arrives, so a worker has one for each class
at most, however many slots are free. Slots that find jobs ask for the next one themselves; the
waiting requests are for slots that found none.
"""

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import structlog

from wasmdrop.fleet.connection import FleetConnection, Lease
from wasmdrop.fleet.errors import FleetUnavailableError, NoAnswerError

_log = structlog.get_logger()

#: How long a pull request waits for a job, in seconds.
_WAIT_SECONDS: Final = 1.0

#: How long a class that had no job is asked by its waiting request only, in seconds.
_EMPTY_SECONDS: Final = 0.25

#: How long a job that arrives when all slots have one waits for a slot, in seconds. Another worker
#: has it then.
_HOLD_SECONDS: Final = 0.05

#: How long a class is not asked after a pull request failed, in seconds: random, so that the
#: workers do not ask a restarted server all at once.
_PAUSE_SECONDS: Final = (0.5, 2.0)

#: A connected server that answers no pull request for so long will not answer any more, in seconds.
STUCK_SECONDS: Final = 60.0


class StuckError(Exception):
    """Pull requests are not answered any more, although the server is connected."""


class Pulled(NamedTuple):
    """A job that was received."""

    lease: Lease
    engine: str
    """The class whose consumer gave it."""


class _JobClass:
    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.quiet_until = 0.0
        """It had no job or could not be asked, and slots do not ask it before."""
        self.problem = ""


class JobSource:
    """Pulls jobs of a stream from the consumers of ``engines``; shared by all slots of a worker.

    ``clock``: a monotonic clock in seconds.
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
        self._waiters: deque[asyncio.Future[Pulled]] = deque()
        """Free slots that found no job."""
        self._wanted = asyncio.Event()
        """Set while there are waiters."""
        self._unanswered_since: float | None = None

    async def run(self) -> None:
        """Send the requests that wait, until cancelled. Raises ``StuckError``."""
        await asyncio.gather(*map(self._wait_for, list(self._classes)))

    async def pull(self) -> Pulled:
        """Return the next job, however long that takes."""
        now = self._clock()
        for one in list(self._classes):
            if one.quiet_until <= now:
                pulled = await self._ask(one, 0)
                if pulled is not None:
                    return pulled
        waiter: asyncio.Future[Pulled] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wanted.set()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                await waiter.result().lease.give_back()
            raise

    async def _wait_for(self, one: _JobClass) -> None:
        while True:
            await self._wanted.wait()
            pulled = await self._ask(one, _WAIT_SECONDS)
            if pulled is not None:
                await self._hand_over(pulled)
            elif one.problem:
                await asyncio.sleep(random.uniform(*_PAUSE_SECONDS))  # noqa: S311 - no secret

    async def _hand_over(self, pulled: Pulled) -> None:
        """Give a job to a slot, or back to the server."""
        waiter = self._next_waiter()
        if waiter is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HOLD_SECONDS):
                    await self._wanted.wait()
            waiter = self._next_waiter()
        if waiter is None:
            await pulled.lease.give_back()
        else:
            waiter.set_result(pulled)

    def _next_waiter(self) -> "asyncio.Future[Pulled] | None":
        found = None
        while self._waiters and found is None:
            waiter = self._waiters.popleft()
            found = None if waiter.done() else waiter
        if not self._waiters:
            self._wanted.clear()
        return found

    async def _ask(self, one: _JobClass, seconds: float) -> Pulled | None:
        begun = self._clock()
        try:
            lease = await self._connection.fetch(self._stream, one.engine, seconds)
        except FleetUnavailableError as error:
            self._on_failed(one, error, begun)
            return None
        self._unanswered_since = None
        if one.problem:
            _log.info("pull-resumed", consumer=one.engine)
            one.problem = ""
        if lease is None:
            one.quiet_until = self._clock() + _EMPTY_SECONDS
            return None
        one.quiet_until = 0.0
        self._classes.remove(one)
        self._classes.append(one)
        return Pulled(lease, one.engine)

    def _on_failed(self, one: _JobClass, error: FleetUnavailableError, begun: float) -> None:
        now = self._clock()
        one.quiet_until = now + _PAUSE_SECONDS[1]
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
                f"no pull request was answered for {STUCK_SECONDS:g} s, although the server is"
                f" connected: {error}"
            )
