"""Find and compile the module of a job, however long it takes to appear.

A job whose module is missing waits without a task; a drop of the module, or its deadline, resumes
it. While a job waits here for anything, other jobs take its room.
"""

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Protocol

import msgspec

from wasmdrop.intake.layout import MODULE_NAME, Layout
from wasmdrop.intake.module_finder import DIGEST_PREFIX
from wasmdrop.jobs.executor import Executor
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.module_waits import ModuleWaits, Wait
from wasmdrop.jobs.work_table import Work, WorkTable
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import FileVersion, PinnedModule, Slot, top_directory
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule
from wasmdrop.sandbox.wire import EngineOptions
from wasmdrop.settings import Settings
from wasmdrop.system.mount_threads import MountThreads

#: How long a lookup may take before the job makes room for others, in seconds.
_SLOW_LOOKUP_SECONDS: Final = 0.5

#: Slots whose last module version is in memory: more than have a job that the journal lacks.
_RECENT_SLOTS: Final = 4096


class ModuleAwaitedError(Exception):
    """The job's module is missing; the job is resumed later."""


class AlreadyRunError(Exception):
    """A rerun is superfluous: the slot has run this version of the module on this input."""


class Scheduler(Protocol):
    """Called while a job waits for its module."""

    def yield_room(self, work: Work) -> AbstractContextManager[None]:
        """Give the job's room to others for the duration of a block."""

    def resume(self, slot_key: str) -> None:
        """Run the job of a slot that raised ``ModuleAwaitedError`` before."""


