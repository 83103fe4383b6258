"""The service: builds the objects, starts them in order, and stops them in the opposite one."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from wasmdrop.delivery.delivery import Delivery
from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.intake.backlog import Backlog
from wasmdrop.intake.discovery import Discovery
from wasmdrop.intake.intake import Intake
from wasmdrop.intake.layout import Layout
from wasmdrop.intake.module_finder import ModuleFinder
from wasmdrop.intake.taken_versions import TakenVersions
from wasmdrop.intake.volume_monitor import VolumeMonitor
from wasmdrop.intake.watcher import Watcher
from wasmdrop.jobs.dispatcher import Dispatcher
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.jobs.recovery import recover
from wasmdrop.jobs.retention import run_retention
from wasmdrop.jobs.runner import Stages
from wasmdrop.protocol.errors import SandboxError, SettingsError, StorageError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.sandbox.host.compilation import CompileLimits
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.sandbox.host.fork_server import ForkServer
from wasmdrop.sandbox.host.job_directory import JobDirectoryFactory
from wasmdrop.sandbox.host.module_cache.cache import ModuleCache
from wasmdrop.service.health.liveness import Liveness, Part
from wasmdrop.service.health.probes import Health, Sources
from wasmdrop.service.inbox import Inbox
from wasmdrop.service.instance_lock import lock_shared_directory, lock_state_directory
from wasmdrop.service.shutdown import Shutdown
from wasmdrop.service.systemd import notify, watchdog_seconds
from wasmdrop.settings import Isolation, SandboxMode, Settings
from wasmdrop.system.durable_files import make_directory_durably
from wasmdrop.system.job_user import foreign_processes
from wasmdrop.system.private_files import RUN_AS_OWNER, describe_permissions

__all__ = ["local_executor", "run_once", "serve"]

_log = structlog.get_logger()

#: Idle children beyond one for each worker: a burst finds them ready.
_SPARE_CHILDREN: Final = 2

_JOURNAL: Final = "journal.sqlite"


async def serve(settings: Settings) -> None:
    """Run the daemon until a signal stops it; see :mod:`wasmdrop.system.signals`.

    Raises ``SettingsError`` where the directories can't be used, ``SandboxError`` where no sandbox
    can be had, ``StorageError`` where the journal can't be opened.
    """
    _check_directories(settings)
    stop = Shutdown()
    with (
        lock_state_directory(settings.state_dir) as state_lock,
        lock_shared_directory(settings.shared_dir) as shared_lock,
    ):
        instance_locks = (state_lock, shared_lock)
        # Now, as there are no jobs of this daemon's yet.
        if os.geteuid() == 0 and (others := foreign_processes(settings.job_user)):
            _log.warning("job-user-shared", user=settings.job_user.uid, processes=others)
        idle = settings.workers + _SPARE_CHILDREN
        with Delivery(
            str(settings.shared_dir), prints_lines=True, instance_locks=instance_locks
        ) as delivery:
            async with local_executor(settings, idle, settings.workers) as (executor, store):
                await _serve(settings, executor, store, delivery, stop)
    _log.info("stopped")


@contextlib.asynccontextmanager
async def local_executor(
    settings: Settings, idle: int, zygote_idle: int = 0
) -> AsyncIterator[tuple[LocalExecutor, ModuleCache]]:
    """Give this machine's sandbox, with its store in the state directory.

    Children ahead of need: ``idle`` for any order, ``zygote_idle`` for each module that is
    called again and again.
    """
    store = ModuleCache(settings.state_dir, settings.cache_mb * MEBIBYTE)
    limits = CompileLimits(settings.compile_sec, settings.compile_memory_mb)
    directories = JobDirectoryFactory(settings.state_dir, for_another_user=os.geteuid() == 0)
    async with ForkServer(idle, settings.job_user) as pool:
        if pool.missing and settings.sandbox is SandboxMode.STRICT:
            raise SettingsError(
                f"jobs can't be confined here; missing: {pool.missing}."
                " WASMDROP_SANDBOX=best-effort goes on without"
            )
        if pool.missing:
            _log.warning("sandbox-incomplete", missing=pool.missing)
        executor = LocalExecutor(
            pool,
            store,
            directories,
            limits,
            zygote_idle,
            reuses_workers=settings.isolation is Isolation.INSTANCE,
        )
        try:
            yield executor, store
        finally:
            executor.close()


async def run_once(settings: Settings) -> ResultPackage:
    """Run the root slot's job, now, and return what was delivered.

    Uses the daemon's cache of compiled modules where no daemon is using it. Errors as in
    :func:`serve`; ``SandboxError`` also where the job was told to stop.
    """
    _check_directories(settings)
    stop = Shutdown()
    loop = asyncio.get_running_loop()
    delivered: asyncio.Future[ResultPackage] = loop.create_future()
    with (
        tempfile.TemporaryDirectory(prefix="wasmdrop-") as temporary,
        contextlib.ExitStack() as held,
    ):
        try:
            held.enter_context(lock_state_directory(settings.state_dir))
            state_dir = settings.state_dir
        except (SettingsError, StorageError, OSError):
            state_dir = Path(temporary)
        settings = msgspec.structs.replace(settings, state_dir=state_dir)
        has_daemon = (state_dir / _JOURNAL).exists()
        journal = Journal(Path(temporary) / _JOURNAL)
        backlog = Backlog(settings.max_queued)
        async with local_executor(settings, 1) as (executor, store):
            if not has_daemon:  # else there may be what its next start has yet to deliver
                executor.sweep()

            delivery = held.enter_context(Delivery(str(settings.shared_dir), delivered.set_result))
            layout, modules = Layout(settings), _module_finder(settings, store)
            taken = TakenVersions(journal.path, journal.fail)
            intake = Intake(settings, layout, taken, backlog, modules.find_known)
            stages = Stages(layout, intake, modules, journal, executor, delivery, Metrics())
            dispatcher = Dispatcher(settings, stages, backlog, lambda: None)
            try:
                root = stages.layout.root_slot
                found = await asyncio.to_thread(stages.intake.read_now, root)
                if found is not None:
                    dispatcher.drop(found)
                else:
                    dispatcher.run_without_input(root, owes_result=True)
                stopped = asyncio.create_task(stop.asked.wait())
                either: set[asyncio.Future[Any]] = {delivered, stopped}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                stopped.cancel()
            finally:
                await dispatcher.drain(settings.drain_sec if delivered.done() else 0)
                await _close(stages)
    if not delivered.done():
        raise SandboxError("told to stop before the job was finished")
    return delivered.result()


def _module_finder(settings: Settings, store: ModuleCache) -> ModuleFinder:
    return ModuleFinder(
        Layout(settings),
        settings.max_module_mb * MEBIBYTE,
        store.ingest,
        store.has_module,
        store.module_bytes,
    )


async def _serve(
    settings: Settings,
    executor: LocalExecutor,
    store: ModuleCache,
    delivery: Delivery,
    stop: Shutdown,
) -> None:
    backlog = Backlog(settings.max_queued, settings.workers)
    journal = Journal(settings.state_dir / _JOURNAL, backlog.is_busy)

    # Drops come from the watcher's and the scanner's threads; both begin after all is made here.
    inbox = Inbox()

    layout, modules, metrics = Layout(settings), _module_finder(settings, store), Metrics()
    taken = TakenVersions(journal.path, journal.fail)
    discovery = Discovery(
        settings, layout, taken, backlog, modules.find_known, inbox.put, metrics.intake
    )
    intake, scanner = discovery.intake, discovery.scanner
    stages = Stages(layout, intake, modules, journal, executor, delivery, metrics)
    dispatcher = Dispatcher(settings, stages, backlog, scanner.scan_soon)
    inbox.take = dispatcher.drop

    def on_room(reason: str) -> None:
        health.why_paused = reason
        if reason:
            backlog.pause()
        else:
            backlog.resume()
            scanner.scan_soon()

    monitor = VolumeMonitor(
        discovery.directories,
        (layout.shared_dir, str(settings.state_dir)),
        settings.reserve_mb * MEBIBYTE,
        discovery.on_replaced,
        on_room,
    )
    vitals = _vitals(discovery.watcher, journal, executor)
    health = Health(vitals, {"shared": settings.shared_dir, "state": settings.state_dir})
    sources = Sources(stages.metrics, executor, scanner, vitals)
    async with health.told(settings.http, sources):
        try:
            resumed = await recover(journal, dispatcher, executor.sweep)
            await asyncio.to_thread(monitor.start)
            intake.trusts_markers = intake.has_taken_nothing()
            await asyncio.to_thread(discovery.start)
            intake.trusts_markers = False
            _log.info(
                "ready",
                shared_dir=layout.shared_dir,
                wasm_dir=layout.wasm_dir,
                workers=settings.workers,
                resumed=resumed,
            )
            health.why_not_ready = None
            notify("READY=1")
            tidying = asyncio.create_task(
                run_retention(
                    journal,
                    intake,
                    settings.keep_days,
                    settings.journal_mb * MEBIBYTE,
                    settings.rescan_sec,
                )
            )
            await _until_told(stop, journal)
            tidying.cancel()
            health.why_not_ready = "stopping"
            notify("STOPPING=1")
            _log.info("stopping", signal=stop.reason, drain_sec=settings.drain_sec)
        finally:
            await asyncio.to_thread(monitor.stop)
            await asyncio.to_thread(discovery.stop)
            await dispatcher.drain(settings.drain_sec, stop.now)
            await _close(stages)


async def _close(stages: Stages) -> None:
    stages.intake.close()  # first: the journal is whole in one file when its last reader is gone
    await stages.journal.close()


async def _until_told(stop: Shutdown, journal: Journal) -> None:
    """Wait for the signal to stop. Raises ``StorageError`` where the journal fails before."""
    told = asyncio.ensure_future(stop.asked.wait())
    either: set[asyncio.Future[Any]] = {told, journal.failure}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if journal.failure.done():
        stop.now.set()  # no promise can be kept any more: what runs is run again
        raise StorageError(f"the journal can't be used any more: {journal.failure.result()}")


def _vitals(watcher: Watcher, journal: Journal, executor: LocalExecutor) -> Liveness:
    parts: dict[str, Part] = {"watcher": watcher, "journal": journal, "forking_server": executor}
    return Liveness(parts, lambda: notify("WATCHDOG=1"), watchdog_seconds())


def _check_directories(settings: Settings) -> None:
    user = os.geteuid()
    for name, path in (("shared", settings.shared_dir), ("wasm", settings.wasm_dir)):
        try:
            is_there = path.is_dir()
        except OSError as error:
            raise SettingsError(
                f"the {name} directory {path} can't be looked at by user {user}:"
                f" {error.strerror}; let that user enter the directories above it (chmod a+x)"
            ) from None
        if not is_there:
            raise SettingsError(f"the {name} directory {path} is not there")
    shared_dir = settings.shared_dir
    if os.statvfs(shared_dir).f_flag & os.ST_RDONLY:
        raise SettingsError(
            f"the shared directory {shared_dir} is mounted read-only; results go there: mount it"
            " read-write (without :ro or readOnly)"
        )
    if not os.access(shared_dir, os.W_OK | os.X_OK):
        raise SettingsError(
            f"the shared directory {shared_dir} can't be written to:"
            f" {describe_permissions(shared_dir.stat())}; chown or chmod it"
            f" (fsGroup in Kubernetes), or {RUN_AS_OWNER}"
        )
    try:
        make_directory_durably(settings.state_dir, 0o700)
    except OSError as error:
        raise SettingsError(
            f"the state directory {settings.state_dir} can't be made by user {user}:"
            f" {error.strerror}; make it (install -d -m 700 -o {user} {settings.state_dir}), or set"
            " WASMDROP_STATE_DIR"
        ) from None
