"""The dispatcher: gives every drop its turn, and every outcome to delivery.

Jobs of one slot go one at a time, in the order of their drops; slots go side by side.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final

import structlog

from wasmdrop.delivery.delivery import DeliveryHangsError, PendingDelivery
from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.intake.backlog import Backlog
from wasmdrop.intake.drops import DoneInput, Drop, InputDrop, ModuleDrop
from wasmdrop.jobs.fair_queue import FairQueue
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.job_id import new_job_id
from wasmdrop.jobs.module_reruns import ModuleReruns
from wasmdrop.jobs.result_files import package
from wasmdrop.jobs.runner import (
    JobRunner,
    ModuleAwaitedError,
    NothingOwedError,
    Stages,
    Work,
    ids_of,
    is_large,
    log_finished,
)
from wasmdrop.jobs.undelivered_results import UndeliveredResults
from wasmdrop.protocol.input import InputSpec
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.outcome import Outcome
from wasmdrop.protocol.slot import FileVersion, PinnedModule, Slot
from wasmdrop.settings import Settings

__all__ = ["Dispatcher"]

_log = structlog.get_logger()

#: How often a delivery that is not done is looked at, in seconds. If its process hangs, the results
#: are kept on disk.
_SLOW_DELIVERY_SECONDS: Final = 2.0

#: Jobs that are on their way at a time, beyond those that run: enough to keep a disk busy with
#: deliveries, few enough to bound memory.
_ON_THEIR_WAY: Final = 64

#: Inputs and results of jobs on their way past which no job with a large input begins, and no job
#: at all: a few of the largest.
_LARGE_BYTES_ON_THEIR_WAY: Final = 16 * MEBIBYTE
_BYTES_ON_THEIR_WAY: Final = 64 * MEBIBYTE

#: Inputs up to this size are small, in bytes: they pass the large ones.
_SMALL_INPUT_BYTES: Final = 64 * 1024


@dataclass(slots=True)
class _SlotQueue:
    """The jobs of one slot. Those that wait are linked: most slots have one job."""

    active: Work | None = None
    first: Work | None = None
    last: Work | None = None

    def add(self, work: Work) -> None:
        """Put a job behind all others."""
        if self.last is None:
            self.first = work
        else:
            self.last.next = work
        self.last = work

    def add_first(self, work: Work) -> None:
        """Put a job before all others that wait."""
        work.next, self.first = self.first, work
        self.last = self.last or work

    def begin(self) -> Work:
        """Make the first one that waits the active one."""
        assert self.first is not None  # noqa: S101 - asked before
        self.active, self.first = self.first, self.first.next
        self.active.next = None
        if self.first is None:
            self.last = None
        return self.active


class Dispatcher:
    """Gives jobs to the stages. ``on_room`` is called when drops that were left may be taken."""

    def __init__(
        self, settings: Settings, stages: Stages, backlog: Backlog, on_room: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._stages = stages
        self._backlog = backlog
        self._on_room = on_room
        self._slots: dict[str, _SlotQueue] = {}
        self._ready = FairQueue()
        self._large = FairQueue()
        """Slots whose next job has a large input."""
        self._is_larges_turn = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = settings.workers + _ON_THEIR_WAY
        self._bytes = 0
        self._stopping = False
        self._has_room = asyncio.Event()
        self._execution = JobRunner(settings, stages, self._aside, self._resume_active)
        self._undelivered = UndeliveredResults(settings, stages, self._go_on)
        self._module_drops = ModuleReruns(stages, self)

    def drop(self, drop: Drop) -> None:
        """Take a drop from intake."""
        if isinstance(drop, DoneInput):
            self._stages.journal.remember({drop.path: drop.taken})
        elif isinstance(drop, ModuleDrop):
            self._module_drops.take(drop)
        elif self._stopping:
            # Not recorded, so the next start finds it as new as it is.
            if drop.memory is not None:
                drop.memory.release()
            self._done_with_backlog()
        else:
            _ = self._accept_input(drop, drop.module)

    def resume(self, job: Job) -> None:
        """Take a QUEUED job that an earlier daemon left open."""
        self._backlog.add()
        self._enqueue(Work(job, is_resumed=True))

    def resume_undelivered(self, job: Job, size_bytes: int) -> None:
        """Take an EXECUTED job whose results an earlier daemon kept, of that size."""
        self._stages.metrics.taken(job)
        self._undelivered.resume(job, size_bytes)

    def run_without_input(self, slot: Slot, *, owes_result: bool) -> None:
        """Run a slot that has no input with the environment's entry and arguments."""
        job = Job(id=new_job_id(time.time_ns()), slot=slot, dropped_at_ns=time.time_ns())
        self._backlog.add()
        accepted = self._stages.journal.accept(job, None, {})
        self._enqueue(Work(job, accepted, InputSpec(), owes_result=owes_result))

    async def drain(self, seconds: float, hurry: asyncio.Event | None = None) -> None:
        """Begin nothing new; give what runs ``seconds`` to end, or until ``hurry``, then end it."""
        self._stopping = True
        self._execution.stop()
        self._module_drops.stop()
        self._undelivered.stop()
        tasks = set(self._tasks)
        if tasks:
            ended = asyncio.ensure_future(asyncio.wait(tasks, timeout=seconds))
            hurried = asyncio.ensure_future((hurry or asyncio.Event()).wait())
            await asyncio.wait([ended, hurried], return_when=asyncio.FIRST_COMPLETED)
            for one in (ended, hurried, *tasks):
                one.cancel()
            await asyncio.gather(ended, hurried, *tasks, return_exceptions=True)
        await self._module_drops.ended()
        await self._undelivered.ended()
        self._execution.close()

    # What dropped modules ask for

    def last_job(self, slot: Slot) -> Job | None:
        """Return the job of the slot that was accepted last, if it is not done."""
        queue = self._slots.get(slot.key)
        work = None if queue is None else queue.last or queue.active
        return None if work is None else work.job

    async def last_version(self, slot: Slot) -> FileVersion | None:
        """Return the version of the module that the slot's latest job has."""
        return await self._stages.journal.last_module(slot.key)

    def has_run(self, slot: Slot, version: FileVersion) -> bool:
        """Whether the slot is known to have run this version a moment ago."""
        return self._execution.has_run(slot, version)

    def wake(self, path: str, sha256: str | None) -> None:
        """Let the jobs look again that wait for the module at ``path``, or of this digest."""
        self._execution.wake(path, sha256)

    async def room(self) -> None:
        """Return when the backlog has room."""
        while len(self._backlog) >= self._settings.max_queued:
            self._has_room.clear()
            await self._has_room.wait()

    def run_again(self, drop: InputDrop) -> "asyncio.Future[None]":
        """Queue the input of a slot once more; the future is done when that is durable."""
        self._backlog.add()
        return self._accept_input(drop, None)

    # Acceptance

    def _accept_input(self, drop: InputDrop, module: PinnedModule | None) -> "asyncio.Future[None]":
        job = Job(
            id=new_job_id(drop.dropped_at_ns),
            slot=drop.slot,
            dropped_at_ns=drop.dropped_at_ns,
            input=drop.input,
            producer_id=drop.spec.id if drop.spec else None,
            module_reference=drop.spec.module if drop.spec else None,
            module=module,
        )
        taken = {drop.slot.input_path: drop.taken}
        data = None if drop.input.refusal is not None else drop.data
        accepted = self._stages.journal.accept(job, data, taken)
        if drop.memory is not None:
            memory = drop.memory
            accepted.add_done_callback(lambda _accepted: memory.release())
        work = Work(job, accepted, drop.spec, drop.refusal)
        if is_large(work):
            work.spec = None
        self._enqueue(work)
        return accepted

    def _enqueue(self, work: Work) -> None:
        self._stages.metrics.taken(work.job)
        key = work.job.slot.key
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = _SlotQueue()
        slot.add(work)
        if slot.active is None and slot.first is work and not self._undelivered.holds(key):
            self._add_ready(key)
            self._pump()

    def _pump(self) -> None:
        """Begin jobs while there is room."""
        while self._room > 0 and not self._stopping:
            ready = self._next_ready()
            if not ready:
                return
            slot = self._slots[ready.next()]
            work = slot.active or slot.begin()
            self._take_room(work)
            self._start(self._process(work))

    def _add_ready(self, key: str) -> None:
        slot = self._slots[key]
        work = slot.active or slot.first
        assert work is not None  # noqa: S101 - it has a job
        is_large = _input_bytes(work) > _SMALL_INPUT_BYTES
        (self._large if is_large else self._ready).add(key)

    def _next_ready(self) -> FairQueue:
        """Return where the next job is taken from: large and other inputs take turns."""
        if self._bytes > _BYTES_ON_THEIR_WAY:
            return FairQueue()
        self._is_larges_turn = not self._is_larges_turn
        may_be_large = bool(self._large) and self._bytes <= _LARGE_BYTES_ON_THEIR_WAY
        if may_be_large and (self._is_larges_turn or not self._ready):
            return self._large
        return self._ready

    def _take_room(self, work: Work) -> None:
        self._room -= 1
        self._bytes += _input_bytes(work)

    def _give_room(self, work: Work) -> None:
        self._room += 1
        self._bytes -= _input_bytes(work)

    def _resume_active(self, work: Work) -> None:
        """Go on with a job that waited for its module."""
        self._add_ready(work.job.slot.key)
        self._pump()

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # One job

    async def _process(self, work: Work) -> None:
        journal = self._stages.journal
        try:
            results = await self._close(work, await self._execution.outcome_of(work))
            placement = self._stages.delivery.stage(work.job.slot, results)
            try:
                # Nothing is shown of a job, or of an attempt, that a power cut could undo.
                for durable in (work.accepted, work.begun):
                    if durable is not None:
                        await durable
            except asyncio.CancelledError:
                placement.abandon()
                raise
            await self._deliver(work, placement)
        except asyncio.CancelledError:
            if work.job.state is JobState.RUNNING:
                # Our stop ended it, not the job: the attempt does not count.
                attempt = work.job.attempt - 1
                work.job = journal.move_lazily(work.job, JobState.QUEUED, attempt=attempt)
            raise
        except ModuleAwaitedError:
            work.spec = None if is_large(work) else work.spec
            self._give_room(work)
            self._pump()
            return  # it stays its slot's active job, without a task
        except NothingOwedError as reason:
            work.job = journal.move_lazily(work.job, JobState.DISCARDED)
            _log.warning("module-input-missing", job=work.job.id, reason=str(reason))
        except Exception:  # noqa: BLE001 - one job's fault must not end the others
            # It stays in the journal, open: the next start tries it again.
            _log.exception("job-stuck", job=work.job.id, slot=work.job.slot.key)
            journal.explain(work.job, "stuck by a fault of the daemon; its next start goes on")
        self._leave(work)

    def _leave(self, work: Work) -> None:
        key = work.job.slot.key
        slot = self._slots[key]
        slot.active = None
        is_held = self._undelivered.holds(key)
        if not is_held:
            self._stages.metrics.left(work.job.id)
        if slot.first is None:
            del self._slots[key]
        elif not is_held:
            self._add_ready(key)
        self._give_room(work)
        self._done_with_backlog()
        self._pump()

    def _go_on(self, job: Job, runs_again: bool) -> None:
        """Let a slot go on whose undelivered results are settled."""
        key = job.slot.key
        self._stages.metrics.left(job.id)
        if runs_again:
            self._backlog.add()
            self._stages.metrics.taken(job)
            self._slots.setdefault(key, _SlotQueue()).add_first(Work(job, is_resumed=True))
        slot = self._slots.get(key)
        if slot is not None and slot.active is None and slot.first is not None:
            self._add_ready(key)
            self._pump()

    def _done_with_backlog(self) -> None:
        if self._backlog.done():
            self._on_room()
        if len(self._backlog) < self._settings.max_queued:
            self._has_room.set()

    @contextlib.contextmanager
    def _aside(self, work: Work) -> Iterator[None]:
        """Make room for others while the job waits for its module."""
        self._give_room(work)
        self._pump()
        try:
            yield
        finally:
            self._take_room(work)

    async def _close(self, work: Work, outcome: Outcome) -> ResultPackage:
        """Move the job on to its results."""
        journal = self._stages.journal
        changes = {
            "finished_at_ns": time.time_ns(),
            "code": outcome.code,
            "message": outcome.message,
        }
        if work.job.state is JobState.RUNNING:
            work.job = journal.move_lazily(work.job, JobState.EXECUTED, **changes)
        else:
            # It did not run, and nothing else makes the next start look for its marker.
            work.job, durable = journal.move(work.job, JobState.EXECUTED, **changes)
            await durable
        self._stages.metrics.executed(work.job, outcome)
        entry, args = _called(work)
        limits = work.limits or self._settings.limits
        return package(
            work.job, entry, args, outcome, limits, is_deterministic=work.is_deterministic
        )

    async def _deliver(self, work: Work, placement: PendingDelivery) -> None:
        """Deliver what was staged, then close the job in the journal; or leave that for later."""
        metrics = self._stages.metrics
        job, results = work.job, placement.package
        metrics.delivering += 1
        self._bytes += results.size_bytes
        try:
            placed = placement.publish()
            await asyncio.wait([placed], timeout=_SLOW_DELIVERY_SECONDS)
            while not placed.done() and not placement.hangs():
                await asyncio.wait([placed], timeout=_SLOW_DELIVERY_SECONDS)
            error = placed.exception() if placed.done() else None
            if not placed.done() or error is not None:
                metrics.delivery_failures += 1
                reason = f"{job.slot.directory} does not answer" if error is None else str(error)
                if error is not None and not isinstance(error, DeliveryHangsError):
                    _log.warning("delivery-failed", **ids_of(job), error=reason)
                await self._undelivered.keep(job, results, reason, placed)
                return
        finally:
            metrics.delivering -= 1
            self._bytes -= results.size_bytes
        metrics.delivered(job, results.size_bytes)
        work.job = self._stages.journal.move_lazily(job, JobState.DELIVERED)
        log_finished(work.job)


def _input_bytes(work: Work) -> int:
    return work.job.input.copied_bytes if work.job.input is not None else 0


def _called(work: Work) -> tuple[str | None, list[Any]]:
    """Return the entry and the arguments as the results echo them."""
    if work.plan is not None:
        return work.plan.entry, list(work.plan.args)
    if work.spec is not None:
        return work.spec.entry, list(work.spec.args or ())
    return None, []