class ModuleLookup:
    """Gives jobs their compiled modules; used from one event loop.

    ``find(slot, reference)``: see :meth:`ModuleFinder.find`. ``is_written(path, version, lately)``:
    see :meth:`Intake.is_module_written`. Both may hang on a mount.
    """

    def __init__(
        self,
        settings: Settings,
        layout: Layout,
        find: Callable[[Slot, str | None], PinnedModule | None],
        is_written: Callable[[str, FileVersion, float], bool],
        executor: Executor,
        journal: Journal,
        table: WorkTable,
    ) -> None:
        self._settings = settings
        self._layout = layout
        self._find_blocking = find
        self._is_written_blocking = is_written
        self._executor = executor
        self._journal = journal
        self._table = table
        self._waits: ModuleWaits[Callable[[], None]] = ModuleWaits(lambda resume: resume())
        """Jobs whose module is missing, by the paths or the digest that it may appear at."""
        self._parked: dict[str, Wait[Callable[[], None]]] = {}
        """The waits of jobs without a task, by the key of their slot."""
        self._recent: OrderedDict[str, Job] = OrderedDict()
        """The last job of each slot that a drop of its module reruns, with that module."""
        self._mount_threads = MountThreads()
        self._is_stopping = False

    def wake(self, path: str, sha256: str | None) -> None:
        """Resume each job that waits for the module at ``path``, or of this digest."""
        self._waits.wake((path, f"{DIGEST_PREFIX}{sha256}"))

    def stop_waiting(self, slot_key: str) -> bool:
        """End the wait of a slot's job without resuming it; return False if it does not wait."""
        wait = self._parked.pop(slot_key, None)
        if wait is None:
            return False
        self._waits.cancel(wait)
        return True

    def stop(self) -> None:
        """Resume no job any more."""
        self._is_stopping = True
        self._waits.close()

    def close(self) -> None:
        """Release the mount table."""
        self._mount_threads.close()

    def has_run(self, slot: Slot, version: FileVersion) -> bool:
        """Whether the slot is known to have run this version of its module a moment ago.

        The journal knows all slots, but only what was written.
        """
        last = self._recent.get(slot.key)
        return last is not None and last.module is not None and last.module.version == version

    def in_memory(self, work: Work, options: EngineOptions) -> CompiledModule | None:
        """Return the job's module if it is known and its machine code is in memory."""
        if work.job.module is None:
            return None
        found = self._executor.compiled(work.job.module.sha256, options)
        if found is not None:
            self._note_version(work.job)
        return found

    async def compiled(
        self, work: Work, reference: str | None, options: EngineOptions, scheduler: Scheduler
    ) -> CompiledModule:
        """Find the job's module and have it compiled.

        Raises ``RefusedError``; ``ModuleAwaitedError`` if the job has to wait for its module;
        ``AlreadyRunError``.
        """
        if work.job.module is None:
            work = await self._pin(work, reference, scheduler)
            self._check_rerun(work, reference)
        self._note_version(work.job)
        with scheduler.yield_room(work):
            while True:
                work = self._table.current(work)
                pinned = work.job.module
                assert pinned is not None  # noqa: S101 - pinned just above
                found = self._executor.compiled(pinned.sha256, options)
                if found is not None:
                    return found
                if work.job.state is not JobState.COMPILING:
                    work = self._table.move(work, JobState.COMPILING)
                try:
                    compiled = await self._compile(work, pinned.sha256, options)
                except RefusedError as refusal:
                    if not await self._has_changed(work, reference, refusal, pinned, scheduler):
                        raise
                else:
                    self._table.move(work, JobState.QUEUED)  # it may have to wait for a worker
                    return compiled

    async def _compile(self, work: Work, sha256: str, options: EngineOptions) -> CompiledModule:
        def on_progress(text: str) -> None:
            job = self._table.current(work).job
            if job.state is JobState.COMPILING:
                self._journal.explain(job, text)

        # The owner of a directory shares one turn among all directories below it.
        owners = top_directory(work.slot_key)
        started = time.perf_counter()
        try:
            return await self._executor.compile(sha256, options, on_progress, owners)
        finally:
            seconds = work.compile_seconds + time.perf_counter() - started
            self._table.evolve(work, compile_seconds=seconds)

    def _check_rerun(self, work: Work, reference: str | None) -> None:
        """Raise ``AlreadyRunError`` if the job before did what this one is for.

        When a drop of the module was handled, that job had another version: a newer one, or an
        incomplete one, after which it looked again.
        """
        job, last = work.job, self._recent.get(work.slot_key)
        if not work.is_for_module or reference is not None or last is None or last.id == job.id:
            return
        if (last.input, last.module) == (job.input, job.module):
            raise AlreadyRunError(f"job {last.id} ran this version of the module on this input")

    def _note_version(self, job: Job) -> None:
        """Remember which version of a module the slot runs, if a drop of that file reruns it."""
        pinned, slot = job.module, job.slot
        if pinned is None or pinned.version is None:
            return
        own = f"{os.path.dirname(slot.input_path)}/{MODULE_NAME}"  # noqa: PTH120 - any bytes
        if slot.is_root or pinned.path == own:
            self._recent[slot.key] = job
            self._recent.move_to_end(slot.key)
            if len(self._recent) > _RECENT_SLOTS:
                self._recent.popitem(last=False)

    async def _pin(self, work: Work, reference: str | None, scheduler: Scheduler) -> Work:
        """Find the job's module.

        Raises ``ModuleAwaitedError`` if it is missing, ``RefusedError`` after the deadline.
        """
        now = asyncio.get_running_loop().time
        deadline = (
            now() + self._settings.module_wait_sec if work.deadline is None else work.deadline
        )
        work = self._table.evolve(work, deadline=deadline)
        slot = work.job.slot
        while True:
            # Before the lookup, so that no drop between lookup and wait is missed.
            wait = self._waits.watch(
                self._resuming(slot, scheduler), self._wake_keys(slot, reference), deadline
            )
            try:
                pinned = await self._lookup(work, reference, scheduler)
                if pinned is not None:
                    self._waits.cancel(wait)
                    return self._pinned(work, pinned)
                if now() >= deadline:
                    raise RefusedError(Code.MODULE_MISSING, self._why_missing(slot, reference))
                if self._is_stopping:
                    raise asyncio.CancelledError
                if work.job.state is not JobState.WAITING:
                    work = self._table.move(work, JobState.WAITING)
                    places = self._places(slot, reference)
                    self._journal.explain(work.job, f"its module is not there yet: {places}")
            except BaseException:
                self._waits.cancel(wait)
                raise
            if self._park(slot, wait):
                raise ModuleAwaitedError

    def _park(self, slot: Slot, wait: Wait[Callable[[], None]]) -> bool:
        if not self._waits.park(wait):
            return False
        self._parked[slot.key] = wait
        return True

    def _resuming(self, slot: Slot, scheduler: Scheduler) -> Callable[[], None]:
        def resume() -> None:
            del self._parked[slot.key]
            scheduler.resume(slot.key)

        return resume

    def _pinned(self, work: Work, module: PinnedModule) -> Work:
        job = self._table.current(work).job
        return self._table.evolve(work, job=msgspec.structs.replace(job, module=module))

    async def _lookup(
        self, work: Work, reference: str | None, scheduler: Scheduler
    ) -> PinnedModule | None:
        """Look for the job's module; others get its room if that takes long."""
        lookup = asyncio.ensure_future(self._find(work.job.slot, reference))
        await asyncio.wait([lookup], timeout=_SLOW_LOOKUP_SECONDS)
        if lookup.done():
            return lookup.result()
        with scheduler.yield_room(work):
            return await lookup

    async def _find(self, slot: Slot, reference: str | None) -> PinnedModule | None:
        path = slot.input_path if reference is None else self._layout.wasm_dir
        return await self._mount_threads.run(path, self._find_blocking, slot, reference)

    def _wake_keys(self, slot: Slot, reference: str | None) -> list[str]:
        if _is_digest(reference):
            return [str(reference).lower()]
        return [place.path for place in self._layout.module_places(slot, reference)]

    def _why_missing(self, slot: Slot, reference: str | None) -> str:
        if _is_digest(reference):
            return f"no module of that digest was seen before: {reference}"
        places = self._places(slot, reference)
        return (
            f"no module appeared within {self._settings.module_wait_sec:g} s; looked for {places}"
        )

    def _places(self, slot: Slot, reference: str | None) -> str:
        if _is_digest(reference):
            return str(reference)
        return " and ".join(place.path for place in self._layout.module_places(slot, reference))

    async def _has_changed(
        self,
        work: Work,
        reference: str | None,
        refusal: RefusedError,
        pinned: PinnedModule,
        scheduler: Scheduler,
    ) -> bool:
        """Whether compiling again may help.

        So it is if an invalid file was still being written, and if the module cache evicted its
        copy before it was compiled, and finding the module made another copy.
        """
        if pinned.version is None:
            return False
        if refusal.code is Code.MODULE_MISSING:
            again = await self._find(work.job.slot, reference)
            return again is not None and again.sha256 == pinned.sha256
        if refusal.code is not Code.INVALID_MODULE:
            return False
        await asyncio.sleep(self._settings.settle_sec)
        return await self._is_replaced(self._table.current(work), reference, pinned, scheduler)

    async def _is_replaced(
        self, work: Work, reference: str | None, pinned: PinnedModule, scheduler: Scheduler
    ) -> bool:
        """Return whether there is another module now.

        Raises ``ModuleAwaitedError`` while a process writes this one, until it has not changed for
        as long as a job waits for a module.
        """
        slot = work.job.slot
        deadline = asyncio.get_running_loop().time() + self._settings.module_wait_sec
        wait = self._waits.watch(
            self._resuming(slot, scheduler), self._wake_keys(slot, reference), deadline
        )
        try:
            found = await self._find(slot, reference)
            is_other = found is not None and found.sha256 != pinned.sha256
            if found is None or not (is_other or await self._is_being_written(work, found)):
                return False
            work = self._pinned(work, found)
            self._note_version(work.job)
            if is_other:
                return True
            if self._is_stopping:
                raise asyncio.CancelledError
            work = self._table.move(work, JobState.WAITING)
            self._journal.explain(
                work.job, f"its module is not complete yet, a process is writing it: {found.path}"
            )
            if not self._park(slot, wait):
                return True
            unpinned = msgspec.structs.replace(work.job, module=None)
            self._table.evolve(work, job=unpinned, deadline=None)
            raise ModuleAwaitedError
        finally:
            if not wait.is_parked:
                self._waits.cancel(wait)

    async def _is_being_written(self, work: Work, module: PinnedModule) -> bool:
        assert module.version is not None  # noqa: S101 - found as a file
        now = asyncio.get_running_loop().time()
        incomplete = work.incomplete
        if incomplete is None or incomplete[0] != module.version:
            incomplete = module.version, now
            self._table.evolve(work, incomplete=incomplete)
        if now - incomplete[1] >= self._settings.module_wait_sec:
            return False
        return await self._mount_threads.run(
            module.path,
            self._is_written_blocking,
            module.path,
            module.version,
            self._settings.module_wait_sec,
        )


def _is_digest(reference: str | None) -> bool:
    return reference is not None and reference.startswith(DIGEST_PREFIX)
