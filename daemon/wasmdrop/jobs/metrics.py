"""Metrics: plain counters that ``/metrics`` reads.

An update costs one addition, or a search among sixteen bounds. Each counter is written by one
thread only. A reader on another thread sees recent values, but no consistent snapshot of all.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum

from wasmdrop.intake.counters import IntakeCounters
from wasmdrop.jobs.job import Job
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.system.histogram import Histogram


class JobStage(StrEnum):
    """A part of a job's total time."""

    QUEUED = "queued"
    """From the drop to the start of the last attempt, without compilation."""
    COMPILE = "compile"
    """Compiling its module, or waiting for another job's compilation of it."""
    RUN = "run"
    """In its process."""
    DELIVER = "deliver"
    """From the outcome to the marker."""
    TOTAL = "total"
    """From the drop to the marker."""


class Metrics:
    """The counters of jobs, written by the event loop's thread, except those of ``intake``."""

    def __init__(self) -> None:
        self.jobs: dict[Code, int] = dict.fromkeys(Code, 0)
        """Delivered jobs by code."""
        self.stages = {stage: Histogram() for stage in JobStage}
        # Ordered, because finding the first key of a dict takes longer after many removals.
        self.open_since_ns: OrderedDict[str, int] = OrderedDict()
        """When each undelivered job was dropped, since 1970-01-01 UTC, by its id; the job accepted
        first is the first."""
        self.running = 0
        self.delivering = 0
        """Jobs whose results are being delivered."""
        self.undelivered = 0
        """Jobs whose delivery failed, or takes long, and is retried."""
        self.undelivered_bytes = 0
        """The size of their results on disk, with output files."""
        self.results_discarded = 0
        """Results discarded, because of the bound of undelivered ones or because their slot was
        gone."""
        self.delivery_failures = 0
        self.delivery_error = ""
        """Why the last delivery failed, for people."""
        self.module_hits = 0
        """Jobs that found their module's machine code in memory."""
        self.held_directories: Callable[[], int] = lambda: 0
        """Returns how many top directories have a job that waits because of the running limit."""
        self.full_directories: Callable[[], int] = lambda: 0
        """Returns how many top directories have as many waiting jobs as they may have."""
        self.input_bytes = 0
        self.result_bytes = 0
        self.inputs_archived = 0
        self.inputs_removed = 0
        self.slots_removed = 0
        self.retention_failures = 0
        """Inputs and slots that could not be moved or removed."""
        self.intake = IntakeCounters()

    @property
    def queued(self) -> int:
        """Jobs that wait for their slot, their module, its compilation or a worker."""
        gone_on = self.running + self.delivering + self.undelivered
        return max(0, len(self.open_since_ns) - gone_on)

    def oldest_seconds(self, now_ns: int) -> float:
        """Return the age of the open job that was accepted first; 0 without one."""
        try:
            since_ns = next(iter(self.open_since_ns.values()), now_ns)
        except RuntimeError:  # another thread removed it meanwhile
            return self.oldest_seconds(now_ns)
        return max(0.0, (now_ns - since_ns) / 1e9)

    def taken(self, job: Job) -> None:
        """Count a job that was accepted, or resumed from an earlier daemon."""
        self.open_since_ns[job.id] = job.dropped_at_ns
        if job.input is not None:
            self.input_bytes += job.input.copied_bytes

    def executed(self, job: Job, outcome: Outcome) -> None:
        """Count the times of a job that has an outcome."""
        started_ns = job.started_at_ns or job.finished_at_ns or job.dropped_at_ns
        queued_seconds = (started_ns - job.dropped_at_ns) / 1e9 - outcome.compile_seconds
        self.stages[JobStage.QUEUED].observe(queued_seconds)
        if outcome.compile_seconds:
            self.stages[JobStage.COMPILE].observe(outcome.compile_seconds)
        if job.started_at_ns is not None:
            self.stages[JobStage.RUN].observe(outcome.run_seconds)

    def delivered(self, job: Job, size_bytes: int) -> None:
        """Count a delivered job, and the size of its results without output files."""
        now_ns = time.time_ns()
        self.jobs[job.code or Code.INTERNAL] += 1
        self.stages[JobStage.DELIVER].observe((now_ns - (job.finished_at_ns or now_ns)) / 1e9)
        self.stages[JobStage.TOTAL].observe((now_ns - job.dropped_at_ns) / 1e9)
        self.result_bytes += size_bytes

    def left(self, job_id: str) -> None:
        """Forget a job that is done."""
        self.open_since_ns.pop(job_id, None)
