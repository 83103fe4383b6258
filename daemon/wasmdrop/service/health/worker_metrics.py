"""The metrics of a worker, which has no drops, no queue and no results."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, Metric

from wasmdrop.service.health.prometheus import (
    MetricsPage,
    counter,
    executor_metrics,
    gauge,
    job_durations,
    process_metrics,
)
from wasmdrop.service.health.worker_sources import WorkerSources


class WorkerMetrics(MetricsPage):
    """Renders the counters of a worker; ``is_ready`` as for ``/readyz``."""

    def __init__(self, sources: WorkerSources, is_ready: Callable[[], bool]) -> None:
        self._sources = sources
        self._is_ready = is_ready
        super().__init__()

    def collect(self) -> Iterator[Metric]:
        """Yield each metric (prometheus-client's ``Collector``)."""
        sources = self._sources
        counters = sources.counters
        yield from process_metrics(sources.guest, sources.liveness, is_ready=self._is_ready())
        jobs = CounterMetricFamily(
            "wasmdrop_jobs", "Jobs whose outcomes were stored, by code.", labels=["code"]
        )
        for code, count in counters.codes.items():
            jobs.add_metric([code], count)
        yield jobs
        yield gauge("jobs_running", "Jobs that run in a process.", counters.running)
        yield job_durations(counters.stages)
        yield from executor_metrics(sources.executor, counters.module_hits)
        received = CounterMetricFamily(
            "wasmdrop_worker_jobs", "Received jobs, by what became of them.", labels=["verdict"]
        )
        for verdict, count in counters.verdicts.items():
            received.add_metric([verdict], count)
        yield received
        yield counter(
            "worker_redeliveries",
            "Received jobs that were delivered before.",
            counters.redeliveries,
        )
        yield gauge("worker_slots", "Jobs that may run at a time.", sources.executor.capacity)
        yield gauge(
            "worker_connected", "Whether a server is reached.", sources.connection.is_connected
        )
        yield counter("worker_module_downloads", "Downloaded modules.", sources.downloads.count)
        yield counter(
            "worker_module_download_bytes", "Size of these modules.", sources.downloads.total_bytes
        )
