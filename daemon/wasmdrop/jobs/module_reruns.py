"""Dropped modules: reads each, and runs again what it makes runnable.

Further drops of a path that is at work become one later look, after a rest: a module that is
rewritten all the time takes a bounded part of a core. Directories take turns, first to have their
module read, then to have a few slots at a time run again, while there is room for jobs. A drop is
remembered as taken when all of its slots were queued: for a daemon that dies before, the drop is as
new as it was.
"""

import asyncio
import contextlib
import errno
import os
import time
from collections.abc import Awaitable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import structlog

from wasmdrop.intake.drops import InputDrop, ModuleDrop
from wasmdrop.intake.finished_slots import true_marker
from wasmdrop.intake.layout import MODULE_NAME, Layout
from wasmdrop.jobs.fair_queue import FairQueue
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.awaited_modules import KeyRange, ranges_of
from wasmdrop.jobs.runner import Stages
from wasmdrop.protocol.slot import FileVersion, Slot
from wasmdrop.system.mount_threads import MountThreads

__all__ = ["ModuleReruns", "RerunQueue"]

_log = structlog.get_logger()

#: How long a dropped default module waits for the root slot's input, in seconds (the protocol's).
_ROOT_INPUT_SECONDS: Final = 1.0

#: Slots that one turn looks at: some milliseconds, then other directories have theirs.
_SLOTS_AT_ONCE: Final = 16

#: How long a mount may take to answer, in seconds, before others go on without it.
_PATIENCE_SECONDS: Final = 5.0

#: Times as long as the last look at a path took that pass until the next one, and the longest such
#: rest in seconds.
_REST: Final = 4
_LONGEST_REST_SECONDS: Final = 30.0


class RerunQueue(Protocol):
    """What dropped modules ask of the dispatcher."""

    def last_job(self, slot: Slot) -> Job | None:
        """Return the job of the slot that was accepted last, if it is not done."""

    def last_version(self, slot: Slot) -> Awaitable[FileVersion | None]:
        """Return the version of the module that the slot ran last."""

    def has_run(self, slot: Slot, version: FileVersion) -> bool:
        """Whether the slot is known to have run this version a moment ago."""

    def wake(self, path: str, sha256: str | None) -> None:
        """Let the jobs look again that wait for the module at ``path``, or of this digest."""

    def room(self) -> Awaitable[None]:
        """Return when there is room for one more job."""

    def run_again(self, drop: InputDrop) -> "asyncio.Future[None]":
        """Queue the input of a slot once more; the future is done when that is durable."""

    def run_without_input(self, slot: Slot, *, owes_result: bool) -> None:
        """Run a slot that has no input."""


@dataclass(slots=True)
class _DroppedModule:
    """A dropped module, and how far its look is."""

    drop: ModuleDrop
    seconds: float = 0.0
    """How much time it took so far, without what it waited for room."""
    found: str | None = None
    """The digest of a module that slots may have run before there was this journal."""
    ranges: list[KeyRange] = field(default_factory=list)
    """Of jobs that failed because of it; the last one is at work."""
    after: tuple[bytes, str] | None = None
    names: list[str] = field(default_factory=list)
    """Input paths beside it that are left, the last one first."""
    is_partial: bool = False
    """Whether some slots could not be looked at."""
    queued: "asyncio.Future[None] | None" = None
    """Done when what was queued last is durable."""


