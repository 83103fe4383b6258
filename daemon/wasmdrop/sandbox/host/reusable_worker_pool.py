"""ReusableWorkerPool as the daemon keeps them: processes that serve many jobs of one module.

Only where the operator has asked for it (``WASMDROP_ISOLATION=instance``); see :mod:`.resident`. A
resident serves one job at a time. One whose job was killed, or that met anything odd, is not used
again; one that nobody called for a while goes.
"""

import asyncio
from collections import deque
from typing import Final

from wasmdrop.protocol.errors import SandboxError
from wasmdrop.protocol.outcome import Code
from wasmdrop.sandbox.host.captured_output import CapturedOutput
from wasmdrop.sandbox.host.child_process import ChildProcess
from wasmdrop.sandbox.host.fork_server import ForkServer
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule
from wasmdrop.sandbox.host.reports import decode_run_report
from wasmdrop.sandbox.wire import (
    MAX_RUN_REPORT_BYTES,
    Preparation,
    ReusableWorkerRequest,
    encode_frame,
)

__all__ = ["ReusableWorker", "ReusableWorkerPool"]

#: ReusableWorkerPool that wait for a job, of all modules together. Each takes some 5 MiB.
_MOST_IDLE: Final = 32

#: How long a resident lives that nobody calls, in seconds: an idle daemon keeps none.
_UNUSED_SECONDS: Final = 60.0

#: How long making one may take, in seconds.
_PATIENCE_SECONDS: Final = 5.0

#: How many jobs one serves: whatever it may leak has an end.
_JOBS: Final = 10_000

_Key = tuple[str, Preparation]


class ReusableWorker:
    """One resident, and its output. An exchange's source of one child."""

    def __init__(self, key: _Key, process: ChildProcess) -> None:
        self.key = key
        self.streams: CapturedOutput | None = None
        """The output of its present job; None if its module has no WASI."""
        self.used_at = asyncio.get_running_loop().time()
        self.jobs = 0
        self._process = process
        self._is_free = True

    async def take(self) -> ChildProcess:
        """Return the process, for one order."""
        self._is_free = False
        self.jobs += 1
        return self._process

    def close_soon(self, _child: ChildProcess) -> None:
        """Hear that the process has reported, and can take another order."""
        self._is_free = True

    @property
    def is_usable(self) -> bool:
        """Whether another order may be given."""
        return self._is_free and self.jobs < _JOBS and self._process.is_quiet()

    def close(self) -> None:
        """End it."""
        self._process.close()
        if self.streams is not None:
            self.streams.close()


class ReusableWorkerPool:
    """The residents of one daemon, made of children of ``pool``."""

    def __init__(self, pool: ForkServer) -> None:
        self._pool = pool
        self._idle: deque[ReusableWorker] = deque()
        """Those that wait, the least recently used first."""
        self._tidying: asyncio.TimerHandle | None = None

    async def take(self, module: CompiledModule, wanted: Preparation) -> ReusableWorker:
        """Return a resident for one job. Raises ``SandboxError`` where it can't be made."""
        key = (module.sha256, wanted)
        # The most recently used first: its pages are at hand, and the others may go.
        for resident in reversed(self._idle):
            if resident.key == key:
                self._idle.remove(resident)
                if resident.is_usable:
                    return resident
                resident.close()
                return await self.take(module, wanted)
        return await self._make(key, module)

    def give_back(self, resident: ReusableWorker) -> None:
        """Take a resident back whose job is over, whatever became of it."""
        if not resident.is_usable:
            resident.close()
            return
        if resident.streams is not None:
            resident.streams.clear()
        loop = asyncio.get_running_loop()
        resident.used_at = loop.time()
        self._idle.append(resident)
        if len(self._idle) > _MOST_IDLE:
            self._idle.popleft().close()
        if self._tidying is None:
            self._tidying = loop.call_later(_UNUSED_SECONDS, self._tidy)

    def close(self) -> None:
        """End all that wait."""
        if self._tidying is not None:
            self._tidying.cancel()
        while self._idle:
            self._idle.pop().close()

    async def _make(self, key: _Key, module: CompiledModule) -> ReusableWorker:
        process = await self._pool.take()
        resident = ReusableWorker(key, process)
        try:
            if key[1].has_wasi:
                resident.streams = CapturedOutput()
            async with asyncio.timeout(_PATIENCE_SECONDS):
                order = encode_frame(ReusableWorkerRequest(key[1]))
                fds = [] if resident.streams is None else resident.streams.fds
                await process.send(order, [module.fd, *fds])
                received = await process.receive(MAX_RUN_REPORT_BYTES)
            if received is None:
                raise SandboxError("a process died while it was made to serve many jobs")
            report = decode_run_report(received[0])
            if report.code is not Code.OK:
                raise SandboxError(report.message)
        except BaseException as error:
            resident.close()
            if isinstance(error, (OSError, TimeoutError)):
                message = f"a process could not be made to serve many jobs: {error}"
                raise SandboxError(message) from error
            raise
        return resident

    def _tidy(self) -> None:
        loop = asyncio.get_running_loop()
        while self._idle and loop.time() - self._idle[0].used_at >= _UNUSED_SECONDS:
            self._idle.popleft().close()
        self._tidying = loop.call_later(_UNUSED_SECONDS, self._tidy) if self._idle else None
