"""Compare the jobs that this daemon published with those that the fleet has.

The fleet may lose messages: with all its servers, in a crash without sync, by a forged
acknowledgement. A job that is neither in its stream nor answered is published again, and so is one
whose worker does not answer in time.
"""

from collections.abc import Callable
from typing import Final

import structlog

from wasmdrop.fleet.answers import Answers
from wasmdrop.fleet.connection import FleetConnection
from wasmdrop.fleet.metrics import Reason
from wasmdrop.fleet.modules import ModuleUploads
from wasmdrop.fleet.names import daemon_jobs_filter, job_stream
from wasmdrop.fleet.publications import Lost, Publications, PublishedJob

_log = structlog.get_logger()

#: Time between two comparisons, in seconds.
PERIOD_SECONDS: Final = 10.0

#: A job counts as lost if so many comparisons in a row miss it: its answer may be on the way.
_MOST_MISSED: Final = 2


class Reconciler:
    """Compares; used from one event loop."""

    def __init__(
        self,
        connection: FleetConnection,
        pool: str,
        daemon: str,
        publications: Publications,
        answers: Answers,
        uploads: ModuleUploads,
        clock: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._stream = job_stream(pool)
        self._filter = daemon_jobs_filter(pool, daemon)
        self._publications = publications
        self._answers = answers
        self._uploads = uploads
        self._clock = clock

    async def compare(self) -> None:
        """Compare once. Raises ``FleetUnavailableError``."""
        published = [one for one in self._publications.unanswered() if one.subject]
        generations = {one.job_id: one.generation for one in published}
        there = await self._connection.subjects(self._stream, self._filter)
        now = self._clock()
        for one in published:
            if one.is_over or one.generation != generations[one.job_id]:
                continue  # it went on while the servers were asked
            if one.subject in there:
                one.missed = 0
                if one.begun_at is not None and now - one.begun_at > one.answer_seconds:
                    self._put_lost(one, Reason.OVERDUE)
            else:
                await self._note_missed(one)

    async def _note_missed(self, one: PublishedJob) -> None:
        one.missed += 1
        if one.missed < _MOST_MISSED:
            return
        generation, ticket = one.generation, one.tickets[-1]
        answered = await self._answers.waiting_answer(one, ticket)
        if one.is_over or one.generation != generation:
            return
        if answered is not None:
            # It should have been delivered. Do not depend on that.
            one.put(answered)
        else:
            self._uploads.forget_all()  # they may be lost, too
            self._put_lost(one, Reason.LOST)

    def _put_lost(self, one: PublishedJob, reason: Reason) -> None:
        one.missed = 0
        one.begun_at = None
        _log.warning(
            "fleet-job-lost",
            job=one.job_id,
            attempt=one.attempt,
            generation=one.generation,
            reason=reason,
        )
        one.put(Lost(one.generation, reason))
