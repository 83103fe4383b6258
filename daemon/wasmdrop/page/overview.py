"""The overview: everything that the page shows at once, made at most once a second.

The daemon's event loop gives what only it may read; the rest is read on the server's thread. One
overview is made at a time, and all clients share it.
"""

import asyncio
import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from wasmdrop.jobs.journal.database import JOURNAL_NAME
from wasmdrop.page.activity import Activity
from wasmdrop.page.journal_queries import JournalQueries
from wasmdrop.page.main_loop import MainLoop
from wasmdrop.page.model import (
    NAME_LIMIT,
    REASON_LIMIT,
    CodeFailures,
    DaemonInfo,
    EndedJob,
    Fleet,
    Hooks,
    JobCounts,
    Limits,
    Module,
    ModuleFailures,
    OpenJob,
    Overview,
    Storage,
    Volume,
)
from wasmdrop.page.open_jobs import OpenJobs, look_at
from wasmdrop.page.sources import Sources
from wasmdrop.protocol.errors import SettingsError, StorageError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.marker import timestamp
from wasmdrop.protocol.text import one_line

#: How long an overview is served again, in seconds.
_FRESH_SECONDS: Final = 1.0

#: How long the journal may take to say why jobs wait, in seconds.
_NOTES_SECONDS: Final = 1.0


class _Look(msgspec.Struct, frozen=True):
    """The part of an overview that only the daemon's event loop may read."""

    jobs: JobCounts
    open: OpenJobs
    ended: tuple[EndedJob, ...]
    failures_by_code: tuple[CodeFailures, ...]
    failures_by_module: tuple[ModuleFailures, ...]
    modules: tuple[Module, ...]
    fleet: Fleet | None
    hooks: Hooks | None
    limits: Limits | None


class OverviewMaker:
    """Makes overviews; used from the server's event loop."""

    def __init__(
        self,
        sources: Sources,
        activity: Activity,
        queries: JournalQueries,
        main_loop: MainLoop,
        *,
        has_login: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sources = sources
        self._activity = activity
        self._queries = queries
        self._main_loop = main_loop
        self._has_login = has_login
        self._clock = clock
        self._begun_at = clock()
        self._daemon = _describe_daemon(sources)
        self._making: asyncio.Task[bytes] | None = None
        self._made: tuple[bytes, float] | None = None
        """The last overview and when it was made."""

    async def json(self) -> bytes:
        """Return an overview as JSON. Raises ``NoAnswerError``."""
        if self._made is not None and self._clock() - self._made[1] < _FRESH_SECONDS:
            return self._made[0]
        if self._making is None:
            self._making = asyncio.create_task(self._make())
            self._making.add_done_callback(self._on_made)
        # One client that leaves does not end it for the others.
        return await asyncio.shield(self._making)

    def _on_made(self, task: "asyncio.Task[bytes]") -> None:
        self._making = None
        # Retrieves the exception, too, if all clients have left.
        if not task.cancelled() and task.exception() is None:
            self._made = task.result(), self._clock()

    async def _make(self) -> bytes:
        look, health = await asyncio.gather(
            self._main_loop.call(self._look), self._sources.health()
        )
        running, queued = look.open.running, look.open.queued
        notes = await self._notes(job.job for job in (*running, *queued))
        overview = Overview(
            made_at=timestamp(time.time_ns()),
            daemon=msgspec.structs.replace(
                self._daemon, uptime_seconds=self._clock() - self._begun_at
            ),
            health=health,
            jobs=look.jobs,
            running=_explained(running, notes),
            queued=_explained(queued, notes),
            ended=look.ended,
            failures_by_code=look.failures_by_code,
            failures_by_module=look.failures_by_module,
            modules=look.modules,
            storage=self._storage(),
            login=self._has_login,
            fleet=look.fleet,
            hooks=look.hooks,
            limits=look.limits,
        )
        return msgspec.json.encode(overview)

    async def _look(self) -> _Look:
        """Read what only the daemon's event loop may read, on it."""
        sources, activity = self._sources, self._activity
        jobs = await look_at(sources.table, time.time_ns())
        # Between these the loop goes on, too.
        modules = activity.modules(sources.compiler.seconds)
        await asyncio.sleep(0)
        by_module = activity.failures_by_module()
        await asyncio.sleep(0)
        return _Look(
            jobs=self._counts(jobs),
            open=jobs,
            ended=activity.ended(),
            failures_by_code=activity.failures_by_code(),
            failures_by_module=by_module,
            modules=modules,
            fleet=None if sources.fleet is None else sources.fleet(),
            hooks=None if sources.hooks is None else sources.hooks(),
            limits=None if sources.limits is None else sources.limits(),
        )

    def _counts(self, jobs: OpenJobs) -> JobCounts:
        metrics = self._sources.metrics
        return JobCounts(
            queued=metrics.queued,
            running=metrics.running,
            delivering=metrics.delivering,
            undelivered=metrics.undelivered,
            undelivered_bytes=metrics.undelivered_bytes,
            oldest_seconds=metrics.oldest_seconds(time.time_ns()),
            max_queued=self._sources.settings.max_queued,
            ended={str(code): count for code, count in metrics.jobs.items() if count},
            by_state=jobs.by_state,
        )

    def _storage(self) -> Storage:
        settings, cache = self._sources.settings, self._sources.cache
        names = {"shared": str(settings.shared_dir), "state": str(settings.state_dir)}
        space = dict(self._sources.space)
        volumes = tuple(
            Volume(name, one_line(path, NAME_LIMIT), *space[path], settings.reserve_mb * MEBIBYTE)
            for name, path in names.items()
            if path in space
        )
        return Storage(
            volumes=volumes,
            journal_bytes=_size_bytes(settings.state_dir / JOURNAL_NAME),
            journal_max_bytes=settings.journal_mb * MEBIBYTE,
            cache_bytes=cache.total_bytes,
            cache_max_bytes=settings.cache_mb * MEBIBYTE,
        )

    async def _notes(self, job_ids: Iterable[str]) -> dict[str, str]:
        """Return why jobs wait; nothing if the journal can't say it in time."""
        with contextlib.suppress(TimeoutError, SettingsError, StorageError):
            async with asyncio.timeout(_NOTES_SECONDS):
                return await self._queries.notes(job_ids)
        return {}


def _describe_daemon(sources: Sources) -> DaemonInfo:
    """Return the facts of a daemon that starts now."""
    settings = sources.settings
    return DaemonInfo(
        version=version("wasmdrop"),
        wasmtime_version=version("wasmtime"),
        host=one_line(platform.node(), NAME_LIMIT),
        guest=sources.guest,
        started_at=timestamp(time.time_ns()),
        uptime_seconds=0.0,
        workers=settings.workers,
        shared_dir=one_line(str(settings.shared_dir), NAME_LIMIT),
        wasm_dir=one_line(str(settings.wasm_dir), NAME_LIMIT),
    )


def _explained(jobs: tuple[OpenJob, ...], notes: dict[str, str]) -> tuple[OpenJob, ...]:
    return tuple(
        msgspec.structs.replace(job, why=one_line(notes[job.job], REASON_LIMIT))
        if job.job in notes
        else job
        for job in jobs
    )


def _size_bytes(path: Path) -> int:
    with contextlib.suppress(OSError):
        return os.stat(path).st_size  # noqa: PTH116 - one call
    return 0
