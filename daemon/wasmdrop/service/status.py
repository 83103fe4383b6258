"""The status of a running daemon or worker: for systemd, and for the log at SIGUSR1.

Everything here reads memory only, in a few milliseconds, so that it answers while a mount hangs.
"""

import asyncio
import itertools
import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import structlog

from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.jobs.work_table import WorkTable
from wasmdrop.protocol.text import one_line
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.sandbox.host.module_cache.cache import ModuleCache
from wasmdrop.service.health.liveness import Liveness
from wasmdrop.service.health.probes import Health
from wasmdrop.service.systemd import extend_start, notify

if TYPE_CHECKING:
    from wasmdrop.hooks.sender import HookSender
    from wasmdrop.service.fleet import DaemonFleet

_log = structlog.get_logger()

#: How often systemd may get another status, in seconds.
_PERIOD_SECONDS: Final = 2.0

#: Limits of what one event has, and of a text in it, in characters.
_MAX_JOBS: Final = 20
_MAX_THREADS: Final = 64
_MAX_FRAMES: Final = 6
_MAX_TEXT: Final = 200

_STARTED_AT: Final = time.monotonic()


@dataclass
class DaemonStatus:
    """The present work of a daemon."""

    metrics: Metrics
    table: WorkTable
    local: LocalExecutor
    cache: ModuleCache
    liveness: Liveness
    health: Health
    watched: list[str]
    scan_seconds: Callable[[], float]
    fleet: "DaemonFleet | None"
    sender: "HookSender | None"
    has_recovered: bool = False

    def is_recovering(self) -> bool:
        """Return whether the daemon resumes jobs of an earlier one, which may take a while."""
        return not self.has_recovered and bool(self.metrics.open_since_ns)

    def line(self) -> str:
        """Return the status in one line."""
        metrics = self.metrics
        if self.is_recovering():
            return f"recovering {_jobs(len(metrics.open_since_ns))}"
        if self.health.why_not_ready == "starting":
            return "starting"
        if self.health.why_not_ready:
            return f"{self.health.why_not_ready}, {_jobs(metrics.running)} running"
        parts = [f"{_jobs(metrics.queued)} waiting, {metrics.running:,} running"]
        if metrics.undelivered:
            reason = f": {metrics.delivery_error}" if metrics.delivery_error else ""
            parts.append(f"{metrics.undelivered:,} undelivered{reason}")
        if paused := self.health.why_paused:
            parts.append(f"intake paused: {paused}")
        if problem := self.health.why_no_results():
            parts.append(problem)
        return one_line("; ".join(parts), _MAX_TEXT)

    def facts(self) -> dict[str, object]:
        """Return the status in detail."""
        metrics = self.metrics
        states, running = self._jobs_by_state()
        facts: dict[str, object] = {
            "state": self.health.why_not_ready or "ready",
            "paused": self.health.why_paused,
            "no_results": self.health.why_no_results(),
            "queued": metrics.queued,
            "running": metrics.running,
            "delivering": metrics.delivering,
            "undelivered": metrics.undelivered,
            "undelivered_bytes": metrics.undelivered_bytes,
            "delivery_error": metrics.delivery_error if metrics.undelivered else "",
            "by_state": states,
            "oldest_sec": round(metrics.oldest_seconds(time.time_ns()), 3),
            "delivered": sum(metrics.jobs.values()),
            "jobs": running,
            "zygotes": self.local.zygotes,
            "cache_bytes": self.cache.total_bytes,
            "watched": self.watched,
            "scan_sec": self.scan_seconds(),
            "silent": self.liveness.silent(),
        }
        if self.fleet is not None:
            view = self.fleet.metrics
            facts |= {
                "fleet_connected": view.is_connected,
                "fleet_away": view.is_away,
                "fleet_unanswered": view.unanswered,
                "fleet_waiting": view.waiting,
            }
        if self.sender is not None:
            backlog = self.sender.backlog()
            facts |= {"hook_pending": backlog.pending, "hook_oldest_sec": backlog.oldest_seconds}
        return facts

    def _jobs_by_state(self) -> tuple[dict[str, int], list[dict[str, object]]]:
        """Return how many jobs are in each state, and those that have begun the longest ago."""
        states: Counter[JobState] = Counter()
        begun: list[Job] = []
        for slot in self.table.slots():
            if (work := slot.active) is not None:
                states[work.job.state] += 1
                if work.job.state in {JobState.RUNNING, JobState.COMPILING, JobState.EXECUTED}:
                    begun.append(work.job)
        states[JobState.QUEUED] += max(0, len(self.table) - states.total())
        begun.sort(key=lambda job: job.dropped_at_ns)
        now_ns = time.time_ns()
        shown: list[dict[str, object]] = [
            {
                "job": job.id,
                "slot": one_line(job.slot.key, _MAX_TEXT),
                "state": str(job.state),
                "attempt": job.attempt,
                "seconds": round((now_ns - (job.started_at_ns or job.dropped_at_ns)) / 1e9, 3),
            }
            for job in itertools.islice(begun, _MAX_JOBS)
        ]
        return {str(state): count for state, count in states.items() if count}, shown


async def keep_systemd_informed(
    line: Callable[[], str], is_starting: Callable[[], bool] = lambda: False
) -> None:
    """Tell systemd the status whenever it has changed, until cancelled.

    A start that makes progress gets more time.
    """
    if "NOTIFY_SOCKET" not in os.environ:
        return
    told = ""
    while True:
        if (now := line()) != told:
            told = now
            notify(f"STATUS={now}")
            if is_starting():
                extend_start()
        await asyncio.sleep(_PERIOD_SECONDS)


def log_status(facts: dict[str, Any]) -> None:
    """Log the status, and where each thread is in the code."""
    _log.info(
        "status",
        uptime_sec=round(time.monotonic() - _STARTED_AT, 1),
        **facts,
        threads=threading.active_count(),
        stacks=_stacks(),
    )


def _stacks() -> dict[str, str]:
    """Return the innermost calls of each thread, by its name."""
    names = {one.ident: one.name for one in threading.enumerate()}
    # The newest thread is the first, and the main thread, which matters most, would be the last.
    frames = sys._current_frames()  # noqa: SLF001 - documented
    idents = [threading.main_thread().ident, *frames]
    shown = itertools.islice((one for one in dict.fromkeys(idents) if one in frames), _MAX_THREADS)
    return {f"{names.get(one, 'thread')} {one:x}": _calls(frames[one]) for one in shown if one}


def _calls(frame: FrameType) -> str:
    outer = (call for call in traceback.walk_stack(frame) if call[0].f_globals is not globals())
    calls = itertools.islice(outer, _MAX_FRAMES)
    return " < ".join(
        f"{one.f_code.co_name} {'/'.join(one.f_code.co_filename.split('/')[-2:])}:{line}"
        for one, line in calls
    )


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count:,} jobs"
