"""Undelivered results: kept on disk, in bounds, and tried again, one directory after the other.

In memory, a result that waits is a small record. A directory is opened before anything is loaded
for it, directories take turns, and what fails again waits longer. The other jobs of a slot whose
results wait do so too; other slots do not notice. Past the bounds the oldest results are discarded.
"""

import asyncio
import heapq
import itertools
import os
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.intake.finished_slots import true_marker
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.runner import Stages, ids_of, log_finished
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.outcome import OutputTree
from wasmdrop.settings import Settings
from wasmdrop.system import openat2
from wasmdrop.system.durable_files import sync_directory
from wasmdrop.system.tree_removal import remove_tree
from wasmdrop.system.untrusted_trees import TreeLimitError, inventory

__all__ = ["UndeliveredResults", "is_delivered"]

_log = structlog.get_logger()

#: Directories that are tried at a time: as many results are in memory.
_AT_ONCE: Final = 2

#: How long a try may take before another directory is tried beside it, in seconds.
_SLOW_SECONDS: Final = 2.0

#: Pauses between two tries, in seconds: the first one at most, and the longest. A disk that has
#: room again is used soon.
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 15.0
_MOST_DOUBLINGS: Final = 16

#: Where much waits, pauses are longer: tries that fail take no more than so many a second, nor more
#: than so many bytes a second.
_TRIES_PER_SECOND: Final = 50
_BYTES_PER_SECOND: Final = 4 * MEBIBYTE


@dataclass(slots=True)
class _UndeliveredResult:
    """The results of one slot's job."""

    job_id: str
    slot_key: str
    directory: "_ResultDirectory"
    size_bytes: int
    finished_at_ns: int
    failures: int = 0
    is_checked: bool = True
    """Whether its output files are as this daemon left them: a power cut may have taken some."""
    is_busy: bool = False
    """Whether they are being delivered, so that they can't be discarded."""
    is_gone: bool = False


@dataclass(slots=True)
class _ResultDirectory:
    """The slots of one directory whose results wait."""

    path: str
    kept: dict[str, _UndeliveredResult] = field(default_factory=dict)
    due: list[tuple[float, int, _UndeliveredResult]] = field(default_factory=list)
    """A heap: when to try which, by the loop's clock."""
    failures: int = 0
    is_scheduled: bool = False


