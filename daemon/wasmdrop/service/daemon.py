"""The daemon: builds its objects, starts them in order, and stops them in the opposite order."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog

from wasmdrop.delivery.delivery import Delivery
from wasmdrop.intake.backlog import Backlog
from wasmdrop.intake.discovery import Discovery
from wasmdrop.intake.layout import Layout
from wasmdrop.intake.taken_versions import TakenVersions
from wasmdrop.intake.volume_monitor import VolumeMonitor
from wasmdrop.jobs.journal.database import JOURNAL_NAME
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.jobs.recovery import recover
from wasmdrop.proof.envelope import Signer
from wasmdrop.protocol.errors import StorageError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.retention.gone_files import run_checks
from wasmdrop.retention.journal import run_retention
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.sandbox.host.module_cache.cache import ModuleCache
from wasmdrop.service.background import running
from wasmdrop.service.cancel_requests import CancelRequests
from wasmdrop.service.directories import check_directories
from wasmdrop.service.full_disk import start_with_room
from wasmdrop.service.health.liveness import Liveness, Part
from wasmdrop.service.health.probes import Health, Sources
from wasmdrop.service.inbox import Inbox
from wasmdrop.service.instance_lock import lock_shared_directory, lock_state_directory
from wasmdrop.service.local_sandbox import open_local_sandbox
from wasmdrop.service.pipeline import Pipeline, build_pipeline, new_module_finder
from wasmdrop.service.reload import Load, keep_reloading
from wasmdrop.service.retention import FileRetention
from wasmdrop.service.shutdown import Shutdown
from wasmdrop.service.signing_key import load_signing_key
from wasmdrop.service.status import DaemonStatus, keep_systemd_informed
from wasmdrop.service.systemd import extend_start, notify, watchdog_seconds
from wasmdrop.settings import RELOADED, GuestMode, Settings, Switch
from wasmdrop.system.extras import FLEET
from wasmdrop.system.job_user import foreign_processes

if TYPE_CHECKING:
    from wasmdrop.hooks.hook import Hook
    from wasmdrop.hooks.sender import HookSender
    from wasmdrop.service.fleet import DaemonFleet
    from wasmdrop.service.page import DaemonPage

_log = structlog.get_logger()

#: Idle processes beyond one for each worker: a burst finds them ready.
_SPARE_CHILDREN: Final = 2

_DAY_SECONDS: Final = 86_400.0


async def serve(settings: Settings, load: Load) -> None:
    """Run the daemon until a signal stops it; see :mod:`wasmdrop.system.signals`.

    ``load`` loads the settings again, at SIGHUP: those in :data:`RELOADED` are changed in
    ``settings``.

    Raises ``SettingsError`` if the directories, the signing key, the page or the hook can't be
    used, ``SandboxError`` if there is no sandbox, ``StorageError`` if the journal can't be opened.
    Waits if that is because a disk is full.
    """
    shutdown = Shutdown(is_service=True)
    await start_with_room(partial(_run, settings, load, shutdown), settings, shutdown)


async def _run(settings: Settings, load: Load, shutdown: Shutdown) -> None:
    check_directories(settings)
    signing_key = load_signing_key(settings)
    metrics = Metrics()
    page = _page(settings, metrics)
    hook = _load_hook(settings)
    with (
        lock_state_directory(settings.state_dir) as state_lock,
        lock_shared_directory(settings.shared_dir) as shared_lock,
    ):
        instance_locks = (state_lock, shared_lock)
        # Now, because this daemon has no jobs yet.
        if os.geteuid() == 0 and (others := foreign_processes(settings.job_user)):
            _log.warning("job-user-shared", user=settings.job_user.uid, processes=others)
        idle = settings.workers + _SPARE_CHILDREN
        with Delivery(
            str(settings.shared_dir), prints_lines=True, instance_locks=instance_locks
        ) as delivery:
            async with open_local_sandbox(settings, idle, settings.workers) as (local, cache):
                if signing_key is not None:
                    key_id, kind = signing_key.key_id, signing_key.kind
                    _log.info("signing-key-loaded", key_id=key_id, kind=kind)
                async with _fleet(settings, local, cache) as fleet:
                    await _serve(
                        *(settings, load, local, fleet, cache, delivery, shutdown, signing_key),
                        *(metrics, page, hook),
                    )
    _log.info("stopped")


def _page(settings: Settings, metrics: Metrics) -> "DaemonPage | None":
    """Return the control page; None if it is off."""
    if settings.page is Switch.OFF:
        return None
    # Only a daemon with a page needs it.
    from wasmdrop.service.page import DaemonPage, load_access  # noqa: PLC0415

    return DaemonPage(load_access(settings), metrics)


@contextlib.asynccontextmanager
async def _fleet(
    settings: Settings, local: LocalExecutor, cache: ModuleCache
) -> AsyncIterator["DaemonFleet | None"]:
    """Give the fleet that runs the jobs; None without one."""
    if not settings.fleet:
        yield None
        return
    # Only a daemon with a fleet needs it: it takes 0.1 s and 5 MiB.
    with FLEET.required("WASMDROP_FLEET"):
        from wasmdrop.service.fleet import open_fleet  # noqa: PLC0415
    async with open_fleet(settings, local, cache) as fleet:
        yield fleet


def _load_hook(settings: Settings) -> "Hook | None":
    """Return the completion hook; None without one. Raises ``SettingsError``."""
    if settings.on_finished is None:
        return None
    # Only a daemon with a hook needs it.
    from wasmdrop.service.hooks import load_hook  # noqa: PLC0415

    return load_hook(settings)


def _start_sender(settings: Settings, hook: "Hook | None", journal: Journal) -> "HookSender | None":
    """Begin to send the journal's events; None without a hook."""
    if hook is None or journal.events is None:
        return None
    from wasmdrop.service.hooks import start_sender  # noqa: PLC0415

    return start_sender(hook, journal.events, settings)


