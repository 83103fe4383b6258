"""The worker: builds its objects, starts them in order, and stops them in the opposite order."""

import asyncio
import contextlib
import os
from functools import partial
from typing import Final, NoReturn

import structlog

from wasmdrop.fleet.errors import FleetRefusedError, FleetUnavailableError
from wasmdrop.fleet.names import ANY_ENGINE, engine_class, job_stream
from wasmdrop.fleet.transport.access import read_access
from wasmdrop.fleet.transport.connection import FleetConnection, connect
from wasmdrop.fleet.worker.counters import WorkerCounters
from wasmdrop.fleet.worker.heartbeats import send_heartbeats
from wasmdrop.fleet.worker.job_run import JobRun
from wasmdrop.fleet.worker.job_source import JobSource
from wasmdrop.fleet.worker.loop_watchdog import LoopWatchdog
from wasmdrop.fleet.worker.sandbox_health import SandboxHealth
from wasmdrop.fleet.worker.self_check import SelfCheck
from wasmdrop.fleet.worker.worker import Worker
from wasmdrop.intake.volume_monitor import VolumeMonitor
from wasmdrop.jobs.journal.database import JOURNAL_NAME
from wasmdrop.protocol.errors import SandboxError, SettingsError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.runtime_versions import own_versions
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.sandbox.host.module_cache.cache import ModuleCache
from wasmdrop.service import log
from wasmdrop.service.background import running
from wasmdrop.service.directories import make_state_directory
from wasmdrop.service.full_disk import start_with_room
from wasmdrop.service.health.liveness import Liveness
from wasmdrop.service.health.probes import Health
from wasmdrop.service.health.worker_sources import WorkerSources
from wasmdrop.service.instance_lock import lock_state_directory
from wasmdrop.service.local_sandbox import open_local_sandbox
from wasmdrop.service.reload import Load, keep_reloading
from wasmdrop.service.shutdown import Shutdown
from wasmdrop.service.status import keep_systemd_informed
from wasmdrop.service.systemd import notify, watchdog_seconds
from wasmdrop.settings import RELOADED_BY_WORKERS, GuestMode, Settings
from wasmdrop.system.job_user import foreign_processes

_log = structlog.get_logger()

#: Idle processes beyond one for each slot, as in a daemon.
_SPARE_CHILDREN: Final = 2

#: Exit status of a worker that is of no use any more.
_STUCK_STATUS: Final = 3

_CONNECT_SECONDS: Final = 5.0

#: Time for one look for the pool, in seconds.
_POOL_SECONDS: Final = 3.0


async def work(settings: Settings, load: Load) -> None:
    """Run jobs of the fleet until a signal stops the worker.

    ``load`` loads the settings again, at SIGHUP: those in :data:`RELOADED_BY_WORKERS` are changed
    in ``settings``.

    Raises ``SettingsError`` if a setting, the state directory or the key can't be used, or the
    fleet refuses the worker; ``SandboxError`` if there is no sandbox, or none any more.
    """
    if not settings.fleet:
        raise SettingsError(
            "WASMDROP_FLEET: expected the servers of a fleet, such as nats://HOST:4222"
        )
    shutdown = Shutdown(is_service=True)
    await start_with_room(partial(_run, settings, load, shutdown), settings, shutdown)


async def _run(settings: Settings, load: Load, shutdown: Shutdown) -> None:
    access = read_access(settings, f"worker {settings.fleet_name}")
    make_state_directory(settings)
    with lock_state_directory(settings.state_dir):
        if (settings.state_dir / JOURNAL_NAME).exists():
            # The sweep would remove results that it has yet to deliver.
            raise SettingsError(
                f"the state directory {settings.state_dir} is that of a daemon; set"
                " WASMDROP_STATE_DIR to one of the worker's own"
            )
        if os.geteuid() == 0 and (others := foreign_processes(settings.job_user)):
            _log.warning("job-user-shared", user=settings.job_user.uid, processes=others)
        idle = settings.workers + _SPARE_CHILDREN
        with LoopWatchdog(asyncio.get_running_loop(), _end_at_once):
            async with open_local_sandbox(settings, idle, settings.workers) as (executor, cache):
                await asyncio.to_thread(executor.directories.sweep)
                check = SelfCheck(executor, cache)
                if problem := await check.problem():
                    raise SandboxError(f"the sandbox does not work: {problem}")
                async with connect(access) as connection:
                    health = SandboxHealth(check)
                    await _work(settings, load, executor, cache, connection, health, shutdown)
    _log.info("stopped")


