"""Whether the daemon is alive and ready, answered over HTTP; and its beats for the watchdog.

*Alive* is that every part answers: a restart may help where it is not. *Ready* is that a drop made
now is taken and its results can be written: a restart would not help where they can't.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from wasmdrop.intake.scanner import Scanner
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.service.health.http_server import HttpResponse, HttpServer
from wasmdrop.service.health.liveness import Liveness
from wasmdrop.service.health.writability import WritabilityProbe

__all__ = ["Health", "Sources"]

_log = structlog.get_logger()


@dataclass(frozen=True)
class Sources:
    """Where the numbers of ``/metrics`` come from."""

    metrics: Metrics
    executor: LocalExecutor
    scanner: Scanner
    vitals: Liveness


class Health:
    """What the daemon says of itself; ``directories`` must take a byte for it to be ready."""

    def __init__(self, vitals: Liveness, directories: Mapping[str, Path]) -> None:
        self.why_not_ready: str | None = "starting"
        """For the service to set: None from when drops are seen until it stops."""
        self.why_paused = ""
        """Why drops are left where they are for now; for the service to set, from any thread."""
        self._vitals = vitals
        self._storage = WritabilityProbe(directories)

    async def alive(self, _accept: str) -> HttpResponse:
        """HttpResponse ``/healthz``."""
        silent = self._vitals.silent()
        ages = {name: round(age, 3) for name, age in self._vitals.ages_seconds().items()}
        return _answer(not silent, {"silent": silent, "heard_seconds_ago": ages})

    async def ready(self, _accept: str) -> HttpResponse:
        """HttpResponse ``/readyz``."""
        reasons = [reason for reason in (self.why_not_ready, self.why_paused) if reason]
        reasons += [f"{name} is silent" for name in self._vitals.silent()]
        reasons += await self._storage.problems()
        return _answer(not reasons, {"reasons": reasons})

    @contextlib.asynccontextmanager
    async def told(self, address: str | None, sources: Sources) -> AsyncIterator[None]:
        """Tell of the daemon's health while the block runs: over HTTP, and to a watchdog.

        Does nothing where nobody wants to know. Raises ``SettingsError`` where nobody can listen at
        ``address``.
        """
        async with contextlib.AsyncExitStack() as stack:
            if address is not None:
                endpoint = self._endpoint(address, sources)
                stack.push_async_callback(asyncio.to_thread, endpoint.close)
            if address is not None or self._vitals.are_awaited:
                asking = asyncio.create_task(self._vitals.keep_asking())
                stack.callback(asking.cancel)
            yield

    def _endpoint(self, address: str, sources: Sources) -> HttpServer:
        # Here, and so not at all where HTTP is off: prometheus-client is slow to import.
        from wasmdrop.service.health.prometheus import PrometheusCollector  # noqa: PLC0415

        page = PrometheusCollector(
            sources.metrics,
            sources.executor,
            sources.scanner,
            sources.vitals,
            lambda: not self.why_not_ready and not self.why_paused,
        )
        paths = {"/healthz": self.alive, "/readyz": self.ready, "/metrics": page.answer}
        endpoint = HttpServer(address, paths)
        _log.info("http-listening", address=endpoint.address)
        return endpoint


def _answer(is_good: bool, body: dict[str, Any]) -> HttpResponse:
    text = json.dumps({"ok": is_good, **body})
    return HttpResponse(200 if is_good else 503, text.encode() + b"\n", "application/json")
