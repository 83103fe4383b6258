"""The dispatcher: gives every drop its turn, and every outcome to delivery.

Jobs of one slot go one at a time, in the order of their drops; slots go side by side.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from tenacity import (
    RetryCallState,
)

from wasmdrop.delivery.lanes import Placement, UnheardError
from wasmdrop.execution import Execution, NothingOwedError, Stages, Work, ids_of
from wasmdrop.identity import new_job_id
from wasmdrop.intake.drops import Backlog, DoneInput, InputDrop, ModuleDrop
from wasmdrop.intake.markers import true_marker
from wasmdrop.intake.modules import DIGEST_PREFIX
from wasmdrop.intake.spec import InputSpec
from wasmdrop.job import InputFile, Job, JobState, PinnedModule, Slot
from wasmdrop.layout import MODULE_NAME
from wasmdrop.outcome import Code, Outcome, bounded_text
from wasmdrop.report import Package, package
from wasmdrop.retry import storage_retry
from wasmdrop.settings import Settings
from wasmdrop.turns import Turns

__all__ = ["Dispatcher"]

_log = structlog.get_logger()

#: How long a dropped default module waits for the root slot's input, in seconds (the protocol's).
_ROOT_INPUT_SECONDS: Final = 1.0

#: How long a delivery may take before its job makes room for others, in seconds.
_SLOW_DELIVERY_SECONDS: Final = 2.0

#: Jobs that are on their way at a time, beyond those that run: enough to keep a disk busy with
#: deliveries, few enough to bound memory.
_ON_THEIR_WAY: Final = 64

#: Inputs up to this size stay in memory while their job waits; others are read from the journal.
_KEPT_INPUT_BYTES: Final = 4096

#: How much of a job's message its line in the log shows, in characters; results have all of it.
_LOGGED_REASON: Final = 500


@dataclass(slots=True)
class _SlotQueue:
    """The jobs of one slot."""

    # No deque: an empty one takes 700 bytes, and most slots have one job.
    waiting: list[Work] = field(default_factory=list)
    active: Work | None = None


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
        self._ready = Turns()
        self._tasks: set[asyncio.Task[None]] = set()
        self._patient: set[asyncio.Task[None]] = set()
        """Those that wait for storage: nothing is lost when a stop ends them at once."""
        self._room = settings.workers + _ON_THEIR_WAY
        self._stopping = False
        self._execution = Execution(settings, stages, self._aside)

    def drop(self, drop: InputDrop | ModuleDrop | DoneInput) -> None:
        """Take a drop from intake."""
        if isinstance(drop, DoneInput):
            self._stages.journal.remember({drop.path: drop.taken})
        elif isinstance(drop, ModuleDrop):
            _log.info("module-dropped", path=drop.path)
            self._start(self._on_module(drop))
        elif self._stopping:
            # Not recorded, so the next start finds it as new as it is.
            if drop.memory is not None:
                drop.memory.release()
            self._done_with_backlog()
        else:
            self._accept_input(drop, drop.module)

    def resume(self, job: Job, package: Package | None) -> None:
        """Take a job that an earlier daemon left open: QUEUED, or EXECUTED with its results."""
        self._backlog.add()
        self._enqueue(Work(job, package=package, is_resumed=True))

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
        for task in self._patient:
            task.cancel()  # its results are in the journal, and storage may never come back
        tasks = set(self._tasks)
        if tasks:
            ended = asyncio.ensure_future(asyncio.wait(tasks, timeout=seconds))
            hurried = asyncio.ensure_future((hurry or asyncio.Event()).wait())
            await asyncio.wait([ended, hurried], return_when=asyncio.FIRST_COMPLETED)
            for one in (ended, hurried, *tasks):
                one.cancel()
            await asyncio.gather(ended, hurried, *tasks, return_exceptions=True)

    # Acceptance

    def _accept_input(self, drop: InputDrop, module: PinnedModule | None) -> None:
        job = Job(
            id=new_job_id(drop.dropped_at_ns),
            slot=drop.slot,
            dropped_at_ns=drop.dropped_at_ns,
            input=InputFile(drop.slot.input_path, drop.sha256, len(drop.data)),
            producer_id=drop.spec.id if drop.spec else None,
            module_reference=drop.spec.module if drop.spec else None,
            module=module,
        )
        taken = {drop.slot.input_path: drop.taken}
        accepted = self._stages.journal.accept(job, drop.data, taken)
        if drop.memory is not None:
            memory = drop.memory
            accepted.add_done_callback(lambda _accepted: memory.release())
        small = len(drop.data) <= _KEPT_INPUT_BYTES
        spec = drop.spec if small else None
        self._enqueue(Work(job, accepted, spec, drop.refusal))

    def _enqueue(self, work: Work) -> None:
        self._stages.metrics.taken(work.job)
        key = work.job.slot.key
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = _SlotQueue()
        slot.waiting.append(work)
        if slot.active is None and len(slot.waiting) == 1:
            self._ready.add(key)
            self._pump()

    def _pump(self) -> None:
        """Begin jobs while there is room."""
        while self._ready and self._room > 0 and not self._stopping:
            slot = self._slots[self._ready.next()]
            slot.active = slot.waiting.pop(0)
            self._room -= 1
            self._start(self._process(slot.active))

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # One job

    async def _process(self, work: Work) -> None:
        journal = self._stages.journal
        try:
            results = work.package
            if results is None:
                results = await self._close(work, await self._execution.outcome_of(work))
            placement = self._stages.delivery.stage(
                # What an earlier daemon could not deliver may be in place by now.
                work.job.slot,
                results,
                may_be_there=work.package is not None,
            )
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
        except NothingOwedError as reason:
            work.job = journal.move_lazily(work.job, JobState.DISCARDED)
            _log.warning("module-needs-input", job=work.job.id, reason=str(reason))
        except Exception:  # noqa: BLE001 - one job's fault must not end the others
            # It stays in the journal, open: the next start tries it again.
            _log.exception("job-stuck", job=work.job.id, slot=work.job.slot.key)
            journal.explain(work.job, "stuck by a fault of the daemon; its next start goes on")
        self._leave(work)

    def _leave(self, work: Work) -> None:
        self._stages.metrics.left(work.job)
        key = work.job.slot.key
        slot = self._slots[key]
        slot.active = None
        if slot.waiting:
            self._ready.add(key)
        else:
            del self._slots[key]
        self._room += 1
        self._done_with_backlog()
        self._pump()

    def _done_with_backlog(self) -> None:
        if self._backlog.done():
            self._on_room()

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """Make room for others while the job waits for its module."""
        self._room += 1
        self._pump()
        try:
            yield
        finally:
            self._room -= 1

    @contextlib.contextmanager
    def _in_patience(self) -> Iterator[None]:
        """Mark the calling task as one that a stop need not wait for."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - called from tasks alone
        self._patient.add(task)
        self._stages.metrics.undelivered += 1
        if self._stopping:
            task.cancel()
        try:
            yield
        finally:
            self._patient.discard(task)
            self._stages.metrics.undelivered -= 1

    async def _close(self, work: Work, outcome: Outcome) -> Package:
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

    async def _deliver(self, work: Work, placement: Placement) -> None:
        """Deliver what was staged, then close the job in the journal."""
        metrics = self._stages.metrics
        job, results = work.job, placement.package
        metrics.delivering += 1
        try:
            placed = placement.publish()
            await asyncio.wait([placed], timeout=_SLOW_DELIVERY_SECONDS)
            if not placed.done() or placed.exception() is not None:
                metrics.delivery_failures += 1
                if placed.done():
                    reason = str(placed.exception())
                    _log.warning("delivery-failed", **ids_of(work), error=reason)
                else:
                    reason = f"{job.slot.directory} does not answer"
                    _log.warning("delivery-hangs", **ids_of(work), directory=job.slot.directory)
                await self._stages.journal.keep_package(job, results, _waits_for_storage(reason))
                with self._aside(), self._in_patience():
                    if not await self._deliver_at_last(work, results, placed):
                        return
        finally:
            metrics.delivering -= 1
        metrics.delivered(job, results)
        work.job = self._stages.journal.move_lazily(job, JobState.DELIVERED)
        _log_finished(work)

    async def _deliver_at_last(
        self, work: Work, results: Package, placed: "asyncio.Future[None]"
    ) -> bool:
        """Deliver when storage allows it; False where the slot is gone for good."""
        job = work.job
        may_be_there = work.package is not None

        async def deliver() -> None:
            nonlocal placed, may_be_there
            # The first one may only have been slow, and be in place meanwhile or soon.
            if placed.done() and placed.exception() is not None:
                may_be_there = may_be_there or isinstance(placed.exception(), UnheardError)
                placed = self._stages.delivery.deliver(job.slot, results, may_be_there=may_be_there)
            await placed

        def on_failure(state: RetryCallState) -> None:
            error = _log_wait(work, state)
            self._stages.journal.explain(job, _waits_for_storage(str(error)))

        try:
            await storage_retry(on_failure, lambda state: self._lets_go(job, state))(deliver)
        except FileNotFoundError as error:
            work.job = self._stages.journal.move_lazily(job, JobState.DISCARDED)
            _log.warning("slot-let-go", **ids_of(work), error=str(error))
            return False
        return True

    def _lets_go(self, job: Job, state: RetryCallState) -> bool:
        """Whether a slot whose directory is gone has been waited for long enough."""
        error = state.outcome.exception() if state.outcome else None
        waited_seconds = (time.time_ns() - (job.finished_at_ns or 0)) / 1e9
        return isinstance(error, FileNotFoundError) and waited_seconds > self._settings.let_go_sec

    # Dropped modules

    async def _on_module(self, drop: ModuleDrop) -> None:
        """Run what a dropped module makes runnable."""
        layout, modules = self._stages.layout, self._stages.modules
        pinned = await asyncio.to_thread(modules.learn, drop.path)
        found = pinned.sha256 if pinned is not None and drop.is_found else None
        self._execution.module_dropped()
        failed = await self._stages.journal.latest_failed_by_module()
        for job in failed:
            if await self._may_want(job, drop):
                await self._run_again(job.slot, drop, found, only_without_reference=False)
        directory, name = os.path.split(drop.path)
        if name == MODULE_NAME and drop.path != layout.wasm_path:
            for slot in await asyncio.to_thread(layout.slots_in, directory):
                await self._run_again(slot, drop, found, only_without_reference=True)
        if drop.path == layout.wasm_path:
            await self._run_root(drop, found)
        # Only now: for a daemon that dies before, the drop is as new as it was.
        self._stages.journal.remember({drop.path: drop.taken})

    async def _may_want(self, job: Job, drop: ModuleDrop) -> bool:
        """Whether a job that failed for its module's sake would find another one now."""
        reference = job.module_reference
        if reference is not None and reference.startswith(DIGEST_PREFIX):
            found = await asyncio.to_thread(self._stages.modules.find, job.slot, reference)
            return found is not None and job.module is None
        places = self._stages.layout.module_places(job.slot, reference)
        return any(place.path == drop.path for place in places)

    async def _run_root(self, drop: ModuleDrop, found: str | None) -> None:
        layout = self._stages.layout
        slot = layout.root_slot
        if await self._run_again(slot, drop, found, only_without_reference=True):
            return
        await asyncio.sleep(_ROOT_INPUT_SECONDS)
        if self._is_served(slot, drop) or self._stopping:
            return
        if await asyncio.to_thread(layout.has_input, slot):
            return  # it came meanwhile and is a drop of its own
        self.run_without_input(slot, owes_result=False)

    async def _run_again(
        self, slot: Slot, drop: ModuleDrop, found: str | None, *, only_without_reference: bool
    ) -> bool:
        """Run a slot's input with the dropped module; False where it has no input.

        ``found``: the digest of a module that slots may have run before there was this journal.
        """
        if self._is_served(slot, drop):
            return True
        if found is not None:
            marker = await asyncio.to_thread(true_marker, slot)
            if marker is not None and marker.module is not None and marker.module.sha256 == found:
                return True
        again = await asyncio.to_thread(self._stages.intake.read_again, slot)
        if again is None:
            return False
        named = again.spec is not None and again.spec.module is not None
        if self._is_served(slot, drop) or (named and only_without_reference) or self._stopping:
            return True
        self._backlog.add()
        self._accept_input(again, None)
        return True

    def _is_served(self, slot: Slot, drop: ModuleDrop) -> bool:
        """Whether the slot has run, or is about to find, this version of the module."""
        queue = self._slots.get(slot.key)
        if queue is not None:
            works: Iterable[Work] = [*queue.waiting, *([queue.active] if queue.active else [])]
            if any(_finds(work.job) or _pins(work.job, drop) for work in works):
                return True
        return self._execution.last_version(slot) == drop.version


