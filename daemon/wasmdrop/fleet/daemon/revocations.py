"""Tell the workers which jobs of this daemon are over, so that none of them runs on for nothing.

A job that was cancelled, or that ended on this host, may still be in its stream or run on a worker.
The daemon sends its id to the workers of the pool. A worker that runs the job ends the run, one
that leases it later does not begin it, and both acknowledge it without an answer. Messages may be
lost and daemons may end, so the id is sent again while the job is in its stream. No state is on
disk.
"""

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Final

import structlog

from wasmdrop.fleet.daemon.cleanup import Cleanup
from wasmdrop.fleet.daemon.tickets import Tickets
from wasmdrop.fleet.messages import MAX_REVOKED, Revocation, encode
from wasmdrop.fleet.names import job_of_subject, revocation_subject
from wasmdrop.fleet.transport.connection import FleetConnection

_log = structlog.get_logger()

#: How long no left-over jobs are revoked after a second daemon with this name sent a message, in
#: seconds: the jobs may belong to the other daemon.
_TWIN_SECONDS: Final = 60.0


class Revocations:
    """Revokes jobs; used from one event loop. ``clock``: monotonic, in seconds."""

    def __init__(
        self,
        connection: FleetConnection,
        pool: str,
        daemon: str,
        tickets: Tickets,
        cleanup: Cleanup,
        clock: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._subject = revocation_subject(pool, daemon)
        self._tickets = tickets
        self._cleanup = cleanup
        self._clock = clock
        self._waiting: dict[str, None] = {}
        """The ids of jobs that are not sent to the workers yet."""
        self._has_waiting = asyncio.Event()
        self._suspects: set[str] = set()
        """The subjects that belonged to no open job at the last look."""
        self._known: set[str] = set()
        """The subjects among the suspects that were revoked."""
        self._paused_until = 0.0

    def revoke(self, job_id: str) -> None:
        """Tell the workers soon that a job is over."""
        self._waiting[job_id] = None
        self._has_waiting.set()

    def pause(self) -> None:
        """Revoke no left-over jobs for a while: they may belong to another daemon."""
        self._paused_until = self._clock() + _TWIN_SECONDS

    def look(self, there: set[str], is_open: Callable[[str], bool]) -> None:
        """Revoke the jobs that are in the stream, and not open, at two looks in a row.

        ``there``: the subjects of this daemon's jobs. ``is_open``: whether a job, by its id, owes
        its results. A job that has just been answered is in its stream for another moment.
        """
        if self._clock() < self._paused_until:
            self._suspects.clear()
            return
        over = {subject: found for subject in there if (found := job_of_subject(subject))}
        over = {subject: found for subject, found in over.items() if not is_open(found[0])}
        left = over.keys() & self._suspects
        for subject in left:
            job_id, attempt, generation = over[subject]
            self.revoke(job_id)
            if subject not in self._known:
                _log.info("fleet-job-revoked", job=job_id, attempt=attempt, generation=generation)
                self._cleanup.remove_call(self._tickets.ticket(job_id, attempt, generation))
        self._suspects, self._known = set(over), left

    async def check_right(self) -> None:
        """Send an empty revocation: a server that does not allow it says so, which is logged."""
        await self._connection.publish(self._subject, encode(Revocation(())))

    async def keep_sending(self) -> None:
        """Send revocations until cancelled. :meth:`look` finds the jobs of lost messages again."""
        while True:
            await self._has_waiting.wait()
            self._has_waiting.clear()
            while self._waiting:
                jobs = tuple(islice(self._waiting, MAX_REVOKED))
                for job_id in jobs:
                    del self._waiting[job_id]
                await self._connection.publish(self._subject, encode(Revocation(jobs)))
