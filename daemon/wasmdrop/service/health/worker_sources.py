"""The sources of the metrics of a worker."""

from collections.abc import Callable
from dataclasses import dataclass

from wasmdrop.fleet.bodies.modules import ModuleDownloads
from wasmdrop.fleet.transport.connection import FleetConnection
from wasmdrop.fleet.worker.counters import WorkerCounters
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.service.health.liveness import Liveness
from wasmdrop.service.health.probes import Page
from wasmdrop.settings import GuestMode


@dataclass(frozen=True)
class WorkerSources:
    """The sources of ``/metrics`` of a worker."""

    counters: WorkerCounters
    downloads: ModuleDownloads
    executor: LocalExecutor
    connection: FleetConnection
    liveness: Liveness
    guest: GuestMode

    def page(self, is_ready: Callable[[], bool]) -> Page:
        """Return the page."""
        # Not at the top: prometheus-client is slow to import, and not needed without HTTP.
        from wasmdrop.service.health.worker_metrics import WorkerMetrics  # noqa: PLC0415

        return WorkerMetrics(self, is_ready)
