"""The last jobs, their failures by code and by module, and the modules. A bounded amount of each.

Each job updates it, so an update costs a few lookups and appends. The rest is computed on request.
"""

import statistics
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Final

from wasmdrop.jobs.job import Job
from wasmdrop.page.model import (
    MAX_JOBS,
    MAX_MODULES,
    NAME_LIMIT,
    REASON_LIMIT,
    CodeFailures,
    EndedJob,
    Module,
    ModuleFailures,
)
from wasmdrop.protocol.marker import timestamp
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.slot import PinnedModule
from wasmdrop.protocol.text import one_line

#: Runs of a module whose median is taken.
_RUNS: Final = 51


class _Failures:
    """Failures of one kind."""

    def __init__(self, job: Job) -> None:
        self.codes: dict[Code, int] = {}
        self.last = job

    def add(self, job: Job, code: Code) -> None:
        self.codes[code] = self.codes.get(code, 0) + 1
        self.last = job

    @property
    def count(self) -> int:
        return sum(self.codes.values())


class _Calls:
    """Calls of one module."""

    def __init__(self) -> None:
        self.count = 0
        self.failures = 0
        self.run_seconds: deque[float] = deque(maxlen=_RUNS)
        self.last: Job | None = None


class Activity:
    """An observer of jobs; used from the daemon's event loop.

    ``on_delivered`` is called with the latency of each delivered job, in seconds.
    """

    def __init__(self, on_delivered: Callable[[float], None]) -> None:
        self._on_delivered = on_delivered
        self._ended: deque[tuple[Job, float | None]] = deque(maxlen=MAX_JOBS)
        self._by_code: dict[Code, _Failures] = {}
        self._by_module: OrderedDict[str | None, _Failures] = OrderedDict()
        """By digest, None if it was not known; in the order of the last failures."""
        self._modules: OrderedDict[str, _Calls] = OrderedDict()
        """By digest; in the order of the last calls."""

    def executed(self, job: Job, outcome: Outcome) -> None:
        """Note a job that has an outcome."""
        self._add(job, outcome.code, None if job.started_at_ns is None else outcome.run_seconds)

    def delivered(self, job: Job) -> None:
        """Note a job whose results are in place."""
        self._on_delivered((time.time_ns() - job.dropped_at_ns) / 1e9)

    def seed(self, job: Job) -> None:
        """Note a job that ended before this daemon started. Call it for the oldest one first."""
        if job.code is None or job.finished_at_ns is None:
            return
        started_ns = job.started_at_ns
        # The journal has no time of the run alone.
        seconds = None if started_ns is None else max(0, job.finished_at_ns - started_ns) / 1e9
        self._add(job, job.code, seconds)

    def ended(self) -> tuple[EndedJob, ...]:
        """Return the last jobs."""
        return tuple(_ended(job, seconds) for job, seconds in reversed(self._ended))

    def failures_by_code(self) -> tuple[CodeFailures, ...]:
        """Return the failures of each code, the most frequent one first."""
        found = sorted(self._by_code.items(), key=lambda item: -item[1].count)
        return tuple(
            CodeFailures(code, failures.count, *_facts(failures.last)) for code, failures in found
        )

    def failures_by_module(self) -> tuple[ModuleFailures, ...]:
        """Return the failures of each module, the most frequent one first."""
        found = sorted(self._by_module.items(), key=lambda item: -item[1].count)
        return tuple(
            ModuleFailures(
                shown_module(failures.last.module),
                sha256,
                failures.count,
                {str(code): count for code, count in failures.codes.items()},
                *_facts(failures.last),
            )
            for sha256, failures in found
        )

    def modules(self, compile_seconds: Mapping[str, float]) -> tuple[Module, ...]:
        """Return the modules; ``compile_seconds``: of compiled modules, by digest."""
        found = []
        for sha256, calls in reversed(self._modules.items()):
            last = calls.last
            if last is None or last.module is None:
                continue
            runs = calls.run_seconds
            found.append(
                Module(
                    sha256,
                    one_line(last.module.path, NAME_LIMIT),
                    last.module.size_bytes,
                    calls.count,
                    calls.failures,
                    compile_seconds.get(sha256),
                    statistics.median_low(runs) if runs else None,
                    timestamp(last.finished_at_ns or last.dropped_at_ns),
                )
            )
        return tuple(found)

    def _add(self, job: Job, code: Code, run_seconds: float | None) -> None:
        self._ended.append((job, run_seconds))
        if job.end is not None and job.started_at_ns is None:
            # It was cancelled or refused before its module was called.
            self._by_code.setdefault(code, _Failures(job)).add(job, code)
            return
        sha256 = None if job.module is None else job.module.sha256
        if sha256 is not None:
            calls = self._modules.get(sha256)
            if calls is None:
                calls = self._modules[sha256] = _Calls()
                if len(self._modules) > MAX_MODULES:
                    self._modules.popitem(last=False)
            else:
                self._modules.move_to_end(sha256)
            calls.count += 1
            calls.failures += code is not Code.OK
            calls.last = job
            if run_seconds is not None:
                calls.run_seconds.append(run_seconds)
        if code is not Code.OK:
            self._fail(job, code, sha256)

    def _fail(self, job: Job, code: Code, sha256: str | None) -> None:
        self._by_code.setdefault(code, _Failures(job)).add(job, code)
        failures = self._by_module.get(sha256)
        if failures is None:
            failures = self._by_module[sha256] = _Failures(job)
            if len(self._by_module) > MAX_MODULES:
                self._by_module.popitem(last=False)
        else:
            self._by_module.move_to_end(sha256)
        failures.add(job, code)


def shown_module(module: PinnedModule | None) -> str | None:
    """Return the path of a module for the page."""
    return None if module is None else one_line(module.path, NAME_LIMIT)


def _shown_message(job: Job) -> str:
    """Return the message with its line breaks as spaces: backtraces have many."""
    return one_line(" ".join(job.message[: 2 * REASON_LIMIT].split()), REASON_LIMIT)


def _ended(job: Job, run_seconds: float | None) -> EndedJob:
    code = job.code or Code.INTERNAL
    finished_ns = job.finished_at_ns or job.dropped_at_ns
    return EndedJob(
        job=job.id,
        slot=one_line(job.slot.key, NAME_LIMIT),
        status=code.status,
        code=code,
        message=_shown_message(job),
        module=shown_module(job.module),
        id=None if job.producer_id is None else one_line(job.producer_id, NAME_LIMIT),
        attempt=job.attempt,
        worker=None if job.worker is None else one_line(job.worker, NAME_LIMIT),
        dropped_at=timestamp(job.dropped_at_ns),
        finished_at=timestamp(finished_ns),
        total_seconds=max(0, finished_ns - job.dropped_at_ns) / 1e9,
        run_seconds=run_seconds,
    )


def _facts(job: Job) -> tuple[str, str, str, str]:
    """Return id, slot, message and time of a failure."""
    return (
        job.id,
        one_line(job.slot.key, NAME_LIMIT),
        _shown_message(job),
        timestamp(job.finished_at_ns or job.dropped_at_ns),
    )
