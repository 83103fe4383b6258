"""Compare the jobs that this daemon published with those that the fleet has.

The fleet may lose messages: with all its servers, in a crash without sync, by a forged
acknowledgement. A job that is neither in its stream nor answered is published again, and so is one
whose worker does not answer in time. Jobs that no worker asks for wait, and say so. Jobs that are
there, and over for this daemon, are revoked.
"""

import math
from collections.abc import Callable
from typing import Final

import structlog

from wasmdrop.fleet.bodies.modules import ModuleUploads
from wasmdrop.fleet.daemon.answers import Answers
from wasmdrop.fleet.daemon.metrics import Reason
from wasmdrop.fleet.daemon.publications import Lost, Publications, PublishedJob
from wasmdrop.fleet.daemon.revocations import Revocations
from wasmdrop.fleet.names import ANY_ENGINE, daemon_jobs_filter, job_stream
from wasmdrop.fleet.transport.connection import FleetConnection

_log = structlog.get_logger()

#: Time between two comparisons, in seconds.
PERIOD_SECONDS: Final = 10.0

#: A job counts as lost if so many comparisons in a row miss it: its answer may be on the way.
_MOST_MISSED: Final = 2

#: How long a job waits for a worker before that is explained, in seconds.
_PATIENCE_SECONDS: Final = 15.0


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
        revocations: Revocations,
        clock: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._pool = pool
        self._stream = job_stream(pool)
        self._filter = daemon_jobs_filter(pool, daemon)
        self._publications = publications
        self._answers = answers
        self._uploads = uploads
        self._revocations = revocations
        self._clock = clock

    async def compare(self) -> None:
        """Compare once. Raises ``FleetUnavailableError``."""
        published = [one for one in self._publications.unanswered() if one.subject]
        generations = {one.job_id: one.generation for one in published}
        there = await self._connection.subjects(self._stream, self._filter)
        self._revocations.look(there, self._answers.is_open)
        now = self._clock()
        for one in published:
            if one.is_over or one.generation != generations[one.job_id]:
                continue  # it went on while the servers were asked
            if one.subject in there:
                one.missed = 0
                since = one.delivered_at if one.begun_at is None else one.begun_at
                if since is not None and now - since > one.answer_seconds:
                    self._put_lost(one, Reason.OVERDUE)
            else:
                await self._note_missed(one)

        await self._look_at_waiting(published)

    async def _look_at_waiting(self, published: list[PublishedJob]) -> None:
        """Say which jobs wait because no worker asks for jobs of their class; find the others.

        A worker that was taken over can keep a job for years: the server delivers it again when
        the worker asks for that.
        """
        since = self._clock() - _PATIENCE_SECONDS
        waiting = [
            one
            for one in published
            if not one.is_over and one.begun_at is None and one.sent_at < since
        ]
        for engine in {one.engine for one in waiting}:
            found = await self._connection.api(f"CONSUMER.INFO.{self._stream}.{engine}")
            # A worker waits for jobs, or has some.
            is_unserved = not found.get("num_waiting") and not found.get("num_ack_pending")
            # Jobs are delivered in order.
            begun = [
                one.sent_at
                for one in published
                if one.engine == engine and one.begun_at is not None
            ]
            last_delivered = max(begun, default=-math.inf) if found.get("num_pending") else math.inf
            for one in waiting:
                is_waiting = one.subject and one.sent_at < since and not one.is_over
                if one.engine != engine or not is_waiting:
                    continue  # it went on while the servers were asked
                if one.delivered_at is None and one.sent_at < last_delivered:
                    one.delivered_at = self._clock()
                if one.is_unserved != is_unserved:
                    one.is_unserved = is_unserved
                    one.explain(self._why_waiting(engine) if is_unserved else "is in the fleet")

    def _why_waiting(self, engine: str) -> str:
        jobs = "jobs" if engine == ANY_ENGINE else f"deterministic jobs of class {engine}"
        return f"waits for a worker: none of pool {self._pool} takes {jobs} now"

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
        one.begun_at = one.delivered_at = None
        _log.warning(
            "fleet-job-lost",
            job=one.job_id,
            attempt=one.attempt,
            generation=one.generation,
            reason=reason,
        )
        one.put(Lost(one.generation, reason))
