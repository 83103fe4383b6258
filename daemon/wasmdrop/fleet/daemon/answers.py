"""Answers from workers: which job each belongs to, and when it is acknowledged.

An answer is accepted if its ticket is that of the job, the attempt and the generation that it
names, and the job is open under that attempt. It is acknowledged when the results of the job are in
place or kept durably; until then it is delivered again, to a later daemon, too.
"""

import math
from collections.abc import Callable
from typing import Final

import structlog

from wasmdrop.fleet.bodies.invalid_answers import Flaw
from wasmdrop.fleet.daemon.cleanup import Cleanup
from wasmdrop.fleet.daemon.metrics import FleetMetrics, Verdict
from wasmdrop.fleet.daemon.publications import Answered, Invalid, Publications, PublishedJob
from wasmdrop.fleet.daemon.tickets import Tickets
from wasmdrop.fleet.messages import Answer, InvalidMessageError, Started, decode
from wasmdrop.fleet.names import outcome_stream, outcome_subject
from wasmdrop.fleet.transport.connection import FleetConnection, Lease
from wasmdrop.protocol.text import one_line

_log = structlog.get_logger()

#: Characters of a stranger's text that a log line shows.
_SHOWN: Final = 200

#: Time between two log lines about answers with wrong tickets, in seconds.
_LOG_SECONDS: Final = 60.0


class Answers:
    """Hands answers to the publications they belong to; used from one event loop."""

    def __init__(
        self,
        connection: FleetConnection,
        daemon: str,
        tickets: Tickets,
        publications: Publications,
        cleanup: Cleanup,
        metrics: FleetMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._daemon = daemon
        self._tickets = tickets
        self._publications = publications
        self._cleanup = cleanup
        self._metrics = metrics
        self._clock = clock
        self._unlogged = 0
        self._log_at = -math.inf
        self.is_open: Callable[[str], bool] = lambda _job_id: True
        """Whether a job, by its id, owes its results."""

    def take(self, lease: Lease) -> None:
        """Take an answer that was delivered."""
        ticket = lease.subject.rpartition(".")[2]
        publication = self._publications.of_ticket(ticket)
        try:
            answer = decode(lease.data, Answer)
        except InvalidMessageError as error:
            if publication is None or publication.is_over:
                self._drop(lease, Verdict.UNKNOWN)
            else:
                why = f"it does not decode: {error}"
                publication.put(Invalid(ticket, Flaw.MALFORMED, why, lease))
            return
        if not self._tickets.is_valid(ticket, answer.job, answer.attempt, answer.generation):
            if publication is None or publication.is_over:
                self._warn_of_unknown(answer, ticket)
                self._drop(lease, Verdict.UNKNOWN)
            else:
                publication.put(Invalid(ticket, Flaw.VALUE, "it names another job", lease))
            return
        publication = self._publications.of_job(answer.job)
        if publication is None:
            if not self.is_open(answer.job):
                self._metrics.answers[Verdict.LATE] += 1
                self._cleanup.forget_late(ticket, lease)
            # Otherwise its attempt is yet to be resumed, and looks for the answer.
            return
        if publication.accepted == ticket:
            publication.lease = lease  # delivered again before the results are safe
        elif publication.is_over or publication.attempt != answer.attempt:
            self._drop(lease, Verdict.LATE)
        else:
            publication.put(Answered(ticket, answer, lease))

    async def waiting_answer(self, publication: PublishedJob, ticket: str) -> Answered | None:
        """Return the answer to a generation that is in the stream already, if it is valid.

        Raises ``FleetUnavailableError``.
        """
        stream, subject = outcome_stream(self._daemon), outcome_subject(self._daemon, ticket)
        data = await self._connection.get(stream, subject)
        if data is None:
            return None
        try:
            answer = decode(data, Answer)
        except InvalidMessageError:
            return None  # it is judged when it is delivered
        if (answer.job, answer.attempt) != (publication.job_id, publication.attempt):
            return None
        if not self._tickets.is_valid(ticket, answer.job, answer.attempt, answer.generation):
            return None
        return Answered(ticket, answer)

    def take_started(self, data: bytes) -> None:
        """Take the message of a worker that begins a job."""
        try:
            started = decode(data, Started)
        except InvalidMessageError:
            return
        publication = self._publications.of_ticket(started.ticket)
        if publication is None or publication.is_over:
            return
        publication.begun += 1
        if publication.begun_at is None and started.ticket == publication.tickets[-1]:
            publication.begun_at = self._clock()

    def drop_others(self, publication: PublishedJob) -> None:
        """Drop the answers that came too late to be judged."""
        for event in publication.take_events():
            if isinstance(event, Answered | Invalid) and event.lease is not None:
                if event.ticket == publication.accepted:
                    publication.lease = event.lease
                else:
                    self._drop(event.lease, Verdict.LATE)

    def _warn_of_unknown(self, answer: Answer, ticket: str) -> None:
        """Log an answer with a wrong ticket: now and then, since a worker can send any number."""
        self._unlogged += 1
        if self._clock() < self._log_at:
            return
        _log.warning(
            "fleet-answer-unknown",
            worker=answer.worker,
            job=answer.job,
            ticket=one_line(ticket, _SHOWN),
            count=self._unlogged,
        )
        self._unlogged = 0
        self._log_at = self._clock() + _LOG_SECONDS

    def _drop(self, lease: Lease, verdict: Verdict) -> None:
        self._metrics.answers[verdict] += 1
        self._cleanup.acknowledge(lease)
