"""Run one attempt of a job on another machine: publish it until an answer is accepted.

The states of an attempt, by what its task waits for:

- *unpublished*: for the servers to take it;
- *published*: for an answer, or for the news that it was lost;
- *here, too*: the servers are away, and the job also runs on this machine. The first outcome wins.
"""

import asyncio
import math
import random
from typing import Final

import msgspec
import structlog

from wasmdrop.fleet.bodies.call_codec import NotPortableError
from wasmdrop.fleet.bodies.chunks import StreamFullError
from wasmdrop.fleet.bodies.invalid_answers import Flaw, InvalidAnswerError
from wasmdrop.fleet.bodies.outcome_codec import max_outcome_bytes
from wasmdrop.fleet.bodies.transfers import Publication, receive_results, send_call, size_of
from wasmdrop.fleet.daemon.availability import AWAY_SECONDS
from wasmdrop.fleet.daemon.metrics import Reason, Verdict
from wasmdrop.fleet.daemon.publications import (
    Answered,
    Away,
    Event,
    Invalid,
    Lost,
    PublishedJob,
    RanHere,
)
from wasmdrop.fleet.daemon.remote_job import Fleet, RemoteJob
from wasmdrop.fleet.errors import FleetUnavailableError
from wasmdrop.fleet.messages import Blob, GivenUp, JobMessage, Ran, Returned, encode
from wasmdrop.fleet.names import job_subject
from wasmdrop.fleet.transport.connection import Stored
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.text import one_line

_log = structlog.get_logger()

#: Answers that were not valid, and givings-up, after which an attempt ends.
_MOST_INVALID: Final = 3
_MOST_GIVEN_UP: Final = 3

#: Returns after which a job also runs on this machine, if it may.
_MOST_RETURNED: Final = 8

#: Pauses before the next generation, in seconds: the first one, and the longest.
_FIRST_PAUSE_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 30.0
_MOST_DOUBLINGS: Final = 8


