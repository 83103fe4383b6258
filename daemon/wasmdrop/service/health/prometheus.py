"""Render the metrics in the formats of Prometheus.

Only this module and that of workers import prometheus-client; they are imported only if HTTP is on.
Names, units and types follow https://prometheus.io/docs/practices/naming/. Labels have few values:
codes, stages and parts, never file names or job ids.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from wasmdrop.intake.scanner import Scanner
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.service.health.liveness import Liveness
from wasmdrop.settings import GuestMode
from wasmdrop.system.histogram import BOUNDS_SECONDS, Histogram
from wasmdrop.web.message import HttpRequest, HttpResponse

if TYPE_CHECKING:
    from wasmdrop.fleet.daemon.metrics import FleetMetrics
    from wasmdrop.hooks.hook import HookBacklog

#: How long a rendering is served again, in seconds. One takes some milliseconds; thousands of
#: requests must not take them from probes and jobs.
_FRESH_SECONDS: Final = 0.1

_Stage = TypeVar("_Stage", bound=StrEnum)


class MetricsPage(Collector):
    """Renders the metrics that a subclass collects, and those of the process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        self._answers: dict[str, tuple[HttpResponse, float]] = {}
        """By format, of which there are few, with the time of rendering."""

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Return all metrics in the format that the client accepts."""
        encode, content_type = choose_encoder(request.header("accept"))
        now = time.monotonic()
        answer, made_at = self._answers.get(content_type, (None, 0.0))
        if answer is None or now - made_at > _FRESH_SECONDS:
            answer = HttpResponse(200, encode(self._registry), content_type)
            self._answers[content_type] = answer, now
        return answer


class PrometheusCollector(MetricsPage):
    """Renders the counters of a daemon; ``is_ready`` as for ``/readyz``, ``guest``: in use."""

    def __init__(
        self,
        metrics: Metrics,
        executor: LocalExecutor,
        scanner: Scanner,
        liveness: Liveness,
        guest: GuestMode,
        is_ready: Callable[[], bool],
        fleet: "FleetMetrics | None" = None,
        hook_backlog: "Callable[[], HookBacklog] | None" = None,
    ) -> None:
        self._metrics = metrics
        self._executor = executor
        self._scanner = scanner
        self._liveness = liveness
        self._guest = guest
        self._is_ready = is_ready
        self._fleet = fleet
        self._hook_backlog = hook_backlog
        super().__init__()

    def collect(self) -> Iterator[Metric]:
        """Yield each metric (prometheus-client's ``Collector``)."""
        metrics, executor = self._metrics, self._executor
        yield from process_metrics(self._guest, self._liveness, is_ready=self._is_ready())
        jobs = CounterMetricFamily(
            "wasmdrop_jobs", "Jobs whose results were delivered, by code.", labels=["code"]
        )
        for code, count in metrics.jobs.items():
            jobs.add_metric([code], count)
        yield jobs
        yield gauge("jobs_queued", "Accepted jobs that do not run yet.", metrics.queued)
        yield gauge(
            "jobs_running", "Jobs that run in a process, or are in the fleet.", metrics.running
        )
        yield gauge(
            "oldest_job_age_seconds",
            "Time since the drop of the oldest job without delivered results; 0 without one.",
            metrics.oldest_seconds(time.time_ns()),
        )
        at_limit = GaugeMetricFamily(
            "wasmdrop_directories_at_limit",
            "Top directories whose jobs wait, or are refused, because of one of their limits.",
            labels=["limit"],
        )
        at_limit.add_metric(["running"], metrics.held_directories())
        at_limit.add_metric(["queued"], metrics.full_directories())
        yield at_limit
        yield job_durations(metrics.stages)
        yield from executor_metrics(executor, metrics.module_hits)
        yield gauge(
            "undelivered_results",
            "Results in the journal whose delivery failed and is retried.",
            metrics.undelivered,
        )
        yield gauge(
            "undelivered_bytes", "Size of these results on disk.", metrics.undelivered_bytes
        )
        yield counter(
            "results_discarded",
            "Results discarded: too many were undelivered, or their slot was gone too long.",
            metrics.results_discarded,
        )
        yield counter(
            "delivery_failures", "First deliveries that failed.", metrics.delivery_failures
        )
        yield counter("scans", "Full scans.", self._scanner.scans)
        yield counter(
            "events_lost", "Times that file events were lost.", metrics.intake.events_lost
        )
        yield counter(
            "names_ignored",
            "Files logged as ignored because of names almost like those of inputs or modules.",
            metrics.intake.names_ignored,
        )
        yield counter(
            "inputs_archived", "Inputs moved to done/ or failed/.", metrics.inputs_archived
        )
        yield counter("inputs_removed", "Inputs removed by retention.", metrics.inputs_removed)
        yield counter("slots_removed", "Old slots removed.", metrics.slots_removed)
        yield counter(
            "retention_failures",
            "Inputs and slots that could not be moved or removed.",
            metrics.retention_failures,
        )
        yield counter("input_bytes", "Size of the accepted inputs.", metrics.input_bytes)
        yield counter("result_bytes", "Size of the delivered results.", metrics.result_bytes)
        if self._hook_backlog is not None:
            yield from _of_hook(self._hook_backlog())
        if self._fleet is not None:
            yield from _of_fleet(self._fleet, metrics.queued)


def _of_hook(backlog: "HookBacklog") -> Iterator[Metric]:
    yield gauge(
        "hook_pending_events", "Finished jobs that the hook has not taken yet.", backlog.pending
    )
    yield gauge(
        "hook_oldest_event_age_seconds",
        "Age of the oldest of these events; 0 without one.",
        backlog.oldest_seconds,
    )
    attempts = CounterMetricFamily(
        "wasmdrop_hook_events", "Events of the hook by result.", labels=["result"]
    )
    for result, count in (
        ("delivered", backlog.delivered),
        ("failed", backlog.failed),
        ("given-up", backlog.given_up),
    ):
        attempts.add_metric([result], count)
    yield attempts


def _of_fleet(fleet: "FleetMetrics", queued: int) -> Iterator[Metric]:
    yield gauge(
        "fleet_connected",
        "Whether a server of the fleet is reached: 1 or 0.",
        int(fleet.is_connected),
    )
    yield gauge(
        "fleet_backlog_jobs",
        "Jobs that wait here, or are in the fleet and not answered; workers are scaled by it.",
        queued + fleet.unanswered,
    )
    yield gauge(
        "fleet_unanswered_jobs", "Jobs in the fleet that are not answered.", fleet.unanswered
    )
    yield gauge(
        "fleet_waiting_jobs",
        "Jobs that are ready and wait for room in the window, or for the fleet.",
        fleet.waiting,
    )
    published = CounterMetricFamily(
        "wasmdrop_fleet_published", "Publications of jobs, by reason.", labels=["reason"]
    )
    for reason, count in fleet.published.items():
        published.add_metric([reason], count)
    yield published
    answers = CounterMetricFamily(
        "wasmdrop_fleet_answers", "Answers of workers, by verdict.", labels=["verdict"]
    )
    for verdict, count in fleet.answers.items():
        answers.add_metric([verdict], count)
    yield answers
    yield SummaryMetricFamily(
        "wasmdrop_fleet_answer_seconds",
        "Time from the publication of a job to its accepted answer.",
        fleet.answered,
        fleet.answer_seconds,
    )
    yield counter(
        "fleet_fallback_runs",
        "Jobs that ran on this machine because the fleet could not take or answer them.",
        fleet.fallback_runs,
    )


def process_metrics(guest: GuestMode, liveness: Liveness, *, is_ready: bool) -> Iterator[Metric]:
    """Yield the metrics of a daemon or a worker itself."""
    yield InfoMetricFamily(
        "wasmdrop_build",
        "Versions.",
        {"version": version("wasmdrop"), "wasmtime_version": version("wasmtime")},
    )
    yield InfoMetricFamily(
        "wasmdrop_guest",
        "What runs the jobs of modules that are called again: native or python.",
        {"guest": guest},
    )
    yield gauge("ready", "Whether new drops, or jobs of a fleet, are taken: 1 or 0.", is_ready)
    heard = GaugeMetricFamily(
        "wasmdrop_part_silence_seconds",
        "Time since the last heartbeat of each part of the daemon.",
        labels=["part"],
    )
    for part, seconds in liveness.ages_seconds().items():
        heard.add_metric([part], seconds)
    yield heard


def job_durations(stages: Mapping[_Stage, Histogram]) -> Metric:
    """Return the histograms of the stages of jobs."""
    durations = HistogramMetricFamily(
        "wasmdrop_job_duration_seconds",
        "Time that jobs spent in each stage; total is from drop to marker.",
        labels=["stage"],
    )
    for stage, histogram in stages.items():
        durations.add_metric([stage], _buckets(histogram), histogram.sum_seconds)
    return durations


def executor_metrics(executor: LocalExecutor, module_hits: int) -> Iterator[Metric]:
    """Yield the metrics of modules and of the sandbox."""
    hits = CounterMetricFamily(
        "wasmdrop_module_cache_hits",
        "Compiled modules found by jobs in memory, or loaded from disk.",
        labels=["where"],
    )
    hits.add_metric(["memory"], module_hits)
    hits.add_metric(["disk"], executor.compiler.loads)
    yield hits
    yield counter("module_cache_misses", "Modules compiled.", executor.compiler.begun)
    yield counter(
        "forking_server_restarts", "Times that the fork server died.", executor.fork_server.restarts
    )


def counter(name: str, text: str, value: float) -> Metric:
    """Return a counter without labels."""
    return CounterMetricFamily(f"wasmdrop_{name}", text, value)


def gauge(name: str, text: str, value: float) -> Metric:
    """Return a gauge without labels."""
    return GaugeMetricFamily(f"wasmdrop_{name}", text, value)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*map(str, BOUNDS_SECONDS), "+Inf"]
    return list(zip(bounds, itertools.accumulate(histogram.counts), strict=True))
