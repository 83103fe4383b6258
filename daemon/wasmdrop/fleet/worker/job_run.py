"""Run one job in the local sandbox, from its message to its outcome."""

import time
from typing import Final, NamedTuple

from wasmdrop.fleet.bodies.call_codec import InvalidCallError
from wasmdrop.fleet.bodies.chunks import InvalidBodyError, MissingChunkError
from wasmdrop.fleet.bodies.modules import ModuleDownloads
from wasmdrop.fleet.bodies.transfers import Publication, receive_call
from wasmdrop.fleet.messages import JobMessage, Started, encode
from wasmdrop.fleet.names import started_subject
from wasmdrop.fleet.transport.connection import FleetConnection
from wasmdrop.fleet.worker.counters import Stage, WorkerCounters
from wasmdrop.fleet.worker.job_request import UnfitJobError, check_request
from wasmdrop.protocol.errors import RefusedError, SandboxError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.outcome import Outcome
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule, ModuleCache
from wasmdrop.settings import Settings

#: Bytes of a call for one of its input at most: the element ``0,`` of an array may become nine.
_CALL_RATIO: Final = 5


class Executed(NamedTuple):
    """A job that ran."""

    outcome: Outcome
    call: Call


class RunFailedError(Exception):
    """The sandbox failed while it ran the job, because of the job or not."""

    def __init__(self, error: SandboxError, call: Call) -> None:
        super().__init__(str(error))
        self.call = call


class JobRun:
    """Runs jobs; knows nothing of leases and answers."""

    def __init__(
        self,
        connection: FleetConnection,
        executor: LocalExecutor,
        cache: ModuleCache,
        settings: Settings,
        counters: WorkerCounters,
    ) -> None:
        self._connection = connection
        self._executor = executor
        self._counters = counters
        self._worker = settings.fleet_name
        self._max_module_bytes = settings.max_module_mb * MEBIBYTE
        self._max_call_bytes = settings.max_input_mb * MEBIBYTE * _CALL_RATIO
        self._pool = settings.fleet_pool
        self.downloads: Final = ModuleDownloads(
            connection, self._pool, cache, settings.state_dir, self._max_module_bytes
        )

    async def run(self, message: JobMessage, engine: str, delivery: int) -> Executed:
        """Run a job of the class ``engine``.

        Raises ``RunFailedError``; ``UnfitJobError`` if this worker can't run it, or its module or
        call is not as announced; ``SandboxError`` if its module can't be kept or compiled because
        of the disk or the sandbox, and ``FleetUnavailableError``.
        """
        check_request(message, engine, self._max_module_bytes)
        module = await self._module(message)
        publication = Publication(self._pool, message.daemon, message.ticket)
        try:
            call = await receive_call(
                self._connection, publication, message.call, self._max_call_bytes
            )
        except (InvalidBodyError, InvalidCallError) as error:
            raise UnfitJobError(f"its call: {error}") from None
        started = Started(message.ticket, self._worker, delivery)
        await self._connection.publish(started_subject(message.daemon), encode(started))
        begun = time.monotonic()
        try:
            outcome = await self._executor.run(module, call, message.limits)
        except SandboxError as error:
            raise RunFailedError(error, call) from error
        self._counters.stages[Stage.RUN].observe(time.monotonic() - begun)
        return Executed(outcome, call)

    async def _module(self, message: JobMessage) -> CompiledModule:
        """Return the compiled module; each is downloaded and compiled once at a time."""
        blob, options = message.module, message.options
        found = self._executor.compiled(blob.sha256, options)
        if found is not None:
            self._counters.module_hits += 1
            return found
        begun = time.monotonic()
        try:
            async with self.downloads.module(blob):
                compiled = await self._executor.compile(blob.sha256, options)
        except InvalidBodyError as error:
            is_missing = isinstance(error, MissingChunkError)
            raise UnfitJobError(f"its module: {error}", needs_module=is_missing) from None
        except RefusedError as refusal:
            raise UnfitJobError(f"its module can't be compiled: {refusal.message}") from None
        self._counters.stages[Stage.COMPILE].observe(time.monotonic() - begun)
        return compiled