class ModuleReruns:
    """Takes dropped modules. Used from one event loop."""

    def __init__(self, stages: Stages, reruns: RerunQueue) -> None:
        self._stages = stages
        self._reruns = reruns
        self._mount_threads = MountThreads()
        self._new: dict[str, ModuleDrop] = {}
        """Drops that wait for their look, one for each path."""
        self._open: set[str] = set()
        """Paths that are at work, or rest."""
        self._unread_first = FairQueue()
        """Those in the wasm directory, where the operator alone can write."""
        self._unread = FairQueue(stages.layout.shared_dir)
        self._unqueued = FairQueue(stages.layout.shared_dir)
        self._at_work: dict[str, _DroppedModule] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._is_reading = self._is_queueing = self._is_stopping = False

    def take(self, drop: ModuleDrop) -> None:
        """Take a drop. Of those of one path that come while it is at work, the last one counts."""
        self._new[drop.path] = drop
        if drop.path not in self._open:
            self._open.add(drop.path)
            self._add_unread(drop.path)

    def stop(self) -> None:
        """Begin nothing more: the next start finds what is not remembered as new as it is."""
        self._is_stopping = True
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()

    async def ended(self) -> None:
        """Wait for the end of what was stopped."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._mount_threads.close()

    # Reading

    def _add_unread(self, path: str) -> None:
        self._timers.pop(path, None)
        is_operators = path.startswith(self._stages.layout.wasm_dir.rstrip("/") + "/")
        (self._unread_first if is_operators else self._unread).add(path)
        if not self._is_reading:
            self._is_reading = True
            self._start(self._read_all())

    async def _read_all(self) -> None:
        while turns := self._unread_first or self._unread:
            look = _DroppedModule(self._new.pop(turns.next()))
            path = look.drop.path
            _log.info("module-dropped", path=path)
            try:
                with _timed(look):
                    await self._read(look)
            except Exception:  # noqa: BLE001 - one module's fault must not end the others
                self._fail(look)
                continue
            self._at_work[path] = look
            self._add_unqueued(path)
            if self._unread:
                # Others have files of many megabytes: no more than half a core is for these.
                await asyncio.sleep(min(_LONGEST_REST_SECONDS, look.seconds))
        self._is_reading = False

    async def _read(self, look: _DroppedModule) -> None:
        layout, path = self._stages.layout, look.drop.path
        pinned = await self._mount_threads.run(
            path, self._stages.modules.learn, path, wait_seconds=_PATIENCE_SECONDS
        )
        sha256 = pinned.sha256 if pinned is not None else None
        look.found = sha256 if look.drop.is_found else None
        look.ranges = ranges_of(layout, path, sha256)[::-1]
        self._reruns.wake(path, sha256)
        directory, name = os.path.split(path)
        if name == MODULE_NAME and path != layout.wasm_path:
            look.names = await self._mount_threads.run(
                path, _inputs_in, layout, directory, wait_seconds=_PATIENCE_SECONDS
            )

    # Queueing

    def _add_unqueued(self, path: str) -> None:
        self._unqueued.add(path)
        if not self._is_queueing:
            self._is_queueing = True
            self._start(self._queue_all())

    async def _queue_all(self) -> None:
        while self._unqueued:
            path = self._unqueued.next()
            look = self._at_work[path]
            try:
                await self._reruns.room()
                with _timed(look):
                    is_done = await self._queue_some(look)
            except Exception:  # noqa: BLE001 - one module's fault must not end the others
                del self._at_work[path]
                self._fail(look)
                continue
            if not is_done:
                self._unqueued.add(path)
                continue
            del self._at_work[path]
            if path == self._stages.layout.wasm_path:
                self._start(self._run_root(look))
            else:
                self._end(look)
        self._is_queueing = False

    async def _queue_some(self, look: _DroppedModule) -> bool:
        """Queue some slots; return whether all were."""
        layout, journal = self._stages.layout, self._stages.journal
        if look.ranges:
            page = await journal.awaiting(look.ranges[-1], look.after, _SLOTS_AT_ONCE)
            for key, path in page:
                slot = layout.slot_of(path)
                if slot is not None:
                    await self._run_again(slot, look, only_without_reference=False)
                look.after = (key, path)
            if len(page) < _SLOTS_AT_ONCE:
                look.ranges.pop()
                look.after = None
            await self._await_queued(look)
            return False
        for _ in range(min(_SLOTS_AT_ONCE, len(look.names))):
            slot = layout.slot_of(look.names.pop())
            if slot is not None:
                await self._run_again(slot, look, only_without_reference=True)
        await self._await_queued(look)
        return not look.names

    @staticmethod
    async def _await_queued(look: _DroppedModule) -> None:
        if look.queued is not None:
            await look.queued  # no more inputs are in memory than those of one turn
            look.queued = None

    async def _run_root(self, look: _DroppedModule) -> None:
        slot = self._stages.layout.root_slot
        if not await self._run_again(slot, look, only_without_reference=True):
            await asyncio.sleep(_ROOT_INPUT_SECONDS)
            is_served = await self._is_served(slot, look.drop)
            # An input that came meanwhile is a drop of its own.
            layout = self._stages.layout
            if not is_served and not await self._mount_threads.run(
                slot.input_path, layout.has_input, slot
            ):
                self._reruns.run_without_input(slot, owes_result=False)
        self._end(look)

    async def _run_again(
        self, slot: Slot, look: _DroppedModule, *, only_without_reference: bool
    ) -> bool:
        """Run a slot's input with the dropped module; False if it has no input."""
        try:
            return await self._try_again(slot, look, only_without_reference)
        except OSError as error:
            if error.errno != errno.ETIMEDOUT:
                raise
            # Its mount hangs. The others go on, and the next start finds the drop as new as it is.
            look.is_partial = True
            _log.warning("rerun-skipped", slot=slot.key, module=look.drop.path, error=str(error))
            return True

    async def _try_again(
        self, slot: Slot, look: _DroppedModule, only_without_reference: bool
    ) -> bool:
        drop = look.drop
        if await self._is_served(slot, drop):
            return True
        if look.found is not None:
            marker = await self._mount_threads.run(
                slot.input_path, true_marker, slot, wait_seconds=_PATIENCE_SECONDS
            )
            module = marker.module if marker is not None else None
            if module is not None and module.sha256 == look.found:
                return True
        read_again = self._stages.intake.read_again
        again = await self._mount_threads.run(
            slot.input_path, read_again, slot, wait_seconds=_PATIENCE_SECONDS
        )
        if again is None:
            return False
        named = again.spec is not None and again.spec.module is not None
        # Once more, without a pause until it is queued: it may have run meanwhile.
        if self._is_about_to(slot, drop) or (named and only_without_reference):
            return True
        look.queued = self._reruns.run_again(again)
        return True

    async def _is_served(self, slot: Slot, drop: ModuleDrop) -> bool:
        """Whether the slot has run, or is about to find, this version of the module."""
        if self._is_about_to(slot, drop):
            return True
        return await self._reruns.last_version(slot) == drop.version

    def _is_about_to(self, slot: Slot, drop: ModuleDrop) -> bool:
        job = self._reruns.last_job(slot)
        if job is not None and (_finds(job) or _pins(job, drop)):
            return True
        return self._reruns.has_run(slot, drop.version)

    # The end of a look

    def _end(self, look: _DroppedModule) -> None:
        """Remember a drop all of whose slots were queued."""
        if not look.is_partial:
            self._stages.journal.remember({look.drop.path: look.drop.taken})
        self._rest(look)

    def _fail(self, look: _DroppedModule) -> None:
        """Leave a drop as new as it was, for the next start."""
        _log.exception("module-drop-failed", path=look.drop.path)
        self._rest(look)

    def _rest(self, look: _DroppedModule) -> None:
        path = look.drop.path
        seconds = min(_LONGEST_REST_SECONDS, _REST * look.seconds)
        if not self._is_stopping:
            loop = asyncio.get_running_loop()
            self._timers[path] = loop.call_later(seconds, self._look_again, path)

    def _look_again(self, path: str) -> None:
        if path in self._new:
            self._add_unread(path)
        else:
            self._timers.pop(path, None)
            self._open.discard(path)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._is_stopping:
            task.cancel()


@contextlib.contextmanager
def _timed(look: _DroppedModule) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        look.seconds += time.monotonic() - began


def _finds(job: Job) -> bool:
    """Whether a job has yet to look for its module; one that failed for want of it has not."""
    return job.module is None and job.state not in {JobState.EXECUTED, JobState.DELIVERED}


def _pins(job: Job, drop: ModuleDrop) -> bool:
    return job.module is not None and job.module.version == drop.version


def _inputs_in(layout: Layout, directory: str) -> list[str]:
    return [slot.input_path for slot in reversed(layout.slots_in(directory))]
