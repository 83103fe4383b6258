"""Dropped modules: reads each and reruns the slots whose last job failed because of it.

Guarantees:

- Further drops of a path that is in work become one later pass, after a rest that grows with the
  work: a module that is rewritten all the time takes a bounded part of a core.
- Directories take turns: to have their modules read, then to have a few slots at a time queued,
  while the backlog has room.
- A drop is remembered as taken when all its slots were queued. If the daemon dies before, the next
  one takes the drop as new.
"""

import asyncio
import contextlib
import errno
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from wasmdrop.intake.drops import InputDrop, ModuleDrop
from wasmdrop.intake.finished_slots import true_marker
from wasmdrop.intake.layout import MODULE_NAME, Layout
from wasmdrop.jobs.dispatcher import Dispatcher
from wasmdrop.jobs.fair_queue import FairQueue
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.awaited_modules import KeyRange, ranges_of
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.module_lookup import ModuleLookup
from wasmdrop.protocol.slot import PinnedModule, Slot
from wasmdrop.system.mount_threads import MountThreads

_log = structlog.get_logger()

#: How long a dropped default module waits for the root slot's input, in seconds (the protocol's).
_ROOT_INPUT_SECONDS: Final = 1.0

#: Slots that one turn queues: some milliseconds of work, then other directories have their turn.
_SLOTS_AT_ONCE: Final = 16

#: How long a mount may take to answer, in seconds, before the daemon goes on without it.
_MOUNT_TIMEOUT_SECONDS: Final = 5.0

#: The rest of a path after a pass, as a multiple of the time that the pass took; and the longest
#: rest, in seconds.
_REST_RATIO: Final = 4
_LONGEST_REST_SECONDS: Final = 30.0


@dataclass(slots=True)
class _Pass:
    """One pass over the slots that use a dropped module."""

    drop: ModuleDrop
    seconds: float = 0.0
    """Time spent, without waiting for room."""
    found: str | None = None
    """The digest of a module that slots may have run before there was this journal."""
    ranges: list[KeyRange] = field(default_factory=list)
    """Of jobs that failed because of it; the last one is in work."""
    after: tuple[bytes, str] | None = None
    names: list[str] = field(default_factory=list)
    """Input paths beside it that are left, the last one first."""
    is_partial: bool = False
    """Whether some slots could not be read."""
    queued: "asyncio.Future[None] | None" = None
    """Done when the job that was queued last is durable."""