class UndeliveredResults:
    """Has the results that wait. Used from one event loop.

    ``on_settled``: called with the job of a slot that may go on, and whether that job is to run
    again, because its results were lost.
    """

    def __init__(
        self, settings: Settings, stages: Stages, on_settled: Callable[[Job, bool], None]
    ) -> None:
        self._most_jobs = settings.undelivered_jobs
        self._most_bytes = settings.undelivered_mb * MEBIBYTE
        self._let_go_seconds = settings.let_go_sec
        self._stages = stages
        self._on_settled = on_settled
        self._kept: OrderedDict[str, _UndeliveredResult] = OrderedDict()
        """By slot, the oldest first."""
        self._count = 0
        self._bytes = 0
        self._directories: dict[str, _ResultDirectory] = {}
        self._turns: list[tuple[float, int, _ResultDirectory]] = []
        """A heap: when to try which directory."""
        self._serial = itertools.count()
        self._trying = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    def holds(self, slot_key: str) -> bool:
        """Whether results of this slot wait, so that its other jobs must wait too."""
        return slot_key in self._kept

    async def keep(
        self, job: Job, results: ResultPackage, reason: str, placed: "asyncio.Future[None]"
    ) -> None:
        """Keep results whose delivery failed, or takes long: then ``placed`` is not done yet.

        Returns when they are durable. The caller needs to hold nothing of them any more.
        """
        kept = self._add(job, 0)
        kept.is_busy = True
        await self._stages.journal.keep_package(job, results, _waits(reason))
        output = results.output.files if results.output else ()
        self._grow(kept, results.size_bytes + sum(file.size_bytes for file in output))
        if placed.done():
            self._on_first(job, kept, results.size_bytes, placed)
        else:
            size_bytes = results.size_bytes
            placed.add_done_callback(lambda it: self._on_first(job, kept, size_bytes, it))
        self._start(self._keep_in_bounds())

    def resume(self, job: Job, size_bytes: int) -> None:
        """Take results that an earlier daemon kept; they are in the journal."""
        kept = self._add(job, size_bytes)
        kept.is_checked = False
        self._schedule(kept, 0.0)
        if self._is_over():
            self._start(self._keep_in_bounds())

    def stop(self) -> None:
        """Try nothing any more: the journal has all of it, and storage may never come back."""
        self._is_stopping = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()

    async def ended(self) -> None:
        """Wait for the end of what was stopped."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # What is kept

    def _add(self, job: Job, size_bytes: int) -> _UndeliveredResult:
        path = job.slot.directory
        directory = self._directories.get(path)
        if directory is None:
            directory = self._directories[path] = _ResultDirectory(path)
        finished_ns = job.finished_at_ns or time.time_ns()
        kept = _UndeliveredResult(job.id, job.slot.key, directory, 0, finished_ns)
        self._kept[kept.slot_key] = directory.kept[kept.slot_key] = kept
        self._count += 1
        self._stages.metrics.undelivered = self._count
        self._grow(kept, size_bytes)
        return kept

    def _grow(self, kept: _UndeliveredResult, size_bytes: int) -> None:
        kept.size_bytes += size_bytes
        self._bytes += size_bytes
        self._stages.metrics.undelivered_bytes = self._bytes

    def _take_out(self, kept: _UndeliveredResult) -> None:
        """Count it no more; its slot stays as it is until :meth:`_let_go_on`."""
        kept.is_gone = True
        directory = kept.directory
        del directory.kept[kept.slot_key]
        if not directory.kept:
            self._directories.pop(directory.path, None)
        self._count -= 1
        self._stages.metrics.undelivered = self._count
        self._grow(kept, -kept.size_bytes)

    def _let_go_on(self, kept: _UndeliveredResult, job: Job, *, runs_again: bool = False) -> None:
        del self._kept[kept.slot_key]
        self._on_settled(job, runs_again)

    def _on_first(
        self, job: Job, kept: _UndeliveredResult, size_bytes: int, placed: "asyncio.Future[None]"
    ) -> None:
        """Settle or schedule it: the first delivery, which was slow, has come to its end."""
        kept.is_busy = False
        if placed.cancelled() or placed.exception() is not None:
            self._schedule(kept, self._pause_seconds(0))
        elif not kept.is_gone:
            kept.is_busy = True
            self._start(self._settle(kept, job, size_bytes))

    async def _settle(self, kept: _UndeliveredResult, job: Job, size_bytes: int) -> None:
        """Close the job of results that are in place."""
        self._take_out(kept)
        self._stages.metrics.delivered(job, size_bytes)
        job, durable = self._stages.journal.move(job, JobState.DELIVERED)
        log_finished(job)
        self._let_go_on(kept, job)
        await durable
        await asyncio.to_thread(self._remove, job.id, None)

    # Bounds

    def _is_over(self) -> bool:
        return self._count > self._most_jobs or self._bytes > self._most_bytes

    async def _keep_in_bounds(self) -> None:
        while self._is_over():
            oldest = next((one for one in self._kept.values() if self._may_go(one)), None)
            if oldest is None:
                return
            await self._discard(oldest, "result-discarded", self._why_over())

    @staticmethod
    def _may_go(kept: _UndeliveredResult) -> bool:
        return not kept.is_busy and not kept.is_gone

    def _why_over(self) -> str:
        return (
            f"{self._count} undelivered results of {self._bytes} bytes are more than"
            f" WASMDROP_UNDELIVERED_JOBS ({self._most_jobs}) or WASMDROP_UNDELIVERED_MB"
            f" ({self._most_bytes // MEBIBYTE}) allow, and this one is the oldest"
        )

    async def _discard(self, kept: _UndeliveredResult, event: str, reason: str) -> None:
        """Give up results; their job ends as DISCARDED."""
        size_bytes = kept.size_bytes
        self._take_out(kept)
        journal = self._stages.journal
        found = await journal.load_job(kept.job_id)
        job, durable = journal.move(found.job, JobState.DISCARDED)
        await durable
        self._stages.metrics.results_discarded += 1
        _log.warning(event, **ids_of(job), bytes=size_bytes, error=reason)
        self._let_go_on(kept, job)
        await asyncio.to_thread(self._remove, job.id, found.kept_output)

    # FairQueue

    def _schedule(self, kept: _UndeliveredResult, pause_seconds: float) -> None:
        """Try it again after a pause."""
        if kept.is_gone or self._is_stopping:
            return
        directory = kept.directory
        at = asyncio.get_running_loop().time() + pause_seconds
        heapq.heappush(directory.due, (at, next(self._serial), kept))
        if not directory.is_scheduled:
            self._schedule_directory(directory, directory.due[0][0])

    def _schedule_directory(self, directory: _ResultDirectory, at: float) -> None:
        directory.is_scheduled = True
        heapq.heappush(self._turns, (at, next(self._serial), directory))
        self._pump()

    def _pump(self) -> None:
        """Begin what is due, and see that the next is begun when it is."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._turns and self._trying < _AT_ONCE and self._turns[0][0] <= loop.time():
            directory = heapq.heappop(self._turns)[2]
            self._trying += 1
            self._start(self._turn(directory))
        if self._turns and self._trying < _AT_ONCE:
            self._timer = loop.call_at(self._turns[0][0], self._pump)

    async def _turn(self, directory: _ResultDirectory) -> None:
        """Try one result of a directory."""
        loop = asyncio.get_running_loop()
        has_ended = False

        def make_room() -> None:
            nonlocal has_ended
            if not has_ended and not self._is_stopping:
                has_ended = True
                self._trying -= 1
                self._pump()

        slow = loop.call_later(_SLOW_SECONDS, make_room)
        pause_seconds = 0.0
        kept = self._next_due(directory)
        try:
            if kept is not None:
                pause_seconds = await self._try(directory, kept)
        except Exception:  # noqa: BLE001 - the others must go on
            _log.exception("delivery-retry-failed", directory=directory.path)
            pause_seconds = _LONGEST_PAUSE_SECONDS
            if kept is not None:
                kept.is_busy = False
                self._put_back(kept)
        finally:
            slow.cancel()
        directory.is_scheduled = False
        if directory.due:
            at = max(loop.time() + pause_seconds, directory.due[0][0])
            self._schedule_directory(directory, at)
        make_room()

    @staticmethod
    def _next_due(directory: _ResultDirectory) -> _UndeliveredResult | None:
        while directory.due:
            kept = heapq.heappop(directory.due)[2]
            if not kept.is_gone:
                return kept
        return None

    async def _try(self, directory: _ResultDirectory, kept: _UndeliveredResult) -> float:
        """Try to deliver; return how long the directory is to be left alone, in seconds."""
        kept.is_busy = True
        try:
            await self._stages.delivery.probe(directory.path)
        except OSError as error:
            kept.is_busy = False
            pause_seconds = self._pause_seconds(directory.failures)
            directory.failures += 1
            self._log_wait(kept, directory.failures, error, pause_seconds)
            if isinstance(error, FileNotFoundError):
                await self._let_go_old(directory, error)
            self._put_back(kept)
            return pause_seconds
        directory.failures = 0
        found = await self._stages.journal.load_job(kept.job_id)
        job = found.job
        package = await self._load(kept, job)
        if package is None:
            await self._run_again(kept, job, found.kept_output)
            return 0.0
        try:
            await self._stages.delivery.deliver_again(job.slot, package)
        except OSError as error:
            kept.is_busy = False
            pause_seconds = self._pause_seconds(kept.failures)
            kept.failures += 1
            self._log_wait(kept, kept.failures, error, pause_seconds)
            self._stages.journal.explain(job, _waits(str(error)))
            if isinstance(error, FileNotFoundError):
                await self._let_go_old(directory, error)
            self._schedule(kept, pause_seconds)
            return 0.0
        await self._settle(kept, job, package.size_bytes)
        return 0.0

    def _pause_seconds(self, failures: int) -> float:
        """Return a pause, ever longer, and not the same for all."""
        longest = max(
            _LONGEST_PAUSE_SECONDS,
            self._count / _TRIES_PER_SECOND,
            self._bytes / _BYTES_PER_SECOND,
        )
        pause = min(longest, _FIRST_PAUSE_SECONDS * 2 ** min(failures, _MOST_DOUBLINGS))
        return random.uniform(pause / 2, pause)  # noqa: S311 - nothing depends on it

    def _put_back(self, kept: _UndeliveredResult) -> None:
        """Let it keep its place: it was not its fault."""
        if not kept.is_gone:
            heapq.heappush(kept.directory.due, (0.0, next(self._serial), kept))

    async def _load(self, kept: _UndeliveredResult, job: Job) -> ResultPackage | None:
        package = await self._stages.journal.load_package(job)
        if package is None or package.output is None or kept.is_checked:
            return package
        kept.is_checked = await asyncio.to_thread(_is_whole, package.output)
        return package if kept.is_checked else None

    async def _run_again(self, kept: _UndeliveredResult, job: Job, output: str | None) -> None:
        """Have a job run once more whose results are not whole, unless they were delivered."""
        if await asyncio.to_thread(is_delivered, job):
            await self._settle(kept, job, 0)
            return
        self._take_out(kept)
        await self._stages.journal.forget_package(job)
        job = self._stages.journal.move_lazily(job, JobState.QUEUED)
        await asyncio.to_thread(self._remove, job.id, output)
        self._let_go_on(kept, job, runs_again=True)

    def _remove(self, job_id: str, output: str | None) -> None:
        """Remove what was kept of results; blocks."""
        self._stages.journal.remove_results(job_id)
        if not output:
            return
        root = Path(output)
        try:
            parent = openat2.open_directory(str(root.parent), "")
            try:
                remove_tree(parent, root.name)
            finally:
                os.close(parent)
        except OSError as error:
            _log.warning("leftover-removal-failed", path=output, error=str(error))

    async def _let_go_old(self, directory: _ResultDirectory, error: OSError) -> None:
        """Discard what has waited for long enough for a directory that is gone."""
        while directory.kept:
            oldest = next(iter(directory.kept.values()))
            waited_seconds = (time.time_ns() - oldest.finished_at_ns) / 1e9
            if not self._may_go(oldest) or waited_seconds <= self._let_go_seconds:
                return
            await self._discard(oldest, "result-discarded", str(error))

    def _log_wait(
        self, kept: _UndeliveredResult, failures: int, error: OSError, pause_seconds: float
    ) -> None:
        if failures & (failures - 1):
            return  # the first ones, and then ever fewer
        _log.warning(
            "delivery-postponed",
            job=kept.job_id,
            slot=kept.slot_key,
            results=len(kept.directory.kept),
            error=str(error),
            again_in=round(pause_seconds, 1),
        )

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._is_stopping:
            task.cancel()


def _waits(reason: str) -> str:
    return f"its results wait for storage: {reason}"


def _is_whole(output: OutputTree) -> bool:
    """Whether all output files are there as they were: a power cut may have taken some of them."""
    try:
        found = inventory(output.root, sum(file.size_bytes for file in output.files))
    except (OSError, TreeLimitError):
        return False
    same_files = set(found.files) == set(output.files)
    return same_files and set(found.directories) == set(output.directories)


def is_delivered(job: Job) -> bool:
    """Whether the slot holds the marker of this very job, durably, and the marker is true."""
    marker = true_marker(job.slot)
    if marker is None or marker.job != job.id:
        return False
    try:
        # Whoever put it there may have died before that; then the journal is the last to know.
        root, relative = job.slot.result_location
        sync_directory(Path(root), relative)
    except OSError:
        return False
    return True
