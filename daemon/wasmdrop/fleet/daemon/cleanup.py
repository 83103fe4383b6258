"""Tidy up after answered jobs: acknowledge their answers, remove their chunks.

All of it may fail, and nothing waits for it: an answer that is not acknowledged is delivered again,
and acknowledged then; chunks expire.
"""

import asyncio
from collections import deque
from typing import Final

import structlog

from wasmdrop.fleet.daemon.publications import PublishedJob
from wasmdrop.fleet.errors import FleetUnavailableError
from wasmdrop.fleet.names import (
    input_chunks_filter,
    input_stream,
    output_chunks_filter,
    output_stream,
)
from wasmdrop.fleet.transport.connection import FleetConnection, Lease

_log = structlog.get_logger()

#: Requests that wait while the connection is slow; of more, the oldest are dropped.
_MOST_WAITING: Final = 100_000


class Cleanup:
    """A queue of acknowledgements and removals; used from one event loop."""

    def __init__(self, connection: FleetConnection, daemon: str) -> None:
        self._connection = connection
        self._daemon = daemon
        self._leases: deque[Lease] = deque(maxlen=_MOST_WAITING)
        self._purges: deque[tuple[str, str]] = deque(maxlen=_MOST_WAITING)
        self._has_leases = asyncio.Event()
        self._has_purges = asyncio.Event()

    def acknowledge(self, lease: Lease) -> None:
        """Acknowledge an answer soon."""
        self._leases.append(lease)
        self._has_leases.set()

    def forget(self, job: PublishedJob) -> None:
        """Tidy up after an attempt whose results are safe, or which is repeated.

        A worker that died may have left chunks that no answer names.
        """
        for ticket in job.tickets:
            if job.has_large_call:
                self.remove_call(ticket)
            is_partial = job.is_cancelled or job.begun > 1 or len(job.tickets) > 1
            if job.has_large_answer or is_partial:
                self.remove_results(ticket)
        if job.lease is not None:
            self.acknowledge(job.lease)

    def forget_late(self, ticket: str, lease: Lease) -> None:
        """Tidy up after an answer that came too late; ``ticket``: its ticket, which is valid.

        The daemon that took the first answer may have died before it removed anything.
        """
        self.remove_call(ticket)
        self.remove_results(ticket)
        self.acknowledge(lease)

    def remove_call(self, ticket: str) -> None:
        """Remove the large call of a publication that no worker is to run."""
        self._purge(input_stream(self._daemon), input_chunks_filter(self._daemon, ticket))

    def remove_results(self, ticket: str) -> None:
        """Remove what workers stored under a ticket whose answer was judged."""
        self._purge(output_stream(self._daemon), output_chunks_filter(self._daemon, ticket))

    def _purge(self, stream: str, subjects_filter: str) -> None:
        self._purges.append((stream, subjects_filter))
        self._has_purges.set()

    async def keep_acknowledging(self) -> None:
        """Acknowledge until cancelled."""
        while True:
            await self._has_leases.wait()
            self._has_leases.clear()
            await self.flush()

    async def keep_purging(self) -> None:
        """Remove chunks until cancelled. What can't be removed expires."""
        while True:
            await self._has_purges.wait()
            self._has_purges.clear()
            while self._purges:
                stream, subjects_filter = self._purges.popleft()
                try:
                    await self._connection.purge(stream, subjects_filter)
                except FleetUnavailableError as error:
                    _log.debug("fleet-cleanup-failed", reason=str(error))

    async def flush(self) -> None:
        """Acknowledge all answers that wait for it. Best effort."""
        while self._leases:
            await self._leases.popleft().ack()
