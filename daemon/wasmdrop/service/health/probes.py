"""Liveness and readiness over HTTP, and the watchdog's notifications.

*Started*: jobs of an earlier daemon were recovered and drops are watched, or the start waits for a
full disk. *Alive*: every part answers; if not, a restart may help. *Ready*: a drop made now is
taken, and its results can be written; if not, a restart would not help.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from wasmdrop.intake.scanner import Scanner
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.service.background import running
from wasmdrop.service.health.liveness import Liveness
from wasmdrop.service.health.writability import WritabilityProbe
from wasmdrop.settings import GuestMode
from wasmdrop.web.message import HttpRequest, HttpResponse

if TYPE_CHECKING:
    from wasmdrop.fleet.daemon.metrics import FleetMetrics
    from wasmdrop.hooks.hook import HookBacklog
    from wasmdrop.web.server import HttpServer

_log = structlog.get_logger()


class Page(Protocol):
    """The page at ``/metrics``."""

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Return all metrics in the format that the client accepts."""


class ControlPage(Protocol):
    """The control page, at all other paths. Called on the server's event loop."""

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Answer a request."""

    async def background(self) -> None:
        """Run until cancelled."""


class PageSources(Protocol):
    """The sources of ``/metrics``."""

    def page(self, is_ready: Callable[[], bool]) -> Page:
        """Return the page. Called only if HTTP is on; ``is_ready`` as for ``/readyz``."""


@dataclass(frozen=True)
class Sources:
    """The sources of ``/metrics`` of a daemon."""

    metrics: Metrics
    executor: LocalExecutor
    scanner: Scanner
    liveness: Liveness
    guest: GuestMode
    fleet: "FleetMetrics | None" = None
    hook_backlog: "Callable[[], HookBacklog] | None" = None

    def page(self, is_ready: Callable[[], bool]) -> Page:
        """Return the page."""
        # Not at the top: prometheus-client is slow to import, and not needed without HTTP.
        from wasmdrop.service.health.prometheus import PrometheusCollector  # noqa: PLC0415

        return PrometheusCollector(
            self.metrics,
            self.executor,
            self.scanner,
            self.liveness,
            self.guest,
            is_ready,
            self.fleet,
            self.hook_backlog,
        )


class Health:
    """The daemon's health. It is ready only if all ``directories`` are writable.

    ``why_not_recorded`` returns why jobs can't be recorded now; called from any thread.
    """

    def __init__(
        self,
        liveness: Liveness,
        directories: Mapping[str, Path],
        why_not_recorded: Callable[[], str] = lambda: "",
    ) -> None:
        self.why_not_ready: str | None = "starting"
        """Set by the daemon: None while it takes drops."""
        self.has_started = False
        """Whether the start is complete."""
        self.why_paused = ""
        """Why intake is paused; set by the daemon, from any thread."""
        self.why_no_results: Callable[[], str] = lambda: ""
        """Returns why drops are taken but their jobs can't run; called from any thread."""
        self.why_not_recorded = why_not_recorded
        self._liveness = liveness
        self._writability = WritabilityProbe(directories)

    async def alive(self, _request: HttpRequest) -> HttpResponse:
        """Answer ``/healthz``."""
        silent = self._liveness.silent()
        ages = {name: round(age, 3) for name, age in self._liveness.ages_seconds().items()}
        return _answer(not silent, {"silent": silent, "heard_seconds_ago": ages})

    async def started(self, _request: HttpRequest) -> HttpResponse:
        """Answer ``/startupz``: a start that waits for a disk counts, a restart would not help."""
        if self.has_started:
            return _answer(True, {"reasons": []})
        waits_for = self.why_not_recorded()
        return _answer(bool(waits_for), {"reasons": [waits_for or "starting"]})

    def end_start(self) -> None:
        """Note that the daemon takes drops from now on."""
        self.why_not_ready = None
        self.has_started = True

    async def ready(self, _request: HttpRequest) -> HttpResponse:
        """Answer ``/readyz``."""
        reasons = await self.reasons()
        return _answer(not reasons, {"reasons": reasons})

    async def reasons(self) -> list[str]:
        """Return why the daemon is not ready. Called on the server's event loop."""
        reasons = self._known_reasons()
        reasons += [f"{name} is silent" for name in self._liveness.silent()]
        return reasons + await self._writability.problems()

    def _known_reasons(self) -> list[str]:
        known = (
            *(self.why_not_ready, self.why_paused),
            *(self.why_no_results(), self.why_not_recorded()),
        )
        return [reason for reason in known if reason]

    @contextlib.asynccontextmanager
    async def served(
        self, address: str | None, sources: PageSources, page: ControlPage | None = None
    ) -> AsyncIterator[None]:
        """Serve HTTP and feed the watchdog while the block runs, each if it is configured.

        Raises ``SettingsError`` if the server can't listen on ``address``.
        """
        async with contextlib.AsyncExitStack() as stack:
            if address is not None:
                server = self._server(address, sources, page)
                stack.push_async_callback(asyncio.to_thread, server.close)
            if address is not None or self._liveness.has_watchdog:
                await stack.enter_async_context(running(self._liveness.keep_pinging()))
            yield

    def _server(self, address: str, sources: PageSources, page: ControlPage | None) -> "HttpServer":
        metrics = sources.page(lambda: not self._known_reasons())
        paths = {
            "/startupz": self.started,
            "/healthz": self.alive,
            "/readyz": self.ready,
            "/metrics": metrics.answer,
        }
        # Not at the top: only HTTP needs it.
        from wasmdrop.web.server import HttpServer  # noqa: PLC0415

        server = HttpServer(address, paths, *((page.answer, page.background) if page else ()))
        _log.info("http-listening", address=server.address)
        return server


def _answer(is_good: bool, body: dict[str, Any]) -> HttpResponse:
    text = json.dumps({"ok": is_good, **body})
    return HttpResponse(200 if is_good else 503, text.encode() + b"\n", "application/json")
