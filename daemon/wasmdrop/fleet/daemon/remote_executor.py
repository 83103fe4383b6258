"""The executor of a daemon with a fleet: compiles on this machine, runs jobs on others.

A job runs on this machine if it can't run elsewhere, or if the fleet is away and may be replaced.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final

from wasmdrop.fleet.daemon.publications import Away
from wasmdrop.fleet.daemon.remote_job import Fleet, RemoteJob
from wasmdrop.fleet.daemon.remote_run import RemoteRun
from wasmdrop.fleet.daemon.window import Window
from wasmdrop.fleet.names import ANY_ENGINE, engine_class
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.outcome import Outcome
from wasmdrop.protocol.runtime_versions import own_versions
from wasmdrop.sandbox.host.attempt import Attempt
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.compilation import ProgressCallback
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule
from wasmdrop.sandbox.wire import EngineOptions


class RemoteSlot:
    """Room for one attempt in the fleet."""

    is_remote: Final = True

    def __init__(
        self,
        fleet: Fleet,
        attempt: Attempt,
        engine: str,
        attempts: int,
        explain: Callable[[str], None],
    ) -> None:
        self._fleet = fleet
        self._attempt = attempt
        self._engine = engine
        self._attempts = attempts
        self._explain = explain
        self._run: RemoteRun | None = None

    @property
    def runs_here(self) -> bool:
        """Whether the job also runs on this machine."""
        return self._run is not None and self._run.runs_here

    async def run(self, module: CompiledModule, call: Call, limits: Limits) -> Outcome:
        """Run one call to its end. Raises only ``SandboxError``."""
        job = RemoteJob(
            self._attempt, self._engine, self._attempts, self._explain, module, call, limits
        )
        self._run = RemoteRun(self._fleet, job)
        return await self._run.outcome()


class RemoteExecutor:
    """Runs jobs in a fleet; used from one event loop.

    ``window``: jobs in the fleet at a time. ``attempts``: of a job.
    """

    def __init__(self, fleet: Fleet, window: int, attempts: int) -> None:
        self._fleet = fleet
        self._local = fleet.local
        self._window = Window(window)
        self.attempts = attempts
        self.own_engine = engine_class(own_versions())
        self.has_own_engine = True
        """Whether the fleet has a queue for deterministic jobs of this daemon's wasmtime."""
        self._slots: dict[asyncio.Task[object], RemoteSlot | None] = {}
        """The tasks of jobs that are in the fleet, or wait for it."""
        self._is_detached = False
        fleet.availability.on_away = self._on_away
        self.capacity: Final = window + fleet.local.capacity

    def compiled(self, sha256: str, options: EngineOptions) -> CompiledModule | None:
        """Return the compiled module if it is in memory; no I/O."""
        return self._local.compiled(sha256, options)

    async def compile(
        self,
        sha256: str,
        options: EngineOptions,
        on_progress: ProgressCallback | None = None,
        directory: str = "",
    ) -> CompiledModule:
        """Load or compile a module on this machine: its summary must come from our own child."""
        return await self._local.compile(sha256, options, on_progress, directory)

    async def module_cid(self, sha256: str) -> str | None:
        """Return the content id of a module of the cache; None if there is no intact copy."""
        return await self._local.module_cid(sha256)

    @contextlib.asynccontextmanager
    async def slot(
        self,
        module: CompiledModule,
        call: Call,
        attempt: Attempt,
        explain: Callable[[str], None],
    ) -> AsyncIterator[RemoteSlot | LocalExecutor]:
        """Wait for room in the window, or on this machine if the job is to run here."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        if self._is_detached:
            raise asyncio.CancelledError
        engine = self.own_engine if module.options.deterministic else ANY_ENGINE
        self._slots[task] = None
        try:
            if call.grants or not await self._enter(engine, explain):
                del self._slots[task]
                async with self._local.slot(module, call, attempt, explain) as local:
                    yield local
                return
            left = self.attempts - attempt.number + 1
            self._slots[task] = slot = RemoteSlot(self._fleet, attempt, engine, left, explain)
            try:
                yield slot
            finally:
                self._window.leave()
        finally:
            self._slots.pop(task, None)

    async def _enter(self, engine: str, explain: Callable[[str], None]) -> bool:
        """Wait for room in the fleet; return False if the job is to run on this machine."""
        fleet = self._fleet
        fleet.metrics.waiting += 1
        explained = ""
        try:
            while True:
                reason = ""
                if not fleet.availability.may_try():
                    reason = fleet.availability.why_away
                elif engine == self.own_engine and not self.has_own_engine:
                    reason = (
                        f"waits for the fleet, which has no queue for deterministic jobs of class"
                        f" {engine}: run `wasmdrop fleet init`"
                    )
                if not reason:
                    if await self._window.enter():
                        return True
                elif fleet.runs_here:
                    fleet.metrics.fallback_runs += 1
                    return False
                else:
                    if reason != explained:
                        explain(reason)
                        explained = reason
                    await fleet.availability.turn()
        finally:
            fleet.metrics.waiting -= 1

    def cancel(self, job_id: str) -> None:
        """Revoke a job, so that the next daemon does not expect its answer."""
        publication = self._fleet.publications.of_job(job_id)
        if publication is not None:
            publication.is_cancelled = True
            self._fleet.revocations.revoke(job_id)
        # Otherwise no daemon published it, or an earlier one did: then it is found in its stream.

    def leave(self, job_id: str) -> None:
        """Forget a job: its answer is acknowledged."""
        publication = self._fleet.publications.remove(job_id)
        if publication is not None:
            self._fleet.cleanup.forget(publication)

    def _on_away(self) -> None:
        if self._fleet.runs_here:
            self._window.send_away()
            for publication in self._fleet.publications.unanswered():
                publication.put(Away())

    def detach(self) -> None:
        """Leave the jobs that are in the fleet to the next daemon; begin no others.

        Jobs that run on this machine go on.
        """
        self._is_detached = True
        for task, slot in list(self._slots.items()):
            if slot is None or not slot.runs_here:
                task.cancel()
