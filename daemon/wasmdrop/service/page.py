"""The control page of a daemon: its access and its parts, connected. Imported only if it is on.

The page shows names of files and can cancel jobs. So it needs a token, unless only
this host can reach it.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from wasmdrop.jobs.metrics import Metrics
from wasmdrop.page import model
from wasmdrop.page.access import Access, is_loopback_address
from wasmdrop.page.activity import Activity
from wasmdrop.page.history import JobHistory
from wasmdrop.page.journal_queries import JournalQueries, ended_jobs
from wasmdrop.page.main_loop import MainLoop
from wasmdrop.page.overview import OverviewMaker
from wasmdrop.page.routes import Routes
from wasmdrop.page.sources import Sources
from wasmdrop.page.static_files import read_static_files
from wasmdrop.protocol.errors import SettingsError, StorageError
from wasmdrop.protocol.text import one_line
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.sandbox.host.module_cache.cache import ModuleCache
from wasmdrop.service.health.liveness import Liveness
from wasmdrop.service.health.probes import Health
from wasmdrop.service.pipeline import Pipeline
from wasmdrop.service.secret_places import require_outside
from wasmdrop.settings import GuestMode, Settings
from wasmdrop.settings.formats import printable
from wasmdrop.system.processes import forbid_inspection
from wasmdrop.system.secret_files import NotSecretError, read_secret
from wasmdrop.web.message import HttpRequest, HttpResponse

if TYPE_CHECKING:
    from wasmdrop.fleet.daemon.known_workers import FleetView
    from wasmdrop.hooks.sender import HookSender
    from wasmdrop.service.fleet import DaemonFleet

_log = structlog.get_logger()

#: Length of a token, in characters: the shortest is 16 random bytes in hexadecimal digits.
_MIN_CHARACTERS: Final = 32
_MAX_BYTES: Final = 1024

#: Jobs of earlier runs of the daemon that the page begins with.
_SEEDED: Final = 1000

_MAKE_IT: Final = "make one with `(umask 077; openssl rand -hex 32 > FILE)`"


class PageError(SettingsError):
    """Settings with which the page must not be opened. The text is one line."""

    def __init__(self, variable: str, found: str, advice: str) -> None:
        super().__init__(f"{variable}: {found}; {advice}")
        self.found = found
        self.advice = advice


def load_access(settings: Settings) -> Access:
    """Return the access rules of the page with these settings.

    Raises ``PageError`` if there is no address, or it is open to other hosts without a token, or
    if the token can't be used or is not safe.
    """
    if settings.http is None:
        raise PageError(
            "WASMDROP_PAGE",
            "the page needs an address",
            "set WASMDROP_HTTP, for example to 127.0.0.1:9464",
        )
    port = int(settings.http.rpartition(":")[2])
    if settings.page_token_file is not None:
        return Access(_read_token(settings, settings.page_token_file), port)
    if not _is_loopback(settings.http):
        raise PageError(
            "WASMDROP_PAGE",
            f"other hosts can reach {settings.http}, and the page shows names of files",
            "set WASMDROP_PAGE_TOKEN_FILE, or WASMDROP_HTTP to a loopback address such as"
            f" 127.0.0.1:{port}",
        )
    return Access(None, port)


class DaemonPage:
    """The page of one daemon. ``observer`` follows its jobs."""

    def __init__(self, access: Access, metrics: Metrics) -> None:
        self._access = access
        self._metrics = metrics
        self._history = JobHistory(metrics)
        self.observer = Activity(self._history.delivered)
        self._routes: Routes | None = None

    async def start(
        self,
        settings: Settings,
        guest: GuestMode,
        pipeline: Pipeline,
        local: LocalExecutor,
        cache: ModuleCache,
        health: Health,
        liveness: Liveness,
        space: Mapping[str, tuple[int, int]],
        fleet: "DaemonFleet | None",
        sender: "HookSender | None",
    ) -> None:
        """Connect the page to the daemon, before it is served and before jobs run.

        It begins with the last jobs of the journal.
        """

        async def look_at_health() -> model.Health:
            silent, reasons = liveness.silent(), await health.reasons()
            ages = {name: round(age, 1) for name, age in liveness.ages_seconds().items()}
            bounded = tuple(one_line(reason, model.REASON_LIMIT) for reason in reasons)
            return model.Health(not silent, not reasons, bounded, ages)

        sources = Sources(
            settings=settings,
            guest=guest,
            table=pipeline.table,
            metrics=self._metrics,
            compiler=local.compiler,
            cache=cache,
            loop=asyncio.get_running_loop(),
            cancel=pipeline.dispatcher.cancel,
            health=look_at_health,
            silent_seconds=lambda: liveness.ages_seconds().get("event_loop", 0.0),
            space=space,
            fleet=None if fleet is None else lambda: _shown_fleet(fleet.view()),
            limits=_limits(settings, self._metrics),
            hooks=None
            if sender is None
            else lambda: msgspec.convert(sender.backlog(), model.Hooks, from_attributes=True),
        )
        main_loop = MainLoop(sources.loop, sources.silent_seconds)
        queries = JournalQueries(sources.settings.state_dir)
        overview = OverviewMaker(
            *(sources, self.observer, queries, main_loop), has_login=self._access.has_login
        )
        self._routes = Routes(
            *(self._access, read_static_files(), overview, self._history),
            *(queries, main_loop, sources.cancel),
        )
        try:
            for job in await asyncio.to_thread(ended_jobs, settings.state_dir, _SEEDED):
                self.observer.seed(job)
        except StorageError as error:
            _log.warning("page-journal-unreadable", error=str(error))
        if fleet is not None:
            await fleet.watch_workers()

    def read_token_again(self, settings: Settings) -> Callable[[], None]:
        """Read the token again and return how to use it. Raises ``PageError``."""
        return partial(self._access.use_token_of, load_access(settings))

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Answer a request. Called on the server's event loop."""
        assert self._routes is not None  # noqa: S101 - connected before it is served
        return await self._routes.answer(request)

    async def background(self) -> None:
        """Take samples. Called on the server's event loop."""
        await self._history.keep_sampling()