class RemoteRun:
    """One attempt in the fleet."""

    def __init__(self, fleet: Fleet, job: RemoteJob) -> None:
        self._fleet = fleet
        self._job = job
        self._publication = PublishedJob(
            job.attempt.job_id, job.attempt.number, job.engine, job.explain
        )
        self._here: asyncio.Task[Outcome] | None = None
        self._invalid = self._given_up = self._returned = 0
        self._note = ""

    @property
    def runs_here(self) -> bool:
        """Whether the job also runs on this machine."""
        return self._here is not None

    async def outcome(self) -> Outcome:
        """Run the job to its outcome. Raises ``SandboxError`` if it failed on this machine."""
        fleet, publication = self._fleet, self._publication
        earlier = fleet.publications.remove(publication.job_id)
        if earlier is not None:
            fleet.cleanup.forget(earlier)  # the attempt before this one has ended
        if self._job.attempt.is_resumed:
            # An earlier daemon may have sent more than this one knows.
            publication.has_large_call = publication.has_large_answer = True
        else:
            publication.published_at = fleet.clock()
        publication.answer_seconds = self._job.limits.timeout_sec + fleet.slack_seconds
        fleet.publications.add(publication)
        self._add_ticket()
        fleet.metrics.unanswered += 1
        try:
            outcome = await self._until_outcome()
        except asyncio.CancelledError:
            if publication.is_cancelled:
                fleet.answers.drop_others(publication)
            else:
                # Its answer is left to the next daemon.
                fleet.publications.remove(publication.job_id)
            raise
        finally:
            fleet.metrics.unanswered -= 1
            publication.is_over = True
            if self._here is not None and not self._here.done():
                self._here.cancel()
                await asyncio.wait([self._here])
        fleet.answers.drop_others(publication)
        return outcome

    async def _until_outcome(self) -> Outcome:
        publication = self._publication
        reason = Reason.NEW
        if self._job.attempt.is_resumed:
            reason = Reason.RESUMED
            await self._look_for_answer()
        while True:
            if not publication.subject and not publication.has_event and self._here is None:
                await self._publish(reason)
            event = await publication.next_event()
            result = await self._handle(event)
            if isinstance(result, Outcome):
                return result
            if result is not None:
                reason = result
                publication.next_generation()
                self._add_ticket()

    def _add_ticket(self) -> None:
        publication = self._publication
        ticket = self._fleet.tickets.ticket(
            publication.job_id, publication.attempt, publication.generation
        )
        self._fleet.publications.add_ticket(publication, ticket)

    # Publishing

    async def _look_for_answer(self) -> None:
        """Take the answer that came while no daemon ran, if there is one."""
        publication = self._publication
        try:
            found = await self._fleet.answers.waiting_answer(publication, publication.tickets[-1])
        except FleetUnavailableError:
            return  # the job is published, which is refused if it is there, and answered once
        if found is not None:
            publication.put(found)

    async def _publish(self, reason: Reason) -> None:
        """Publish the current generation; return early if something happened to the job."""
        fleet, publication, explain = self._fleet, self._publication, self._explain
        while not publication.has_event:
            began = fleet.clock()
            try:
                stored = await self._store()
            except NotPortableError:
                publication.put(Away())
                return
            except FleetUnavailableError as error:
                fleet.availability.note_failure(began)
                if fleet.availability.is_away and fleet.runs_here:
                    publication.put(Away())
                    return
                explain(f"waits for the fleet, which does not answer: {one_line(str(error))}")
            else:
                fleet.availability.note_success()
                if stored is not Stored.FULL:
                    fleet.metrics.published[reason] += 1
                    return
                explain("waits for the fleet, whose store is full")
            await fleet.availability.turn()

    async def _store(self) -> Stored:
        fleet, job, publication = self._fleet, self._job, self._publication
        connection, ticket = fleet.connection, publication.tickets[-1]
        names = Publication(fleet.pool, fleet.daemon, ticket)
        try:
            module = await fleet.uploads.ensure(job.module.sha256)
            call = await send_call(connection, names, job.call)
        except StreamFullError:
            return Stored.FULL
        publication.has_large_call |= isinstance(call, Blob)
        key = publication.job_id, publication.attempt, publication.generation
        message = JobMessage(
            *(fleet.daemon, *key, ticket, module, job.module.options, job.limits, call),
            job.attempts,
        )
        subject = job_subject(fleet.pool, job.engine, fleet.daemon, *key)
        stored = await connection.store(
            subject,
            encode(message),
            message_id="{}.{}.{}".format(*key),
            seconds=AWAY_SECONDS,
        )
        if stored is not Stored.FULL:
            publication.subject = subject
            publication.sent_at = fleet.clock()
        return stored

    # Events

    async def _handle(self, event: Event) -> Outcome | Reason | None:
        """Return the outcome, or why to publish the next generation, or None to wait on."""
        publication = self._publication
        if isinstance(event, RanHere):
            assert self._here is not None  # noqa: S101 - its end is the event
            return self._here.result()
        if isinstance(event, Away):
            self._run_here()
            return None
        if isinstance(event, Lost):
            return event.reason if event.generation == publication.generation else None
        if event.ticket in publication.judged:
            self._acknowledge(event)  # it was found in the stream, and then delivered
            return None
        publication.judged.add(event.ticket)
        result: Outcome | Reason | None
        if isinstance(event, Invalid):
            result = self._invalid_answer(event, event.flaw, event.why)
        elif isinstance(event.answer.content, Ran):
            result = await self._ran(event, event.answer.content)
        elif isinstance(event.answer.content, Returned):
            result = self._was_returned(event, event.answer.content)
        else:
            result = self._was_given_up(event, event.answer.content)
        if not isinstance(result, Reason):
            return result
        self._acknowledge(event)
        # A worker that found no room has filled what there was.
        self._fleet.cleanup.remove_results(event.ticket)
        if event.ticket != publication.tickets[-1]:
            return None  # a later generation is in the fleet already
        await self._pause()
        return result

    async def _ran(self, event: Answered, content: Ran) -> Outcome | Reason | None:
        fleet, publication = self._fleet, self._publication
        bodies = (content.outcome, content.output and content.output.body)
        publication.has_large_answer |= any(isinstance(body, Blob) for body in bodies)
        elapsed_seconds = math.inf
        if publication.published_at is not None:
            elapsed_seconds = fleet.clock() - publication.published_at
        try:
            outcome = await self._receive(event, content, elapsed_seconds)
        except FleetUnavailableError:
            await fleet.availability.turn()
            publication.judged.discard(event.ticket)
            publication.put(event)
            return None
        except InvalidAnswerError as error:
            why = f"worker {event.answer.worker}: {error}"
            return self._invalid_answer(event, error.flaw, why)
        fleet.metrics.answers[Verdict.RAN] += 1
        if publication.published_at is not None:
            fleet.metrics.answered += 1
            fleet.metrics.answer_seconds += elapsed_seconds
        publication.accept(event)
        return msgspec.structs.replace(outcome, worker=event.answer.worker)

    async def _receive(self, event: Answered, content: Ran, elapsed_seconds: float) -> Outcome:
        """Return the outcome of an answer; a large one has room until the job leaves."""
        fleet, job = self._fleet, self._job
        output = content.output
        room = await fleet.room.reserve(
            min(size_of(content.outcome), max_outcome_bytes(job.call, job.limits)),
            0 if output is None else min(size_of(output.body), job.limits.disk_bytes),
            has_values=job.call.component is not None,
        )
        try:
            outcome = await receive_results(
                fleet.connection,
                Publication(fleet.pool, fleet.daemon, event.ticket),
                content,
                job.module.summary,
                job.call,
                job.limits,
                fleet.local.directories,
                deterministic=job.module.options.deterministic,
                elapsed_seconds=elapsed_seconds,
            )
        except BaseException:
            room.close()
            raise
        self._publication.room = room
        return outcome

    def _was_returned(self, event: Answered, content: Returned) -> Reason:
        fleet, job = self._fleet, self._job
        fleet.metrics.answers[Verdict.RETURNED] += 1
        self._returned += 1
        if content.needs_module:
            fleet.uploads.forget(job.module.sha256)
        self._explain(f"returned by worker {event.answer.worker}: {one_line(content.reason)}")
        if self._returned >= _MOST_RETURNED and fleet.runs_here:
            self._publication.put(Away())
        return Reason.RETURNED

    def _was_given_up(self, event: Answered, content: GivenUp) -> Outcome | Reason:
        """End the attempt if workers died on the job; not if only their connections did."""
        attempts, publication = self._job.attempts, self._publication
        self._fleet.metrics.answers[Verdict.GIVEN_UP] += 1
        self._given_up += 1
        if publication.begun < attempts and self._given_up < _MOST_GIVEN_UP:
            return Reason.GIVEN_UP
        publication.accept(event)
        return Outcome(
            code=Code.CRASHED,
            message=f"given up: workers of the fleet took the job {content.deliveries} times, and"
            " none of them answered; they died while they ran it",
            attempts=attempts,
        )

    def _invalid_answer(self, event: Answered | Invalid, flaw: Flaw, why: str) -> Outcome | Reason:
        publication = self._publication
        self._fleet.metrics.answers[Verdict.INVALID] += 1
        self._invalid += 1
        why = one_line(why)
        _log.warning(
            "fleet-answer-invalid",
            job=publication.job_id,
            attempt=publication.attempt,
            flaw=flaw,
            reason=why,
        )
        if self._invalid < _MOST_INVALID:
            self._explain(f"published again, because an answer was not valid: {why}")
            return Reason.INVALID
        publication.accept(event)
        return Outcome(
            code=Code.INTERNAL,
            message=f"the fleet sent {self._invalid} answers that are not valid; the last: {why}",
        )

    def _acknowledge(self, event: Answered | Invalid) -> None:
        if event.lease is not None:
            self._fleet.cleanup.acknowledge(event.lease)

    def _explain(self, note: str) -> None:
        """Say why the job waits, once for each reason."""
        if note != self._note:
            self._note = note
            self._job.explain(note)

    async def _pause(self) -> None:
        count = min(self._publication.generation, _MOST_DOUBLINGS)
        pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**count)
        await self._fleet.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - spreads load

    # This machine

    def _run_here(self) -> None:
        """Run the job on this machine, too, unless it does already."""
        if self._here is None:
            self._here = asyncio.create_task(self._local_run())
            self._here.add_done_callback(lambda _: self._publication.put(RanHere()))

    async def _local_run(self) -> Outcome:
        job = self._job
        async with self._fleet.local.slot(job.module, job.call, job.attempt, job.explain) as slot:
            self._fleet.metrics.fallback_runs += 1
            return await slot.run(job.module, job.call, job.limits)