async def _serve(
    settings: Settings,
    load: Load,
    local: LocalExecutor,
    fleet: "DaemonFleet | None",
    cache: ModuleCache,
    delivery: Delivery,
    shutdown: Shutdown,
    signing_key: Signer | None,
    metrics: Metrics,
    page: "DaemonPage | None",
    hook: "Hook | None",
) -> None:
    layout, inbox, backlog = Layout(settings), Inbox(), _new_backlog(settings)
    journal = Journal(
        settings.state_dir / JOURNAL_NAME, backlog.is_busy, records_events=hook is not None
    )
    sender = _start_sender(settings, hook, journal)
    finder = new_module_finder(settings, layout, cache)
    taken = TakenVersions(journal.path, journal.fail)
    loop, check_wanted = asyncio.get_running_loop(), asyncio.Event()
    discovery = Discovery(
        *(settings, layout, taken, backlog, finder.find_known, inbox.put, metrics.intake),
        on_removals_lost=partial(loop.call_soon_threadsafe, check_wanted.set),
    )
    pipeline = build_pipeline(
        *(settings, layout, finder, discovery.intake, journal),
        *(fleet.executor if fleet else local, delivery, metrics, backlog),
        on_room=discovery.scanner.scan_soon,
        signer=signing_key,
        observer=page.observer if page else None,
    )
    inbox.connect(pipeline.take)
    liveness = _liveness(discovery, journal, local, fleet, lambda: _tell_manager(health))
    health = Health(
        liveness,
        {"shared": settings.shared_dir, "state": settings.state_dir},
        partial(_why_not_recorded, journal),
    )
    if fleet is not None:
        health.why_no_results = fleet.why_no_results
    monitor = VolumeMonitor(
        discovery.directories,
        (layout.shared_dir, str(settings.state_dir)),
        settings.reserve_mb * MEBIBYTE,
        discovery.on_replaced,
        partial(_on_room, health, backlog, discovery.scanner.scan_soon),
    )
    guest = GuestMode.NATIVE if local.has_zygotes else GuestMode.PYTHON
    sources = Sources(
        *(metrics, local, discovery.scanner, liveness, guest),
        fleet=fleet.metrics if fleet else None,
        hook_backlog=sender.backlog if sender else None,
    )
    requests = CancelRequests(settings.state_dir)
    status = DaemonStatus(
        *(metrics, pipeline.table, local, cache, liveness, health, discovery.directories),
        *(lambda: discovery.scanner.period_seconds, fleet, sender),
    )
    shutdown.facts = status.facts
    shutdown.jobs = lambda: (pipeline.dispatcher.active, settings.drain_sec)

    if page is not None:
        await page.start(
            *(settings, guest, pipeline, local, cache, health, liveness, monitor.space),
            *(fleet, sender),
        )
    async with (
        health.served(settings.http, sources, page),
        running(keep_systemd_informed(status.line, status.is_recovering)),
    ):
        try:
            resumed = await recover(
                *(journal, pipeline.dispatcher, local.directories.sweep),
                ends=await asyncio.to_thread(requests.ends),
                is_stopping=shutdown.asked.is_set,
            )
            status.has_recovered = True
            if not shutdown.asked.is_set():
                requests.start(pipeline.dispatcher.cancel, journal.find_job, settings.rescan_sec)
                if fleet is not None:
                    fleet.receive(pipeline.dispatcher.is_open)
                await asyncio.to_thread(monitor.start)
                await _take_drops(discovery)
                _log.info(
                    "ready",
                    shared_dir=layout.shared_dir,
                    wasm_dir=layout.wasm_dir,
                    workers=settings.workers,
                    guest=guest,
                    resumed=resumed,
                )
                health.end_start()
                notify(f"READY=1\nSTATUS={status.line()}")
                use = partial(_use, settings, backlog, monitor, pipeline, discovery, fleet, sender)
                reloading = keep_reloading(
                    *(shutdown.reload_wanted, settings, load, RELOADED, use),
                    partial(_read_secrets, settings, page, hook),
                )
                async with (
                    _retention(settings, layout, pipeline, inbox, metrics, check_wanted),
                    running(reloading),
                ):
                    await _until_asked(shutdown, journal)
            health.why_not_ready = "stopping"
            notify(f"STOPPING=1\nSTATUS={status.line()}")
            _log.info("stopping", signal=shutdown.reason, drain_sec=settings.drain_sec)
        finally:
            if fleet is not None:
                fleet.executor.detach()
            await asyncio.to_thread(monitor.stop)
            await asyncio.to_thread(discovery.stop)
            await pipeline.close(settings.drain_sec, shutdown.now, sender.stop if sender else None)
            requests.stop()


