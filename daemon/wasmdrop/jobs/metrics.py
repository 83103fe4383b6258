"""Metrics: plain counters that ``/metrics`` reads.

An update costs one addition, or a search among sixteen bounds. Each counter is written by one
thread only. A reader on another thread sees recent values, but no consistent snapshot of all.
"""

import time
from bisect import bisect_left
from collections import OrderedDict
from enum import StrEnum
from typing import Final

from wasmdrop.intake.counters import IntakeCounters
from wasmdrop.jobs.job import Job
from wasmdrop.protocol.outcome import Code, Outcome

#: Upper bounds of the histogram buckets: from the run of a warm job to the longest default limit.
BOUNDS_SECONDS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)


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


class Histogram:
    """Counts durations by bucket of `BOUNDS_SECONDS`, and sums them."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_SECONDS) + 1)
        """By bucket, not cumulative; the last bucket has no upper bound."""
        self.sum_seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration; a negative one, after a clock change, counts as 0."""
        seconds = max(0.0, seconds)
        self.counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.sum_seconds += seconds


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
        self.module_hits = 0
        """Jobs that found their module's machine code in memory."""
        self.input_bytes = 0
        self.result_bytes = 0
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
