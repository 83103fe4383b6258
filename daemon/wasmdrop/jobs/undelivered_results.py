"""Undelivered results: kept on disk within bounds and retried until their slot takes them.

A directory is opened before any of its results are loaded. The other jobs of a slot whose results
are kept wait; other slots do not notice. Past the bounds the oldest results are discarded.
"""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import structlog

from wasmdrop.delivery.delivery import Delivery
from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.jobs.placed_marker import placed_marker
from wasmdrop.jobs.retry_schedule import (
    LONGEST_PAUSE_SECONDS,
    KeptResults,
    ResultDirectory,
    RetrySchedule,
)
from wasmdrop.jobs.runner import ids_of, log_finished
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.outcome import OutputTree
from wasmdrop.protocol.text import describe_error
from wasmdrop.settings import Settings
from wasmdrop.system import openat2
from wasmdrop.system.tree_removal import remove_tree
from wasmdrop.system.untrusted_trees import TreeLimitError, inventory

_log = structlog.get_logger()

#: Directories that are retried at a time: as many results are in memory.
_AT_ONCE: Final = 2

#: How long an attempt may take before another directory is retried beside it, in seconds.
_SLOW_SECONDS: Final = 2.0


class UndeliveredResults:
    """Keeps and retries results; used from one event loop.

    ``on_settled``: called with the job of a slot that may go on, and whether that job is to be
    rerun because its results were lost.
    """

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        delivery: Delivery,
        metrics: Metrics,
        on_settled: Callable[[Job, bool], None],
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._delivery = delivery
        self._metrics = metrics
        self._on_settled = on_settled
        self._schedule = RetrySchedule(
            settings.undelivered_jobs, settings.undelivered_mb * MEBIBYTE
        )
        self._retrying = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    def holds(self, slot_key: str) -> bool:
        """Whether results of this slot are kept, so that its other jobs must wait."""
        return self._schedule.holds(slot_key)

    async def keep(
        self, job: Job, results: ResultPackage, reason: str, placed: "asyncio.Future[None]"
    ) -> None:
        """Keep results whose delivery failed, or takes long: then ``placed`` is not done yet.

        Returns when they are durable; the caller can release their memory.
        """
        kept = self._schedule.add(job, 0)
        kept.is_busy = True
        self._count()
        await self._journal.keep_package(job, results, _note(reason))
        output = results.output.files if results.output else ()
        size_bytes = results.size_bytes
        self._schedule.grow(kept, size_bytes + sum(file.size_bytes for file in output))
        self._count()
        if placed.done():
            self._on_first_done(job, kept, size_bytes, placed)
        else:
            placed.add_done_callback(lambda it: self._on_first_done(job, kept, size_bytes, it))
        self._start(self._keep_in_bounds())

    def resume(self, job: Job, size_bytes: int) -> None:
        """Resume results that an earlier daemon kept in the journal."""
        kept = self._schedule.add(job, size_bytes)
        kept.is_checked = False
        self._count()
        self._retry(kept, 0.0)
        if self._schedule.is_over:
            self._start(self._keep_in_bounds())

    def use_settings(self) -> None:
        """Apply the bounds of the settings, which have changed."""
        self._schedule.most_jobs = self._settings.undelivered_jobs
        self._schedule.most_bytes = self._settings.undelivered_mb * MEBIBYTE
        self._start(self._keep_in_bounds())

    def stop(self) -> None:
        """Retry nothing more: the journal has all results, and storage may never come back."""
        self._is_stopping = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()

    async def ended(self) -> None:
        """Wait until the stopped tasks have ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _count(self) -> None:
        self._metrics.undelivered = self._schedule.count
        self._metrics.undelivered_bytes = self._schedule.size_bytes

    # The end of kept results

    def _on_first_done(
        self, job: Job, kept: KeptResults, size_bytes: int, placed: "asyncio.Future[None]"
    ) -> None:
        """Settle or retry: the first delivery, which may have been slow, has ended."""
        kept.is_busy = False
        if placed.cancelled() or placed.exception() is not None:
            self._retry(kept, self._schedule.pause_seconds(0))
        elif not kept.is_gone:
            kept.is_busy = True
            self._start(self._settle_first(kept, job, size_bytes))

    async def _settle_first(self, kept: KeptResults, job: Job, size_bytes: int) -> None:
        """Close the job of results whose first delivery was slow."""
        marker = b""
        if self._journal.events is not None:
            # The memory of the results was released when they were kept.
            package = await self._journal.load_package(job)
            found = package.marker if package else await self._placed_marker(job)
            if found is None:
                kept.is_busy = False
                self._retry(kept, self._schedule.pause_seconds(0))
                return
            marker = found
        await self._settle(kept, job, size_bytes, marker)

    async def _settle(self, kept: KeptResults, job: Job, size_bytes: int, marker: bytes) -> None:
        """Close the job of results that are in place, with this marker."""
        self._remove(kept)
        self._metrics.delivered(job, size_bytes)
        job, durable = self._journal.close_job(job, marker)
        log_finished(job)
        self._release(kept, job)
        await durable
        await asyncio.to_thread(self._remove_files, job.id, None)

    async def _keep_in_bounds(self) -> None:
        while self._schedule.is_over:
            oldest = self._schedule.oldest()
            if oldest is None:
                return
            await self._discard(oldest, self._schedule.why_over)

    async def _discard_old(self, directory: ResultDirectory, error: OSError) -> None:
        """Discard results that have waited long enough for a directory that is gone."""
        while directory.kept:
            oldest = next(iter(directory.kept.values()))
            waited_seconds = (time.time_ns() - oldest.finished_at_ns) / 1e9
            if not oldest.may_be_discarded or waited_seconds <= self._settings.let_go_sec:
                return
            await self._discard(oldest, describe_error(error))

    async def _discard(self, kept: KeptResults, reason: str) -> None:
        """Give up results; their job ends as DISCARDED."""
        size_bytes = kept.size_bytes
        self._remove(kept)
        found = await self._journal.load_job(kept.job_id)
        job, durable = self._journal.move(found.job, JobState.DISCARDED)
        await durable
        self._metrics.results_discarded += 1
        _log.warning("result-discarded", **ids_of(job), bytes=size_bytes, error=reason)
        self._release(kept, job)
        await asyncio.to_thread(self._remove_files, job.id, found.kept_output)

    async def _rerun(self, kept: KeptResults, job: Job, output: str | None) -> None:
        """Rerun a job whose kept results are damaged, unless they were delivered."""
        if (marker := await self._placed_marker(job)) is not None:
            await self._settle(kept, job, 0, marker)
            return
        self._remove(kept)
        await self._journal.forget_package(job)
        job = self._journal.move_lazily(job, JobState.QUEUED)
        await asyncio.to_thread(self._remove_files, job.id, output)
        self._release(kept, job, is_rerun=True)

    async def _placed_marker(self, job: Job) -> bytes | None:
        is_for_event = self._journal.events is not None
        return await asyncio.to_thread(placed_marker, job, is_for_event=is_for_event)

    def _remove(self, kept: KeptResults) -> None:
        self._schedule.remove(kept)
        self._count()

    def _release(self, kept: KeptResults, job: Job, *, is_rerun: bool = False) -> None:
        self._schedule.release(kept)
        self._on_settled(job, is_rerun)

    def _remove_files(self, job_id: str, output: str | None) -> None:
        """Remove the files of kept results; blocks."""
        self._journal.remove_results(job_id)
        if output:
            remove_output(output)

    # Retries

    def _retry(self, kept: KeptResults, pause_seconds: float) -> None:
        """Retry results after a pause."""
        self._schedule.schedule(kept, asyncio.get_running_loop().time() + pause_seconds)
        self._pump()

    def _pump(self) -> None:
        """Retry the directories whose turn it is; set a timer for the next one."""
        if self._is_stopping:
            return
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._retrying < _AT_ONCE:
            directory = self._schedule.next_directory(loop.time())
            if directory is None:
                break
            self._retrying += 1
            self._start(self._retry_one(directory))
        if self._retrying < _AT_ONCE and self._schedule.next_at is not None:
            self._timer = loop.call_at(self._schedule.next_at, self._pump)

    async def _retry_one(self, directory: ResultDirectory) -> None:
        """Retry one result of a directory."""
        loop = asyncio.get_running_loop()
        has_ended = False

        def make_room() -> None:
            nonlocal has_ended
            if not has_ended and not self._is_stopping:
                has_ended = True
                self._retrying -= 1
                self._pump()

        slow = loop.call_later(_SLOW_SECONDS, make_room)
        pause_seconds = 0.0
        kept = directory.next_due()
        try:
            if kept is not None:
                pause_seconds = await self._deliver(directory, kept)
        except Exception:  # noqa: BLE001 - a fault in one must not end the others
            _log.exception("delivery-retry-failed", directory=directory.path)
            pause_seconds = LONGEST_PAUSE_SECONDS
            if kept is not None:
                kept.is_busy = False
                self._schedule.put_back(kept)
        finally:
            slow.cancel()
        self._schedule.end_turn(directory, loop.time() + pause_seconds)
        self._pump()
        make_room()

    async def _deliver(self, directory: ResultDirectory, kept: KeptResults) -> float:
        """Try to deliver results; return how long to leave their directory alone, in seconds."""
        kept.is_busy = True
        try:
            await self._delivery.probe(directory.path)
        except OSError as error:
            kept.is_busy = False
            pause_seconds = self._schedule.pause_seconds(directory.failures)
            directory.failures += 1
            self._metrics.delivery_error = describe_error(error)
            _log_failure(kept, directory.failures, error, pause_seconds)
            if isinstance(error, FileNotFoundError):
                await self._discard_old(directory, error)
            self._schedule.put_back(kept)
            return pause_seconds
        directory.failures = 0
        found = await self._journal.load_job(kept.job_id)
        job = found.job
        package = await self._load(kept, job)
        if package is None:
            await self._rerun(kept, job, found.kept_output)
            return 0.0
        try:
            await self._delivery.deliver_again(job.slot, package)
        except OSError as error:
            kept.is_busy = False
            pause_seconds = self._schedule.pause_seconds(kept.failures)
            kept.failures += 1
            self._metrics.delivery_error = describe_error(error)
            _log_failure(kept, kept.failures, error, pause_seconds)
            self._journal.explain(job, _note(describe_error(error)))
            if isinstance(error, FileNotFoundError):
                await self._discard_old(directory, error)
            self._retry(kept, pause_seconds)
            return 0.0
        await self._settle(kept, job, package.size_bytes, package.marker)
        return 0.0

    async def _load(self, kept: KeptResults, job: Job) -> ResultPackage | None:
        package = await self._journal.load_package(job)
        if package is None or package.output is None or kept.is_checked:
            return package
        kept.is_checked = await asyncio.to_thread(_is_whole, package.output)
        return package if kept.is_checked else None

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._is_stopping:
            task.cancel()


def remove_output(root: str) -> None:
    """Remove the directory of output files that are not delivered; blocks."""
    path = Path(root)
    try:
        parent = openat2.open_directory(str(path.parent), "")
        try:
            remove_tree(parent, path.name)
        finally:
            os.close(parent)
    except OSError as error:
        _log.warning("leftover-removal-failed", path=root, error=str(error))


def _note(reason: str) -> str:
    return f"its results wait for storage: {reason}"


def _log_failure(kept: KeptResults, failures: int, error: OSError, pause_seconds: float) -> None:
    if failures & (failures - 1):
        return  # only failures 1, 2, 4, 8, ... are logged
    _log.warning(
        "delivery-postponed",
        job=kept.job_id,
        slot=kept.slot_key,
        results=len(kept.directory.kept),
        error=describe_error(error),
        again_in=round(pause_seconds, 1),
    )


def _is_whole(output: OutputTree) -> bool:
    """Whether all output files are there unchanged: a power cut may have lost some."""
    try:
        found = inventory(output.root, sum(file.size_bytes for file in output.files))
    except (OSError, TreeLimitError):
        return False
    # By content: results that an earlier version kept have no content ids.
    same_files = _contents(found) == _contents(output)
    return same_files and set(found.directories) == set(output.directories)


def _contents(output: OutputTree) -> set[tuple[str, str, int]]:
    return {(file.path, file.sha256, file.size_bytes) for file in output.files}