def _liveness(
    discovery: Discovery,
    journal: Journal,
    local: LocalExecutor,
    fleet: "DaemonFleet | None",
    tell_manager: Callable[[], None],
) -> Liveness:
    parts: dict[str, Part] = {
        "watcher": discovery.watcher,
        "journal": journal,
        "forking_server": local.fork_server,
    }
    if fleet is not None:
        parts["fleet"] = fleet.loops
    return Liveness(parts, tell_manager, watchdog_seconds())


async def _take_drops(discovery: Discovery) -> None:
    """Begin to take drops; those that were done before the journal was lost are not taken again."""
    intake = discovery.intake
    intake.trusts_markers = intake.has_taken_nothing()
    await asyncio.to_thread(discovery.start)
    intake.trusts_markers = False


@contextlib.asynccontextmanager
async def _retention(
    settings: Settings,
    layout: Layout,
    pipeline: Pipeline,
    inbox: Inbox,
    metrics: Metrics,
    check_wanted: asyncio.Event,
) -> AsyncIterator[None]:
    """Apply retention, and forget files that are gone, during a block."""
    intake, journal, period_seconds = pipeline.intake, pipeline.journal, settings.rescan_sec
    files = FileRetention(settings, layout, intake, journal, pipeline.dispatcher, inbox, metrics)
    checks = run_checks(
        *(intake.gone_files, settings.settle_sec, period_seconds),
        may_forget=files.has_recovered,
        is_wanted=check_wanted,
    )
    async with running(run_retention(journal, settings)), running(checks), files.running():
        yield


def _use(
    settings: Settings,
    backlog: Backlog,
    monitor: VolumeMonitor,
    pipeline: Pipeline,
    discovery: Discovery,
    fleet: "DaemonFleet | None",
    sender: "HookSender | None",
) -> None:
    """Give changed settings to those that have a copy."""
    backlog.limit = settings.max_queued
    monitor.reserve_bytes = settings.reserve_mb * MEBIBYTE
    pipeline.dispatcher.use_settings()
    if fleet is not None:
        fleet.executor.attempts = settings.attempts
    if sender is not None:
        sender.keep_for(settings.keep_days * _DAY_SECONDS)
    discovery.scanner.scan_soon()  # there may be room for drops that were refused


def _read_secrets(
    settings: Settings, page: "DaemonPage | None", hook: "Hook | None"
) -> Callable[[], None]:
    """Read the page's token and the hook's secret again; return how to use them. Blocks.

    Raises ``SettingsError`` if one of them can't be used.
    """
    uses = [] if page is None else [page.read_token_again(settings)]
    if hook is not None:
        from wasmdrop.service.hooks import read_key_again  # noqa: PLC0415 - as in _load_hook

        uses.append(read_key_again(hook, settings))

    def use() -> None:
        for one in uses:
            one()

    return use


def _new_backlog(settings: Settings) -> Backlog:
    limits = settings.directory_running, settings.directory_queued
    return Backlog(settings.max_queued, settings.workers, has_shares=limits != (None, None))


def _why_not_recorded(journal: Journal) -> str:
    return f"the journal can't be written: {journal.problem}" if journal.problem else ""


def _tell_manager(health: Health) -> None:
    """Feed the watchdog; prolong a start that waits for a full disk."""
    if not health.has_started and health.why_not_recorded():
        extend_start()
    notify("WATCHDOG=1")


def _on_room(health: Health, backlog: Backlog, scan_soon: Callable[[], None], reason: str) -> None:
    """Pause intake for ``reason``; resume it if that is empty."""
    health.why_paused = reason
    if reason:
        backlog.pause()
    else:
        backlog.resume()
        scan_soon()


async def _until_asked(shutdown: Shutdown, journal: Journal) -> None:
    """Wait for a signal to stop. Raises ``StorageError`` if the journal fails before."""
    asked = asyncio.ensure_future(shutdown.asked.wait())
    either: set[asyncio.Future[Any]] = {asked, journal.failure}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if journal.failure.done():
        shutdown.now.set()  # running jobs could not be recorded: they are rerun
        raise StorageError(f"the journal can't be used any more: {journal.failure.result()}")
