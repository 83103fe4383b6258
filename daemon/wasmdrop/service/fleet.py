"""Open the fleet of a daemon; imported only if there is one."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from wasmdrop.fleet.bodies.modules import ModuleUploads
from wasmdrop.fleet.daemon.answers import Answers
from wasmdrop.fleet.daemon.availability import Availability
from wasmdrop.fleet.daemon.cleanup import Cleanup
from wasmdrop.fleet.daemon.known_workers import FleetView, KnownWorkers
from wasmdrop.fleet.daemon.loops import Loops
from wasmdrop.fleet.daemon.metrics import FleetMetrics
from wasmdrop.fleet.daemon.publications import Publications
from wasmdrop.fleet.daemon.reconciler import Reconciler
from wasmdrop.fleet.daemon.remote_executor import RemoteExecutor
from wasmdrop.fleet.daemon.remote_job import Fleet
from wasmdrop.fleet.daemon.revocations import Revocations
from wasmdrop.fleet.daemon.tickets import load_tickets
from wasmdrop.fleet.names import heartbeat_subject
from wasmdrop.fleet.transport.access import read_access
from wasmdrop.fleet.transport.connection import connect
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.sandbox.host.module_cache.cache import ModuleCache
from wasmdrop.settings import FleetFallback, Settings

_log = structlog.get_logger()

#: How long a worker that begins a job may take to answer, beyond the time limits of compilation and
#: run, in seconds. It stops to extend its lease a minute earlier.
_SLACK_SECONDS: Final = 120.0


@dataclass(frozen=True)
class DaemonFleet:
    """The fleet of one daemon."""

    fleet: Fleet
    window: int
    executor: RemoteExecutor
    loops: Loops
    answers: Answers
    metrics: FleetMetrics
    waits: bool
    """Whether jobs wait while the fleet is away."""
    workers: KnownWorkers

    def receive(self, is_open: Callable[[str], bool]) -> None:
        """Begin to take answers; ``is_open``: whether a job, by its id, owes its results."""
        self.answers.is_open = is_open
        self.loops.receive()

    async def watch_workers(self) -> None:
        """Listen to the heartbeats of workers from now on, so that :meth:`view` has them."""
        await self.fleet.connection.subscribe(heartbeat_subject("*", "*"), self.workers.take)

    def view(self) -> FleetView:
        """Return the state of the fleet for the control page. Called on the event loop."""
        fleet, metrics = self.fleet, self.metrics
        return FleetView(
            name=fleet.daemon,
            pool=fleet.pool,
            is_connected=fleet.connection.is_connected,
            is_away=metrics.is_away,
            problem=fleet.availability.lack or fleet.connection.problem,
            window=self.window,
            unanswered=metrics.unanswered,
            waiting=metrics.waiting,
            fallback_runs=metrics.fallback_runs,
            workers=self.workers.now(),
        )

    def why_no_results(self) -> str:
        """Return why drops do not get results now, or an empty text. Thread-safe."""
        if self.waits and self.metrics.is_away:
            return "the fleet takes no jobs, and WASMDROP_FLEET_FALLBACK=wait"
        return ""


@contextlib.asynccontextmanager
async def open_fleet(
    settings: Settings, local: LocalExecutor, cache: ModuleCache
) -> AsyncIterator[DaemonFleet]:
    """Give the fleet, whether or not its servers are reached.

    Raises ``SettingsError`` if the settings can't work, ``StorageError`` if the secret of the
    tickets can't be read or created.
    """
    daemon, pool = settings.fleet_name, settings.fleet_pool
    tickets = load_tickets(settings.state_dir)
    metrics, publications = FleetMetrics(), Publications()
    clock = time.monotonic
    async with connect(read_access(settings, daemon)) as connection:
        cleanup = Cleanup(connection, daemon)
        uploads = ModuleUploads(connection, pool, cache.open_module)
        revocations = Revocations(connection, pool, daemon, tickets, cleanup, clock)
        answers = Answers(*(connection, daemon, tickets, publications, cleanup, metrics, clock))
        fleet = Fleet(
            connection=connection,
            pool=pool,
            daemon=daemon,
            tickets=tickets,
            publications=publications,
            answers=answers,
            uploads=uploads,
            cleanup=cleanup,
            revocations=revocations,
            availability=Availability(connection, metrics, clock),
            metrics=metrics,
            local=local,
            runs_here=settings.fleet_fallback is FleetFallback.LOCAL,
            slack_seconds=settings.compile_sec + _SLACK_SECONDS,
            clock=clock,
        )
        executor = RemoteExecutor(fleet, settings.fleet_window, settings.attempts)
        reconciler = Reconciler(
            *(connection, pool, daemon, publications, answers, uploads, revocations, clock)
        )
        loops = Loops(fleet, executor, reconciler, settings.fleet_window)
        _log.info("fleet-used", servers=list(settings.fleet), name=daemon, pool=pool)
        await loops.start()
        try:
            yield DaemonFleet(
                *(fleet, settings.fleet_window, executor, loops, answers, metrics),
                settings.fleet_fallback is FleetFallback.WAIT,
                KnownWorkers(clock, time.time_ns),
            )
        finally:
            await loops.stop()
