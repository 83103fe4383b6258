"""Store the answer to a job, then acknowledge the job.

In this order: a worker that ends in between leaves a job that is delivered again, never one that is
gone without an answer.
"""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final

import structlog

from wasmdrop.fleet.errors import FleetUnavailableError
from wasmdrop.fleet.messages import Answer, JobMessage, encode
from wasmdrop.fleet.names import outcome_subject
from wasmdrop.fleet.transport.connection import FleetConnection, Lease, Stored

_log = structlog.get_logger()

#: Pauses between attempts, in seconds; each one is random up to twice the one before.
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 5.0

#: Time for one attempt, in seconds: a cluster may need 4 to 8 s for a new leader.
_STORE_SECONDS: Final = 5.0

#: How long a connected server may refuse an answer before the worker gives it up, in seconds. The
#: job is in the stream still, so another worker runs it again.
REFUSED_SECONDS: Final = 600.0


class AnswerSender:
    """Stores answers. ``clock``: a monotonic clock in seconds."""

    def __init__(
        self, connection: FleetConnection, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connection = connection
        self._clock = clock

    async def send(self, lease: Lease, message: JobMessage, answer: Answer) -> Stored:
        """Store an answer, and acknowledge its job unless the answer was refused for too long.

        Waits while the server is away, and while the stream is full: the slot of the job then takes
        no other. Returns ``OCCUPIED`` if another worker has answered, ``FULL`` if the answer was
        given up.
        """
        data = encode(answer)
        subject = outcome_subject(message.daemon, message.ticket)
        pause_seconds = _FIRST_PAUSE_SECONDS
        refused_since: float | None = None
        has_warned = False
        while True:
            try:
                stored = await self._connection.store(subject, data, seconds=_STORE_SECONDS)
                reason = "the stream of outcomes is full"
            except FleetUnavailableError as error:
                stored, reason = Stored.FULL, str(error)
            if stored is not Stored.FULL:
                break
            if not has_warned:
                has_warned = True
                _log.warning("answer-delayed", job=message.job, reason=reason)
            now = self._clock()
            if not self._connection.is_connected:
                refused_since = None
            elif refused_since is None:
                refused_since = now
            elif now - refused_since > REFUSED_SECONDS:
                _log.error("answer-given-up", job=message.job, reason=reason)
                return stored
            await asyncio.sleep(pause_seconds * random.uniform(0.5, 1))  # noqa: S311 - no secret
            pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)
        # If this is lost, the job is delivered again: to run it twice is harmless.
        await lease.ack()
        return stored