def _shown_fleet(view: "FleetView") -> model.Fleet:
    workers = sorted(view.workers, key=lambda worker: worker.name)
    return model.Fleet(
        pool=view.pool,
        is_connected=view.is_connected,
        is_away=view.is_away,
        problem=one_line(view.problem, model.REASON_LIMIT),
        window=view.window,
        unanswered=view.unanswered,
        waiting=view.waiting,
        fallback_runs=view.fallback_runs,
        known_workers=len(workers),
        workers=tuple(
            msgspec.convert(worker, model.FleetWorker, from_attributes=True)
            for worker in workers[: model.MAX_WORKERS]
        ),
    )


def _limits(settings: Settings, metrics: Metrics) -> Callable[[], model.Limits] | None:
    running, queued = settings.directory_running, settings.directory_queued
    if running is None and queued is None:
        return None
    return lambda: model.Limits(
        running, queued, metrics.held_directories(), metrics.full_directories()
    )


def _read_token(settings: Settings, path: Path) -> str:
    forbid_inspection()
    try:
        content, way = read_secret(path, _MAX_BYTES)
        require_outside(settings, way)
        token = content.decode("ascii", "replace").strip()
        if len(token) < _MIN_CHARACTERS or not _is_token(token):
            raise NotSecretError(
                f"it has {len(token)} characters"
                if _is_token(token)
                else "it has spaces or other characters that no token has",
                _MAKE_IT,
            )
    except NotSecretError as error:
        raise PageError(
            "WASMDROP_PAGE_TOKEN_FILE",
            f"{printable(path)}: {error}; expected a token of at least {_MIN_CHARACTERS} letters,"
            f" digits or signs without spaces that only user {os.geteuid()} can read",
            error.advice,
        ) from None
    return token


def _is_token(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def _is_loopback(address: str) -> bool:
    """Whether only this host can reach the address that the server listens on."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(
            host.strip("[]") or None,
            int(port),
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except OSError:
        return False  # the server says why, if there is a token
    return is_loopback_address(str(found[0][4][0]))