def _finds(job: Job) -> bool:
    """Whether a job has yet to look for its module; one that has failed for want of it has not."""
    return job.module is None and job.state not in {JobState.EXECUTED, JobState.DELIVERED}


def _pins(job: Job, drop: ModuleDrop) -> bool:
    return job.module is not None and job.module.version == drop.version


def _called(work: Work) -> tuple[str | None, list[Any]]:
    """Return the entry and the arguments as the results echo them."""
    if work.plan is not None:
        return work.plan.entry, list(work.plan.args)
    if work.spec is not None:
        return work.spec.entry, list(work.spec.args or ())
    return None, []


def _waits_for_storage(reason: str) -> str:
    return f"its results wait for storage: {reason}"


def _log_finished(work: Work) -> None:
    """Log the one line of a job; where it failed, as a warning that says why."""
    job, code = work.job, work.job.code or Code.INTERNAL
    seconds = ((job.finished_at_ns or 0) - job.dropped_at_ns) / 1e9
    known = {**ids_of(work), "code": code, "seconds": round(seconds, 6)}
    # What a failed attempt met is in the line of the attempt.
    if job.message and not code.retried:
        known["reason"] = bounded_text(job.message.partition("\n")[0], _LOGGED_REASON)
    (_log.info if code is Code.OK else _log.warning)("job-finished", **known)


def _log_wait(work: Work, state: RetryCallState) -> BaseException | None:
    error = state.outcome.exception() if state.outcome else None
    pause = state.next_action.sleep if state.next_action else 0.0
    _log.warning("delivery-waits", **ids_of(work), error=str(error), again_in=round(pause, 1))
    return error
