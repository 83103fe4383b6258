"""Metrics: plain counters, updated where things happen and read by whoever serves them.

Promises to cost next to nothing: an addition to a number, a search among sixteen bounds. Assumes
that each number is written by one thread only; a reader on another thread sees each as it was a
moment ago, but not all of them at one moment.
"""

import time
from bisect import bisect_left
from collections import OrderedDict
from enum import StrEnum
from typing import Final

from wasmdrop.intake.counters import IntakeCounters
from wasmdrop.jobs.job import Job
from wasmdrop.protocol.outcome import Code, Outcome

__all__ = ["BOUNDS_SECONDS", "Histogram", "JobStage", "Metrics"]

#: Upper bounds of the histograms' buckets: from a warm job's run to the longest default limit.
BOUNDS_SECONDS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)


class JobStage(StrEnum):
    """What a job's time is spent on."""

    QUEUED = "queued"
    """From the drop to the start of its last attempt, compiling left out."""
    COMPILE = "compile"
    """Having its module compiled, or waiting for a compilation that others asked for."""
    RUN = "run"
    """In its process."""
    DELIVER = "deliver"
    """From its outcome to the marker in its place."""
    TOTAL = "total"
    """From the drop to the marker in its place."""


class Histogram:
    """How many durations fell between which of `BOUNDS_SECONDS`, and their sum."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_SECONDS) + 1)
        """By bucket, each without those below it; the last has no upper bound."""
        self.sum_seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration; a clock that was set back must not make it negative."""
        seconds = max(0.0, seconds)
        self.counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.sum_seconds += seconds


class Metrics:
    """What happened to jobs. Written by the event loop's thread, but for two."""

    def __init__(self) -> None:
        self.jobs: dict[Code, int] = dict.fromkeys(Code, 0)
        """Jobs whose results are in place, by code."""
        self.stages = {stage: Histogram() for stage in JobStage}
        # Ordered: its first is found at once, however many came and went before it.
        self.open_since_ns: OrderedDict[str, int] = OrderedDict()
        """When each job that has no results in place was dropped, since 1970-01-01 UTC, by its id:
        the one that was taken first is the first."""
        self.running = 0
        self.delivering = 0
        """Jobs that have an outcome, whose results are on their way to their place."""
        self.undelivered = 0
        """Jobs whose delivery failed, or takes long, and is tried again."""
        self.undelivered_bytes = 0
        """The size of their results, which are on disk; with output files."""
        self.results_discarded = 0
        """Results that were given up, for the bound of undelivered ones or because their slot was
        gone."""
        self.delivery_failures = 0
        self.module_hits = 0
        """Jobs that found their module's machine code at hand."""
        self.input_bytes = 0
        self.result_bytes = 0
        self.intake = IntakeCounters()

    @property
    def queued(self) -> int:
        """Jobs that wait: for their slot's turn, their module, its compilation or a worker."""
        gone_on = self.running + self.delivering + self.undelivered
        return max(0, len(self.open_since_ns) - gone_on)

    def oldest_seconds(self, now_ns: int) -> float:
        """Return how long ago the open job was dropped that was taken first; 0 without one."""
        try:
            since_ns = next(iter(self.open_since_ns.values()), now_ns)
        except RuntimeError:  # it was taken away between the two steps, in another thread
            return self.oldest_seconds(now_ns)
        return max(0.0, (now_ns - since_ns) / 1e9)

    def taken(self, job: Job) -> None:
        """Count a job that was accepted, or was left open by an earlier daemon."""
        self.open_since_ns[job.id] = job.dropped_at_ns
        if job.input is not None:
            self.input_bytes += job.input.copied_bytes

    def executed(self, job: Job, outcome: Outcome) -> None:
        """Count how long a job took on its way to ``outcome``."""
        started_ns = job.started_at_ns or job.finished_at_ns or job.dropped_at_ns
        queued_seconds = (started_ns - job.dropped_at_ns) / 1e9 - outcome.compile_seconds
        self.stages[JobStage.QUEUED].observe(queued_seconds)
        if outcome.compile_seconds:
            self.stages[JobStage.COMPILE].observe(outcome.compile_seconds)
        if job.started_at_ns is not None:
            self.stages[JobStage.RUN].observe(outcome.run_seconds)

    def delivered(self, job: Job, size_bytes: int) -> None:
        """Count a job whose results are in place, and their size without output files."""
        now_ns = time.time_ns()
        self.jobs[job.code or Code.INTERNAL] += 1
        self.stages[JobStage.DELIVER].observe((now_ns - (job.finished_at_ns or now_ns)) / 1e9)
        self.stages[JobStage.TOTAL].observe((now_ns - job.dropped_at_ns) / 1e9)
        self.result_bytes += size_bytes

    def left(self, job_id: str) -> None:
        """Forget a job that is done with."""
        self.open_since_ns.pop(job_id, None)
