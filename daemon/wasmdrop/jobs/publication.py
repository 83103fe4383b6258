"""Publication: makes the result files of a job that has an outcome, delivers them, closes the job.

The journal comes first: results are published only when a power cut can't undo the job, its attempt
and its decided end.
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from wasmdrop.delivery.delivery import Delivery
from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.delivery.worker_process import DeliveryHangsError, PendingDelivery
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.jobs.observer import JobObserver
from wasmdrop.jobs.result_files import package
from wasmdrop.jobs.runner import ids_of, log_finished
from wasmdrop.jobs.undelivered_results import UndeliveredResults
from wasmdrop.jobs.work_table import Work, WorkTable
from wasmdrop.proof.envelope import Signer
from wasmdrop.protocol.outcome import Outcome
from wasmdrop.protocol.slot import PinnedModule
from wasmdrop.protocol.text import describe_error
from wasmdrop.settings import Settings

_log = structlog.get_logger()

#: How long a delivery may take before the daemon checks whether its worker hangs, in seconds. If it
#: does, the results are kept on disk.
_SLOW_DELIVERY_SECONDS: Final = 2.0

#: Results of more output, in bytes, or of more output files are encoded on a thread; others take at
#: most some milliseconds.
_LARGE_OUTPUT_BYTES: Final = 1 << 20
_MANY_FILES: Final = 500


class ResultPublisher:
    """Publishes the results of jobs; used from one event loop.

    ``module_cid`` returns the content id of a module. ``hold`` counts the size of results that
    enter memory, in bytes; a negative size counts results that leave it. ``on_delivered`` is
    called with each job whose results are in place. ``signer`` and ``observer``: see
    :class:`Dispatcher`.
    """

    def __init__(
        self,
        settings: Settings,
        table: WorkTable,
        delivery: Delivery,
        metrics: Metrics,
        undelivered: UndeliveredResults,
        module_cid: Callable[[PinnedModule], Awaitable[str | None]],
        hold: Callable[[int], None],
        on_delivered: Callable[[Job], None],
        signer: Signer | None,
        observer: JobObserver | None,
    ) -> None:
        self._settings = settings
        self._table = table
        self._delivery = delivery
        self._metrics = metrics
        self._undelivered = undelivered
        self._module_cid = module_cid
        self._hold = hold
        self._on_delivered = on_delivered
        self._signer = signer
        self._observer = observer

    async def publish(self, work: Work, outcome: Outcome) -> None:
        """Publish the results of an active job that has an outcome, and close the job.

        If its slot can't take them now, they are kept and delivered later.
        """
        results = await self._finish(work, outcome)
        work = self._table.current(work)
        placement = self._delivery.stage(work.job.slot, results)
        try:
            await _until_durable(work)
        except asyncio.CancelledError:
            placement.abandon()
            raise
        await self._deliver(work, placement)

    async def _finish(self, work: Work, outcome: Outcome) -> ResultPackage:
        """Move the job to EXECUTED and return its results."""
        changes = {
            "finished_at_ns": time.time_ns(),
            "code": outcome.code,
            "message": outcome.message,
            "worker": outcome.worker,
        }
        job = self._table.current(work).job
        is_alone = job.end is not None and not self._table.follows_another(work.slot_key)
        if job.state is JobState.RUNNING or is_alone:
            work = self._table.move(work, JobState.EXECUTED, **changes)
        else:
            # It did not run, so the next start would not look for its marker. Its marker also
            # replaces the one of the job before it, which the journal may not have closed yet.
            work, durable = self._table.move_durably(work, JobState.EXECUTED, **changes)
            await durable
        self._metrics.executed(work.job, outcome)
        if self._observer is not None:
            self._observer.executed(work.job, outcome)
        module = work.job.module
        module_cid = None if module is None else await self._module_cid(module)
        entry, args = _called(work)
        limits = work.limits or self._settings.limits
        make = functools.partial(
            package,
            *(work.job, entry, args, outcome, limits, module_cid),
            is_deterministic=work.is_deterministic,
            signer=self._signer,
        )
        return await asyncio.to_thread(make) if _is_large(outcome) else make()

    async def _deliver(self, work: Work, placement: PendingDelivery) -> None:
        """Publish the staged results and close the job; keep them if that fails or hangs."""
        job, metrics, size_bytes = work.job, self._metrics, placement.size_bytes
        metrics.delivering += 1
        self._hold(size_bytes)
        try:
            placed = placement.publish()
            await asyncio.wait([placed], timeout=_SLOW_DELIVERY_SECONDS)
            while not placed.done() and not placement.hangs():
                await asyncio.wait([placed], timeout=_SLOW_DELIVERY_SECONDS)
            error = placed.exception() if placed.done() else None
            if not placed.done() or error is not None:
                metrics.delivery_failures += 1
                silent = f"{job.slot.directory} does not answer"
                reason = silent if error is None else describe_error(error)
                metrics.delivery_error = reason
                if error is not None and not isinstance(error, DeliveryHangsError):
                    _log.warning("delivery-failed", **ids_of(job), error=reason)
                await self._undelivered.keep(job, placement.package, reason, placed)
                return
        finally:
            metrics.delivering -= 1
            self._hold(-size_bytes)
        metrics.delivered(job, size_bytes)
        if self._observer is not None:
            self._observer.delivered(job)
        job = self._table.close(work, placement.package.marker).job
        log_finished(job)
        self._on_delivered(job)


async def _until_durable(work: Work) -> None:
    """Wait until the journal holds the job, its attempt and its decided end durably."""
    for durable in (work.accepted, work.begun):
        if durable is not None:
            await durable
    if work.decided is not None:
        await asyncio.shield(work.decided)  # others wait for it, too


def _is_large(outcome: Outcome) -> bool:
    output_bytes = len(outcome.stdout or b"") + len(outcome.stderr or b"")
    files = 0 if outcome.output is None else len(outcome.output.files)
    return output_bytes > _LARGE_OUTPUT_BYTES or files > _MANY_FILES


def _called(work: Work) -> tuple[str | None, list[Any]]:
    """Return the entry and the arguments as the results echo them."""
    if work.plan is not None:
        return work.plan.entry, list(work.plan.args)
    if work.spec is not None:
        return work.spec.entry, list(work.spec.args or ())
    return None, []
