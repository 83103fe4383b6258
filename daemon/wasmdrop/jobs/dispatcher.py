"""The dispatcher: accepts jobs, decides which one begins, and cancels them.

Jobs of one slot run one at a time, in the order of their drops; jobs of different slots run side by
side.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import structlog

from wasmdrop.delivery.delivery import Delivery
from wasmdrop.intake.backlog import Backlog
from wasmdrop.intake.drops import InputDrop
from wasmdrop.jobs.admission import Admission
from wasmdrop.jobs.job import DecidedEnd, Job, JobState, new_job_id
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.jobs.module_lookup import AlreadyRunError, ModuleAwaitedError
from wasmdrop.jobs.observer import JobObserver
from wasmdrop.jobs.publication import ResultPublisher
from wasmdrop.jobs.runner import JobRunner, NothingOwedError, ids_of
from wasmdrop.jobs.undelivered_results import UndeliveredResults, remove_output
from wasmdrop.jobs.waiting_jobs import WaitingJobs, described
from wasmdrop.jobs.work_table import Work, WorkTable
from wasmdrop.proof.envelope import Signer
from wasmdrop.protocol.input import InputSpec
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.slot import PinnedModule, Slot, top_directory
from wasmdrop.settings import Settings

_log = structlog.get_logger()


class Dispatcher:
    """Schedules jobs; used from one event loop.

    ``on_room`` is called when intake may take drops that it left because the backlog was full.
    ``signer`` signs the receipts of deterministic jobs; without one there are none. ``observer`` is
    told of each outcome.
    """

    def __init__(
        self,
        settings: Settings,
        backlog: Backlog,
        table: WorkTable,
        runner: JobRunner,
        journal: Journal,
        delivery: Delivery,
        metrics: Metrics,
        on_room: Callable[[], None],
        signer: Signer | None = None,
        observer: JobObserver | None = None,
    ) -> None:
        self._settings = settings
        self._backlog = backlog
        self._table = table
        self._runner = runner
        self._journal = journal
        self._metrics = metrics
        self._on_room = on_room
        self._admission = Admission(runner.capacity, settings.directory_running)
        self._waiting = WaitingJobs(settings.directory_queued)
        metrics.held_directories = self._admission.held_directories
        metrics.full_directories = self._waiting.full_directories
        self._undelivered = UndeliveredResults(
            settings, journal, delivery, metrics, self._on_settled
        )
        self._publisher = ResultPublisher(
            *(settings, table, delivery, metrics, self._undelivered),
            *(runner.module_cid, self._admission.hold, self._note_delivered, signer, observer),
        )
        self.on_delivered: Callable[[Job], None] | None = None
        """Called with each job whose results are in place, durably."""
        self._reserved: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """The task of each active job, by the key of its slot; a job that waits for its module has
        none."""
        self._interruptible: set[str] = set()
        """The slots whose tasks may be interrupted, because their jobs have no outcome yet."""
        if settings.directory_running is not None:
            backlog.judge_by_active(lambda: self.active)
        self._stopping = False
        self._has_room = asyncio.Event()

    @property
    def active(self) -> int:
        """Jobs that a shutdown waits for. Thread-safe."""
        return len(self._tasks)

    def use_settings(self) -> None:
        """Apply settings that have changed."""
        self._undelivered.use_settings()

    def accept(self, drop: InputDrop) -> None:
        """Accept a drop from intake, which has counted it in the backlog."""
        if self._stopping:
            # Not recorded, so that the next start takes the drop as new.
            if drop.memory is not None:
                drop.memory.release()
            self._leave_backlog(drop.slot.key)
        else:
            end = self._waiting.why_refused(drop.slot.key)
            _ = self._accept(drop, drop.module, end=end)

    def rerun(self, drop: InputDrop) -> "asyncio.Future[None]":
        """Queue the input of a slot again; the future is done when the job is durable.

        The job is discarded if the one before it finds the dropped module by itself.
        """
        self._backlog.add(top_directory(drop.slot.key))
        return self._accept(drop, None, is_for_module=True)

    def run_without_input(self, slot: Slot, *, owes_result: bool) -> None:
        """Run a slot that has no input with the entry and arguments of the settings."""
        job = Job(id=new_job_id(time.time_ns()), slot=slot, dropped_at_ns=time.time_ns())
        self._backlog.add(top_directory(slot.key))
        accepted = self._journal.accept(job, None, {})
        self._enqueue(Work(job, accepted, InputSpec(), owes_result=owes_result))

    def resume_queued(self, job: Job) -> None:
        """Resume a QUEUED job that an earlier daemon left open."""
        self._backlog.add(top_directory(job.slot.key))
        self._enqueue(Work(job, is_resumed=True))

    def resume_undelivered(self, job: Job, size_bytes: int) -> None:
        """Resume the delivery of results of that size that an earlier daemon kept."""
        self._metrics.taken(job)
        self._undelivered.resume(job, size_bytes)

    def is_open(self, job_id: str) -> bool:
        """Whether the job with that id is to run, runs, or has results that are not safe yet."""
        return self._table.has(job_id)

    def last_job(self, slot: Slot) -> Job | None:
        """Return the open job of the slot that was accepted last."""
        return self._table.last_job(slot.key)

    def reserve(self, slot_key: str) -> bool:
        """Let new jobs of a slot wait until :meth:`free`; return False if the slot has open jobs.

        Until then the daemon writes no results to the slot.
        """
        if self._table.has_slot(slot_key) or self._undelivered.holds(slot_key):
            return False
        self._reserved.add(slot_key)
        return True

    def free(self, slot_key: str) -> None:
        """Let the jobs of a reserved slot begin."""
        self._reserved.discard(slot_key)
        if self._table.waits(slot_key):
            self.resume(slot_key)

    def cancel(self, job_id: str, reason: str) -> "asyncio.Future[bool]":
        """Cancel an open job; its results give the reason.

        The future is True when the cancellation is durable: the job ends as cancelled, even if the
        daemon dies first. It is False if the job is not open, or has an outcome already.
        """
        work = self._table.find(job_id)
        if work is None or work.job.state is JobState.EXECUTED:
            return _future_of(False)
        if work.job.end is None:
            [work] = self._end(work.slot_key, reason, lambda job: job.id == job_id)
        assert work.job.end is not None  # noqa: S101 - decided just above
        return _future_of(work.job.end.code is Code.CANCELLED, work.decided)

    def cancel_slot(self, slot_key: str, reason: str, *, begun: bool) -> "asyncio.Future[int]":
        """Cancel the open jobs of a slot; return how many, when that is durable.

        ``begun``: also jobs that have begun to run, and jobs without an input.
        """
        ended = self._end(
            slot_key,
            reason,
            lambda job: begun or (job.started_at_ns is None and job.input is not None),
        )
        return _future_of(len(ended), ended[-1].decided if ended else None)

    async def room(self) -> None:
        """Return when the backlog has room for a rerun."""
        while not self._backlog.has_room():
            self._has_room.clear()
            await self._has_room.wait()

    async def drain(self, seconds: float, hurry: asyncio.Event | None = None) -> None:
        """Begin nothing new; after ``seconds``, or at ``hurry``, cancel what still runs."""
        self._stopping = True
        self._undelivered.stop()
        tasks = set(self._tasks.values())
        if tasks:
            ended = asyncio.ensure_future(asyncio.wait(tasks, timeout=seconds))
            hurried = asyncio.ensure_future((hurry or asyncio.Event()).wait())
            await asyncio.wait([ended, hurried], return_when=asyncio.FIRST_COMPLETED)
            for one in (ended, hurried, *tasks):
                one.cancel()
            await asyncio.gather(ended, hurried, *tasks, return_exceptions=True)
        await self._undelivered.ended()

    # Scheduling

    def _accept(
        self,
        drop: InputDrop,
        module: PinnedModule | None,
        *,
        is_for_module: bool = False,
        end: DecidedEnd | None = None,
    ) -> "asyncio.Future[None]":
        job = Job(
            id=new_job_id(drop.dropped_at_ns),
            slot=drop.slot,
            dropped_at_ns=drop.dropped_at_ns,
            input=drop.input,
            producer_id=drop.spec.id if drop.spec else None,
            module_reference=drop.spec.module if drop.spec else None,
            module=module,
            end=end,
        )
        taken = {drop.slot.input_path: drop.taken}
        data = None if drop.input.refusal is not None else drop.data
        accepted = self._journal.accept(job, data, taken)
        if drop.memory is not None:
            memory = drop.memory
            accepted.add_done_callback(lambda _accepted: memory.release())
        work = Work(job, accepted, drop.spec, drop.refusal, is_for_module=is_for_module)
        self._enqueue(work)
        if work.is_large:
            self._table.unload(work)  # unless it began at once
        return accepted

    def _enqueue(self, work: Work) -> None:
        self._metrics.taken(work.job)
        key = work.slot_key
        self._waiting.add(work.job)
        is_first = self._table.add(work)
        if is_first and key not in self._reserved and not self._undelivered.holds(key):
            self.resume(key)

    def resume(self, slot_key: str) -> None:
        """Let the first job of a slot begin, or go on after it waited for its module."""
        self._add_ready(slot_key)
        self._pump()

    def _add_ready(self, key: str) -> None:
        work = self._table.first(key)
        end = work.job.end
        self._admission.add(key, work.input_bytes, None if end is None else end.code)
        if end is None and self._admission.is_held(key):
            self._journal.explain(
                work.job,
                f"{described(top_directory(key))} is at its limit of jobs under way,"
                f" {self._settings.directory_running} (WASMDROP_DIRECTORY_RUNNING)",
            )

    def _pump(self) -> None:
        """Begin jobs while there is room."""
        while not self._stopping and (key := self._admission.next()) is not None:
            work = self._table.begin(key)
            self._admission.enter(key, work.input_bytes)
            self._waiting.remove(work.job)
            self._tasks[key] = asyncio.create_task(self._process(work))

    @contextlib.contextmanager
    def yield_room(self, work: Work) -> Iterator[None]:
        """Give the job's room to others for the duration of a block."""
        self._admission.lend(work.input_bytes)
        self._waiting.add(work.job)
        self._pump()
        try:
            yield
        finally:
            self._waiting.remove(work.job)
            self._admission.take_back(work.input_bytes)

    def _end(self, key: str, reason: str, is_wanted: Callable[[Job], bool]) -> list[Work]:
        """Cancel the wanted jobs of a slot; return the cancelled ones."""
        ended = self._table.end(key, DecidedEnd(Code.CANCELLED, reason), is_wanted)
        for work in ended:
            self._waiting.remove(work.job)
            _log.info("job-cancelled", **ids_of(work.job), reason=reason)
        if ended and ended[0].decided is not None:
            hurry = functools.partial(self._hurry, ended[0])
            ended[0].decided.add_done_callback(lambda _durable: hurry())
        return ended

    def _hurry(self, ended: Work) -> None:
        """Let a job come to its decided end at once, if it is the first of its slot."""
        key = ended.slot_key
        if not self._table.has(ended.job.id) or self._table.first(key).job.id != ended.job.id:
            return
        if key in self._interruptible:
            self._runner.cancel(ended.job)
            self._interruptible.remove(key)
            self._tasks[key].cancel()
        elif key not in self._tasks:
            if self._runner.stop_waiting(key):
                self._add_ready(key)
            else:
                self._admission.cancel(key)
            self._pump()

    # One job

    async def _process(self, work: Work) -> None:
        table = self._table
        try:
            await self._publisher.publish(work, await self._outcome(work))
        except asyncio.CancelledError:
            job = table.current(work).job
            if job.state is JobState.RUNNING:
                # The shutdown ended the attempt, not the job: the attempt does not count.
                table.move(work, JobState.QUEUED, attempt=job.attempt - 1)
            raise
        except ModuleAwaitedError:
            # It stays the active job of its slot, without a task.
            if work.is_large:
                table.evolve(work, spec=None)
            del self._tasks[work.slot_key]
            self._admission.leave(work.slot_key, work.input_bytes)
            self._waiting.add(table.current(work).job)
            self._pump()
            return
        except (AlreadyRunError, NothingOwedError) as reason:
            self._discard(work, reason)
        except Exception:  # noqa: BLE001 - a fault in one job must not end the others
            # The job stays open in the journal: the next start tries it again.
            _log.exception("job-stuck", job=work.job.id, slot=work.slot_key)
            job = table.current(work).job
            self._journal.explain(
                job, "stuck because of a fault in the daemon, which retries it at its next start"
            )
        self._leave(work)

    async def _outcome(self, work: Work) -> Outcome:
        """Run a job; return its outcome, or the end that was decided before it had one."""
        key, table = work.slot_key, self._table
        if table.current(work).job.end is None:
            self._interruptible.add(key)
            try:
                outcome = await self._runner.run(work, self)
                if table.current(work).job.end is None:
                    return outcome
                if outcome.output is not None:
                    await asyncio.to_thread(remove_output, outcome.output.root)
            except asyncio.CancelledError:
                # Another request to cancel the task is a shutdown.
                if table.current(work).job.end is None or self._tasks[key].uncancel():
                    raise
            finally:
                self._interruptible.discard(key)
        return await self._runner.end(table.current(work))

    def _discard(self, work: Work, reason: AlreadyRunError | NothingOwedError) -> None:
        job = self._table.move(work, JobState.DISCARDED).job
        if isinstance(reason, NothingOwedError):
            _log.warning("module-input-missing", job=job.id, reason=str(reason))
        else:
            self._journal.explain(job, str(reason))

    def _leave(self, work: Work) -> None:
        key = work.slot_key
        del self._tasks[key]
        self._runner.leave(work.job)
        is_held = self._undelivered.holds(key)
        if not is_held:
            self._metrics.left(work.job.id)
        self._admission.leave(key, work.input_bytes)
        if self._table.finish(key) and not is_held:
            self._add_ready(key)
        self._leave_backlog(key)
        self._pump()

    def _on_settled(self, job: Job, is_rerun: bool) -> None:
        """Let a slot go on; ``is_rerun``: with ``job`` again, whose results were lost."""
        key = job.slot.key
        self._metrics.left(job.id)
        self._note_delivered(job)
        if is_rerun:
            self._backlog.add(top_directory(key))
            self._metrics.taken(job)
            self._waiting.add(job)
            self._table.add_first(Work(job, is_resumed=True))
        if self._table.waits(key):
            self.resume(key)

    def _note_delivered(self, job: Job) -> None:
        if self.on_delivered is not None and job.state is JobState.DELIVERED:
            self.on_delivered(job)

    def _leave_backlog(self, key: str) -> None:
        if self._backlog.done(top_directory(key)):
            self._on_room()
        if self._backlog.has_room():
            self._has_room.set()


_Value = TypeVar("_Value")


def _future_of(
    value: _Value, durable: "asyncio.Future[None] | None" = None
) -> "asyncio.Future[_Value]":
    """Return a future of a value that holds when ``durable`` is done; None: already."""
    future: asyncio.Future[_Value] = asyncio.get_running_loop().create_future()

    def settle(_durable: "asyncio.Future[None] | None") -> None:
        if not future.done():
            future.set_result(value)

    if durable is None:
        settle(None)
    else:
        durable.add_done_callback(settle)
    return future