class ModuleReruns:
    """Takes dropped modules; used from one event loop.

    ``read_input(slot)``: see :meth:`Intake.read_again`. ``learn(path)``: see
    :meth:`ModuleFinder.learn`. Both may hang on a mount.
    """

    def __init__(
        self,
        layout: Layout,
        read_input: Callable[[Slot], InputDrop | None],
        learn: Callable[[str], PinnedModule | None],
        journal: Journal,
        lookup: ModuleLookup,
        dispatcher: Dispatcher,
    ) -> None:
        self._layout = layout
        self._read_input = read_input
        self._learn = learn
        self._journal = journal
        self._lookup = lookup
        self._dispatcher = dispatcher
        self._mount_threads = MountThreads()
        self._new: dict[str, ModuleDrop] = {}
        """Drops that wait for their pass, the last one of each path."""
        self._open: set[str] = set()
        """Paths that are in work, or rest."""
        self._unread_first = FairQueue()
        """Modules in the wasm directory, which only the operator can write."""
        self._unread = FairQueue(layout.shared_dir)
        self._unqueued = FairQueue(layout.shared_dir)
        self._passes: dict[str, _Pass] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._is_reading = self._is_queueing = self._is_stopping = False

    def take(self, drop: ModuleDrop) -> None:
        """Take a drop. Of those of one path that come while it is in work, the last one counts."""
        self._new[drop.path] = drop
        if drop.path not in self._open:
            self._open.add(drop.path)
            self._add_unread(drop.path)

    def stop(self) -> None:
        """Stop. The next start takes drops that are not remembered as new."""
        self._is_stopping = True
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()

    async def ended(self) -> None:
        """Wait until the stopped tasks have ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._mount_threads.close()

    # Reading

    def _add_unread(self, path: str) -> None:
        self._timers.pop(path, None)
        is_operators = path.startswith(self._layout.wasm_dir.rstrip("/") + "/")
        (self._unread_first if is_operators else self._unread).add(path)
        if not self._is_reading:
            self._is_reading = True
            self._start(self._read_all())

    async def _read_all(self) -> None:
        while queue := self._unread_first or self._unread:
            one = _Pass(self._new.pop(queue.next()))
            path = one.drop.path
            _log.info("module-dropped", path=path)
            try:
                with _timed(one):
                    await self._read(one)
            except Exception:  # noqa: BLE001 - a fault in one module must not end the others
                self._fail(one)
                continue
            self._passes[path] = one
            self._add_unqueued(path)
            if self._unread:
                # Producers may drop files of many megabytes: at most half a core reads them.
                await asyncio.sleep(min(_LONGEST_REST_SECONDS, one.seconds))
        self._is_reading = False

    async def _read(self, one: _Pass) -> None:
        layout, path = self._layout, one.drop.path
        pinned = await self._look(path, self._learn, path)
        sha256 = pinned.sha256 if pinned is not None else None
        one.found = sha256 if one.drop.is_found else None
        one.ranges = ranges_of(layout, path, sha256)[::-1]
        self._lookup.wake(path, sha256)
        directory, name = os.path.split(path)
        if name == MODULE_NAME and path != layout.wasm_path:
            one.names = await self._look(path, _inputs_in, layout, directory)

    async def _look(self, path: str, call: Callable[..., Any], *args: Any) -> Any:
        return await self._mount_threads.run(path, call, *args, wait_seconds=_MOUNT_TIMEOUT_SECONDS)

    # Queueing

    def _add_unqueued(self, path: str) -> None:
        self._unqueued.add(path)
        if not self._is_queueing:
            self._is_queueing = True
            self._start(self._queue_all())

    async def _queue_all(self) -> None:
        while self._unqueued:
            path = self._unqueued.next()
            one = self._passes[path]
            try:
                await self._dispatcher.room()
                with _timed(one):
                    is_done = await self._queue_some(one)
            except Exception:  # noqa: BLE001 - a fault in one module must not end the others
                del self._passes[path]
                self._fail(one)
                continue
            if not is_done:
                self._unqueued.add(path)
                continue
            del self._passes[path]
            if path == self._layout.wasm_path:
                self._start(self._run_root(one))
            else:
                self._end(one)
        self._is_queueing = False

    async def _queue_some(self, one: _Pass) -> bool:
        """Queue some slots; return whether all were."""
        layout = self._layout
        if one.ranges:
            page = await self._journal.awaiting(one.ranges[-1], one.after, _SLOTS_AT_ONCE)
            for key, path in page:
                slot = layout.slot_of(path)
                if slot is not None:
                    await self._rerun(slot, one, only_without_reference=False)
                one.after = (key, path)
            if len(page) < _SLOTS_AT_ONCE:
                one.ranges.pop()
                one.after = None
            await self._await_queued(one)
            return False
        for _ in range(min(_SLOTS_AT_ONCE, len(one.names))):
            slot = layout.slot_of(one.names.pop())
            if slot is not None:
                await self._rerun(slot, one, only_without_reference=True)
        await self._await_queued(one)
        return not one.names

    @staticmethod
    async def _await_queued(one: _Pass) -> None:
        if one.queued is not None:
            await one.queued  # so that only the inputs of one turn are in memory
            one.queued = None

    async def _run_root(self, one: _Pass) -> None:
        slot = self._layout.root_slot
        if not await self._rerun(slot, one, only_without_reference=True):
            await asyncio.sleep(_ROOT_INPUT_SECONDS)
            is_served = await self._is_served(slot, one.drop)
            # An input that came meanwhile is a drop of its own.
            has_input = self._layout.has_input
            if not is_served and not await self._mount_threads.run(
                slot.input_path, has_input, slot
            ):
                self._dispatcher.run_without_input(slot, owes_result=False)
        self._end(one)

    async def _rerun(self, slot: Slot, one: _Pass, *, only_without_reference: bool) -> bool:
        """Rerun a slot's input with the dropped module; False if it has no input."""
        try:
            return await self._try_rerun(slot, one, only_without_reference)
        except OSError as error:
            if error.errno != errno.ETIMEDOUT:
                raise
            # Its mount hangs. The others go on, and the next start takes the drop as new.
            one.is_partial = True
            _log.warning("rerun-skipped", slot=slot.key, module=one.drop.path, error=str(error))
            return True

    async def _try_rerun(self, slot: Slot, one: _Pass, only_without_reference: bool) -> bool:
        drop = one.drop
        if await self._is_served(slot, drop):
            return True
        if one.found is not None:
            marker = await self._look(slot.input_path, true_marker, slot)
            module = marker.module if marker is not None else None
            if module is not None and module.sha256 == one.found:
                return True
        again: InputDrop | None = await self._look(slot.input_path, self._read_input, slot)
        if again is None:
            return False
        names_module = again.spec is not None and again.spec.module is not None
        # Checked again, with no await before it is queued: the slot may have run meanwhile.
        if self._will_use(slot, drop) or (names_module and only_without_reference):
            return True
        one.queued = self._dispatcher.rerun(again)
        return True

    async def _is_served(self, slot: Slot, drop: ModuleDrop) -> bool:
        """Whether the slot has run, or is about to find, this version of the module."""
        if self._will_use(slot, drop):
            return True
        return await self._journal.last_module(slot.key) == drop.version

    def _will_use(self, slot: Slot, drop: ModuleDrop) -> bool:
        job = self._dispatcher.last_job(slot)
        if job is not None:  # the one before it may have run another version
            return _will_look(job) or _pins(job, drop)
        return self._lookup.has_run(slot, drop.version)

    # The end of a pass

    def _end(self, one: _Pass) -> None:
        """Remember a drop all of whose slots were queued."""
        if not one.is_partial:
            self._journal.remember({one.drop.path: one.drop.taken})
        self._rest(one)

    def _fail(self, one: _Pass) -> None:
        """Leave a drop as new for the next start."""
        _log.exception("module-drop-failed", path=one.drop.path)
        self._rest(one)

    def _rest(self, one: _Pass) -> None:
        path = one.drop.path
        seconds = min(_LONGEST_REST_SECONDS, _REST_RATIO * one.seconds)
        if not self._is_stopping:
            loop = asyncio.get_running_loop()
            self._timers[path] = loop.call_later(seconds, self._on_rested, path)

    def _on_rested(self, path: str) -> None:
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
def _timed(one: _Pass) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        one.seconds += time.monotonic() - began


def _will_look(job: Job) -> bool:
    """Whether a job has yet to look for its module; one that failed without it has not."""
    return job.module is None and job.state not in {JobState.EXECUTED, JobState.DELIVERED}


def _pins(job: Job, drop: ModuleDrop) -> bool:
    return job.module is not None and job.module.version == drop.version


def _inputs_in(layout: Layout, directory: str) -> list[str]:
    return [slot.input_path for slot in reversed(layout.slots_in(directory))]
