"""The worker: takes a job for each free slot, runs it, answers, and takes the next.

A slot is free again when its job has run; the answer is sent meanwhile. There are as many unsent
answers as slots at most, so that a fleet with no room for answers gets no new ones.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import structlog

from wasmdrop.fleet.bodies.chunks import StreamFullError
from wasmdrop.fleet.bodies.output_files import remove_output
from wasmdrop.fleet.bodies.transfers import Publication, send_results
from wasmdrop.fleet.errors import FleetUnavailableError
from wasmdrop.fleet.messages import Answer, GivenUp, InvalidMessageError, JobMessage, Ran, Returned
from wasmdrop.fleet.names import revocation_subject
from wasmdrop.fleet.transport.connection import FleetConnection, Stored
from wasmdrop.fleet.worker.answer_sender import AnswerSender
from wasmdrop.fleet.worker.counters import Stage, Verdict, WorkerCounters
from wasmdrop.fleet.worker.job_request import UnfitJobError, read_request
from wasmdrop.fleet.worker.job_run import Executed, JobRun, RunFailedError
from wasmdrop.fleet.worker.job_source import JobSource, Pulled
from wasmdrop.fleet.worker.leases import HeldLease, LeaseKeeper
from wasmdrop.fleet.worker.revocations import Revocations
from wasmdrop.fleet.worker.sandbox_health import SandboxHealth
from wasmdrop.protocol.errors import SandboxError
from wasmdrop.protocol.outcome import Code, Outcome, OutputTree
from wasmdrop.protocol.text import one_line
from wasmdrop.settings import Settings

_log = structlog.get_logger()

#: A lease is extended for the time limits of its job and so much more, in seconds: for downloads,
#: uploads and a busy machine.
_EXTRA_SECONDS: Final = 60.0

#: Time for the answers after the end of the drain, in seconds.
_LAST_SECONDS: Final = 5.0

#: Pause of a slot after it had to return a job, in seconds; doubled with each job in a row.
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 10.0
_MAX_DOUBLINGS: Final = 10

#: Interval at which a worker that takes no jobs looks whether it may again, in seconds.
_LOOK_SECONDS: Final = 0.25

_MAX_REASON: Final = 1000

#: How long a connected server may refuse large parts of an answer, in seconds.
_STORE_SECONDS: Final = 300.0
_RETRY_SECONDS: Final = 1.0

_STOPS: Final = "the worker stops"

_Content = Executed | Returned | GivenUp


class Worker:
    """Takes jobs and answers them, until it is stopped. Used from one event loop."""

    def __init__(
        self,
        connection: FleetConnection,
        source: JobSource,
        job_run: JobRun,
        health: SandboxHealth,
        settings: Settings,
        counters: WorkerCounters,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.why_paused = ""
        """Why no job is taken for now; set from any thread."""
        self._connection = connection
        self._source = source
        self._job_run = job_run
        self._health = health
        self._settings = settings
        self._counters = counters
        self._clock = clock
        self._leases = LeaseKeeper(clock)
        self._revocations = Revocations(clock)
        self._sender = AnswerSender(connection, clock)
        self._turn = asyncio.Lock()
        """Held while large results are stored."""
        self._room = asyncio.Semaphore(settings.workers)
        """Room for unsent answers."""
        self._is_stopping = False
        self._idle: set[asyncio.Task[None]] = set()
        """Slots without a job."""
        self._runs: set[asyncio.Task[Executed]] = set()
        self._answers: set[asyncio.Task[None]] = set()
        self._returned_in_row = 0

    async def run(self, stop: asyncio.Event, now: asyncio.Event) -> None:
        """Take jobs until ``stop`` is set; then give those in hand their time, unless ``now`` is.

        Raises ``SandboxError`` if the worker is of no use any more: its sandbox stays broken, or
        its connection is stuck.
        """
        revocations = revocation_subject(self._settings.fleet_pool, "*")
        await self._connection.subscribe(revocations, self._revocations.take)
        keeping = asyncio.create_task(self._leases.run())
        slots = {asyncio.create_task(self._slot()) for _ in range(self._settings.workers)}
        asked = asyncio.create_task(stop.wait())
        try:
            ends: set[asyncio.Future[Any]] = {asked, self._health.failure, *slots}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            fault = self._fault(slots)
            await self._drain(slots, 0 if fault else self._settings.drain_sec, now)
            if fault:
                raise SandboxError(fault)
        finally:
            self._health.close()
            await _cancel([keeping, asked, *slots, *self._answers])

    def _fault(self, tasks: Iterable["asyncio.Task[None]"]) -> str:
        """Return why the worker is of no use any more; empty if it is to stop."""
        if self._health.failure.done():
            return f"the sandbox does not work: {self._health.failure.result()}"
        errors = [error for one in tasks if one.done() and (error := one.exception()) is not None]
        return str(errors[0]) if errors else ""

    async def _drain(
        self, slots: set["asyncio.Task[None]"], seconds: float, now: asyncio.Event
    ) -> None:
        """Wait for the jobs in hand; return those that do not end in time."""
        self._is_stopping = True
        for slot in self._idle:
            slot.cancel()
        ending = asyncio.create_task(self._ended(slots))
        hurry = asyncio.create_task(now.wait())
        ends: set[asyncio.Future[Any]] = {ending, hurry}
        await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for run in self._runs:
            run.cancel()
        if self._connection.is_connected:
            await asyncio.wait([ending], timeout=_LAST_SECONDS)
        if not ending.done():
            _log.warning("answers-abandoned", jobs=len(self._answers))
        await _cancel([ending, hurry])

    async def _ended(self, slots: set["asyncio.Task[None]"]) -> None:
        await asyncio.wait(slots)
        while self._answers:
            await asyncio.wait(self._answers)

    async def _slot(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a slot is a task
        while not self._is_stopping:
            self._idle.add(task)
            try:
                pulled = await self._pull()
            finally:
                self._idle.discard(task)
            if pulled is not None:
                await self._take(pulled)

    async def _pull(self) -> Pulled | None:
        """Return a job; None if there is none for a moment. A slot may be cancelled meanwhile."""
        if self._returned_in_row:
            await self._pause()
        if self.why_paused or self._health.problem:
            await asyncio.sleep(_LOOK_SECONDS)
            return None
        return await self._source.pull()

    async def _pause(self) -> None:
        seconds = _FIRST_PAUSE_SECONDS * 2 ** min(self._returned_in_row, _MAX_DOUBLINGS)
        await asyncio.sleep(min(seconds, _LONGEST_PAUSE_SECONDS))

    # One job

    async def _take(self, pulled: Pulled) -> None:
        """Run a job, and have its answer sent."""
        received_at = self._clock()
        lease = pulled.lease
        try:
            message = read_request(
                lease.subject, lease.data, self._settings.fleet_pool, pulled.engine
            )
        except InvalidMessageError as error:
            _log.warning("job-unreadable", subject=lease.subject, reason=str(error))
            self._counters.verdicts[Verdict.INVALID] += 1
            await lease.ack()
            return
        if lease.delivery > 1:
            self._counters.redeliveries += 1
        held = self._leases.hold(lease, self._lease_seconds(message))
        try:
            content = await self._content(message, pulled, held)
            if content is not None:
                await self._room.acquire()
        except BaseException:
            self._leases.drop(held)
            raise
        if content is None:
            self._leases.drop(held)
            _log.info("job-revoked", job=message.job, daemon=message.daemon)
            self._counters.verdicts[Verdict.REVOKED] += 1
            await lease.ack()
            return
        answering = asyncio.create_task(self._answer(message, content, held, received_at))
        self._answers.add(answering)
        answering.add_done_callback(self._answers.discard)

    def _lease_seconds(self, message: JobMessage) -> float:
        timeout_seconds = message.limits.timeout_sec
        if not 0 < timeout_seconds < float("inf"):
            timeout_seconds = 0  # the job does not run
        return self._settings.compile_sec + timeout_seconds + _EXTRA_SECONDS

    async def _content(
        self, message: JobMessage, pulled: Pulled, held: HeldLease
    ) -> _Content | None:
        """Return the content of the answer; None if the daemon has revoked the job."""
        if self._revocations.has(message):
            return None
        delivery = pulled.lease.delivery
        if delivery > message.attempts:
            _log.warning("job-given-up", job=message.job, deliveries=delivery)
            return GivenUp(delivery)
        run = asyncio.create_task(self._job_run.run(message, pulled.engine, delivery))
        self._runs.add(run)
        self._counters.running += 1
        try:
            with self._revocations.ending(message, run):
                await asyncio.wait([run], timeout=held.ends_at - self._clock())
            is_late = not run.done()
        finally:
            self._counters.running -= 1
            self._runs.discard(run)
            await _cancel([run])
        if self._revocations.has(message):
            await _discard(run)
            return None
        if is_late:
            problem = await self._health.judge()
            return self._returned(message, problem or "it did not end within its lease")
        if run.cancelled():
            return Returned(_STOPS)
        error = run.exception()
        if error is None:
            self._returned_in_row = 0
            return run.result()
        return await self._failed(message, error)

    async def _failed(self, message: JobMessage, error: BaseException) -> _Content:
        """Return the content of the answer for a job without an outcome."""
        if isinstance(error, RunFailedError):
            problem = await self._health.judge()
            if not problem:
                # The job is at fault, as at a daemon.
                outcome = Outcome(code=Code.INTERNAL, message=str(error))
                return Executed(outcome, error.call)
            return self._returned(message, f"its sandbox does not work: {problem}")
        if isinstance(error, SandboxError):
            await self._health.judge()
        elif isinstance(error, UnfitJobError) and error.needs_module:
            _log.info("module-unavailable", module=message.module.sha256, reason=str(error))
            return Returned(one_line(str(error), _MAX_REASON), needs_module=True)
        elif not isinstance(error, UnfitJobError | FleetUnavailableError):
            # A daemon that was taken over can cause this.
            _log.warning("job-run-failed", job=message.job, exc_info=error)
            return self._returned(message, f"a fault of the worker: {type(error).__name__}")
        return self._returned(message, str(error))

    def _returned(self, message: JobMessage, reason: str) -> Returned:
        self._returned_in_row += 1
        reason = one_line(reason, _MAX_REASON)
        _log.warning("job-returned", job=message.job, reason=reason)
        return Returned(reason)

    # Its answer

    async def _answer(
        self, message: JobMessage, content: _Content, held: HeldLease, received_at: float
    ) -> None:
        ended_at = self._clock()
        try:
            try:
                answered = await self._packed(message, content)
            finally:
                if isinstance(content, Executed) and content.outcome.output is not None:
                    await _remove(content.outcome.output)
            answer = Answer(
                message.job,
                message.attempt,
                message.generation,
                self._settings.fleet_name,
                answered,
            )
            stored = await self._sender.send(held.lease, message, answer)
            self._count(content, answered, stored)
            now = self._clock()
            self._counters.stages[Stage.DELIVER].observe(now - ended_at)
            self._counters.stages[Stage.TOTAL].observe(now - received_at)
        except Exception:  # noqa: BLE001 - the slot must go on; the job is delivered again
            _log.exception("answer-failed", job=message.job)
            self._counters.verdicts[Verdict.LAPSED] += 1
        finally:
            self._leases.drop(held)
            self._room.release()

    async def _packed(self, message: JobMessage, content: _Content) -> Ran | Returned | GivenUp:
        """Return the content of an answer, with its large parts stored."""
        if not isinstance(content, Executed):
            return content
        publication = Publication(self._settings.fleet_pool, message.daemon, message.ticket)
        until = self._clock() + _STORE_SECONDS
        while True:
            try:
                return await send_results(
                    self._connection, publication, content.outcome, content.call, self._turn
                )
            except SandboxError as error:
                return self._returned(message, str(error))
            except StreamFullError as error:
                # The daemon then removes the stored chunks, so that others have room.
                return self._returned(message, f"its output could not be stored: {error}")
            except FleetUnavailableError as error:
                if not self._connection.is_connected:
                    until = self._clock() + _STORE_SECONDS
                elif self._clock() > until:
                    return self._returned(message, f"its output could not be stored: {error}")
                await asyncio.sleep(_RETRY_SECONDS)

    def _count(self, content: _Content, answered: Ran | Returned | GivenUp, stored: Stored) -> None:
        verdict = Verdict.RAN
        if stored is not Stored.STORED:
            verdict = Verdict.LAPSED if stored is Stored.FULL else Verdict.ANSWERED_BEFORE
        elif isinstance(answered, GivenUp):
            verdict = Verdict.GIVEN_UP
        elif isinstance(answered, Returned):
            verdict = Verdict.RETURNED
        elif isinstance(content, Executed):
            self._counters.codes[content.outcome.code] += 1
        self._counters.verdicts[verdict] += 1


async def _discard(run: "asyncio.Task[Executed]") -> None:
    """Remove the output of a run that has ended, if there is any."""
    if not run.cancelled() and run.exception() is None:
        output = run.result().outcome.output
        if output is not None:
            await _remove(output)


async def _remove(tree: OutputTree) -> None:
    try:
        await asyncio.to_thread(remove_output, tree)
    except OSError as error:
        _log.warning("leftover-removal-failed", path=tree.root, error=str(error))


async def _cancel(futures: Iterable["asyncio.Future[Any]"]) -> None:
    """Cancel the futures that are not done, and wait for their end."""
    pending = [one for one in futures if not one.done()]
    for one in pending:
        one.cancel()
    if pending:
        await asyncio.wait(pending)