async def _work(
    settings: Settings,
    load: Load,
    executor: LocalExecutor,
    cache: ModuleCache,
    connection: FleetConnection,
    sandbox: SandboxHealth,
    shutdown: Shutdown,
) -> None:
    counters = WorkerCounters()
    pool, engine = settings.fleet_pool, engine_class(own_versions())
    source = JobSource(connection, job_stream(pool), (engine, ANY_ENGINE))
    job_run = JobRun(connection, executor, cache, settings, counters)
    worker = Worker(connection, source, job_run, sandbox, settings, counters)
    liveness = Liveness(
        {"forking_server": executor.fork_server}, partial(notify, "WATCHDOG=1"), watchdog_seconds()
    )

    def why_no_results() -> str:
        lost = "" if connection.is_connected else f"no server is reached: {connection.problem}"
        return worker.why_paused or sandbox.problem or lost

    health = Health(liveness, {"state": settings.state_dir})
    health.why_no_results = why_no_results
    monitor = VolumeMonitor(
        (),
        (str(settings.state_dir),),
        settings.reserve_mb * MEBIBYTE,
        lambda _path: None,
        partial(setattr, worker, "why_paused"),
    )
    guest = GuestMode.NATIVE if executor.has_zygotes else GuestMode.PYTHON

    def status() -> str:
        state = health.why_not_ready or f"{counters.running} of {settings.workers} slots in use"
        return "; ".join(filter(None, (state, why_no_results())))

    def facts() -> dict[str, object]:
        return {
            "state": health.why_not_ready or "ready",
            "paused": worker.why_paused,
            "no_results": why_no_results(),
            "running": counters.running,
            "answered": counters.answered,
            "zygotes": executor.zygotes,
            "cache_bytes": cache.total_bytes,
            "fleet_connected": connection.is_connected,
            "silent": liveness.silent(),
        }

    shutdown.facts = facts
    shutdown.jobs = lambda: (counters.running, settings.drain_sec)

    def use_settings() -> None:
        monitor.reserve_bytes = settings.reserve_mb * MEBIBYTE

    sources = WorkerSources(counters, job_run.downloads, executor, connection, liveness, guest)
    health.has_started = True
    async with (
        health.served(settings.http, sources),
        running(keep_systemd_informed(status)),
        running(
            keep_reloading(
                *(shutdown.reload_wanted, settings, load, RELOADED_BY_WORKERS, use_settings)
            )
        ),
    ):
        notify("READY=1")  # servers may come much later
        stopped = asyncio.create_task(shutdown.asked.wait())
        starting = asyncio.create_task(_await_pool(connection, pool))
        await asyncio.wait([stopped, starting], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            return
        await starting
        await asyncio.to_thread(monitor.start)
        heartbeats = asyncio.create_task(
            send_heartbeats(connection, settings.fleet_name, pool, settings.workers, counters)
        )
        health.why_not_ready = None
        _log.info(
            "ready",
            worker=settings.fleet_name,
            pool=pool,
            engine=engine,
            workers=settings.workers,
            guest=guest,
            state_dir=str(settings.state_dir),
        )
        checking = asyncio.create_task(_check_class(connection, pool, engine))
        stopping = asyncio.create_task(_announce_stop(shutdown, health, settings))
        try:
            await worker.run(shutdown.asked, shutdown.now)
        finally:
            for task in (heartbeats, checking, stopping):
                task.cancel()
            await asyncio.to_thread(monitor.stop)


async def _await_pool(connection: FleetConnection, pool: str) -> None:
    """Wait for a server that has the worker's pool, however long that takes.

    Raises ``SettingsError`` if the server refuses the worker.
    """
    has_warned = False
    while True:
        try:
            await connection.wait_connected(_CONNECT_SECONDS)
            has_pool = await connection.can_fetch(
                job_stream(pool), ANY_ENGINE, seconds=_POOL_SECONDS
            )
        except FleetRefusedError as error:
            raise SettingsError(f"WASMDROP_FLEET: {error}") from None
        except FleetUnavailableError as error:
            _log.warning("fleet-unavailable", reason=str(error))
            continue
        if has_pool:
            return
        if not has_warned:
            has_warned = True
            _log.warning(
                "pool-missing",
                reason=f"the fleet has no pool {pool}, or no server leads it now; set"
                f" WASMDROP_FLEET_POOL, or run `wasmdrop fleet init --pool {pool}`",
            )


async def _check_class(connection: FleetConnection, pool: str, engine: str) -> None:
    """Log it if the fleet has no deterministic jobs for this worker's version of wasmtime."""
    with contextlib.suppress(FleetUnavailableError):
        if not await connection.can_fetch(job_stream(pool), engine):
            _log.warning(
                "job-class-missing",
                reason=f"pool {pool} has no class {engine} of deterministic jobs; run `wasmdrop"
                " fleet init` with this wasmtime (--wasmtime VERSION)",
            )


async def _announce_stop(shutdown: Shutdown, health: Health, settings: Settings) -> None:
    await shutdown.asked.wait()
    health.why_not_ready = "stopping"
    notify("STOPPING=1\nSTATUS=stopping")
    _log.info("stopping", signal=shutdown.reason, drain_sec=settings.drain_sec)


def _end_at_once(reason: str) -> NoReturn:
    """End the process without its exit handlers, which might wait for the event loop."""
    _log.critical("worker-stuck", reason=reason)
    log.flush()
    os._exit(_STUCK_STATUS)
