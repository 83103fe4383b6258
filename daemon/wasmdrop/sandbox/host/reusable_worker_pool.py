"""The reusable workers of the daemon: processes that serve many jobs of one module.

Used only if the operator asks for it (``WASMDROP_ISOLATION=instance``). A worker serves one job at
a time. A worker whose job was killed, or that sent anything unexpected, is not reused; a worker
that gets no job for a while is ended.
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

#: Limit of idle workers, of all modules together. Each takes about 5 MiB.
_MAX_IDLE: Final = 32

#: Time without a job after which a worker is ended, in seconds: an idle daemon has none.
_UNUSED_SECONDS: Final = 60.0

#: Time to start a worker, in seconds.
_START_SECONDS: Final = 5.0

#: Jobs that one worker serves: whatever it leaks is bounded.
_MAX_JOBS: Final = 10_000

_Key = tuple[str, Preparation]


class _ReusableWorker:
    def __init__(self, key: _Key, process: ChildProcess) -> None:
        self.key = key
        self.process = process
        self.used_at = 0.0
        self.jobs = 0

    @property
    def is_usable(self) -> bool:
        """Whether it can take another request."""
        return self.jobs < _MAX_JOBS and self.process.has_reported and self.process.is_quiet()


class ReusableWorkerPool:
    """The reusable workers, made of children of ``fork_server``."""

    def __init__(self, fork_server: ForkServer) -> None:
        self._fork_server = fork_server
        self._busy: dict[ChildProcess, _ReusableWorker] = {}
        self._idle: deque[_ReusableWorker] = deque()
        """The least recently used first."""
        self._timer: asyncio.TimerHandle | None = None

    async def acquire(self, module: CompiledModule, preparation: Preparation) -> ChildProcess:
        """Return a worker's process. Raise ``SandboxError`` if no worker can be started."""
        key = (module.sha256, preparation)
        worker = self._find(key) or await self._start(key, module)
        worker.jobs += 1
        worker.process.has_reported = False
        self._busy[worker.process] = worker
        return worker.process

    def release(self, child: ChildProcess) -> None:
        """Take back a worker whose job ended; reuse it if that is safe."""
        worker = self._busy.pop(child)
        if not worker.is_usable:
            child.close()
            return
        if child.output is not None:
            child.output.clear()
        loop = asyncio.get_running_loop()
        worker.used_at = loop.time()
        self._idle.append(worker)
        if len(self._idle) > _MAX_IDLE:
            self._idle.popleft().process.close()
        if self._timer is None:
            self._timer = loop.call_later(_UNUSED_SECONDS, self._end_unused)

    def close(self) -> None:
        """End all idle workers."""
        if self._timer is not None:
            self._timer.cancel()
        while self._idle:
            self._idle.pop().process.close()

    def _find(self, key: _Key) -> _ReusableWorker | None:
        # The most recently used first: its pages are in memory, and the others can be ended.
        for worker in [one for one in reversed(self._idle) if one.key == key]:
            self._idle.remove(worker)
            if worker.is_usable:
                return worker
            worker.process.close()
        return None

    async def _start(self, key: _Key, module: CompiledModule) -> _ReusableWorker:
        process = await self._fork_server.take()
        try:
            if key[1].has_wasi:
                process.output = CapturedOutput()
            async with asyncio.timeout(_START_SECONDS):
                fds = [] if process.output is None else process.output.fds
                await process.send(encode_frame(ReusableWorkerRequest(key[1])), [module.fd, *fds])
                received = await process.receive(MAX_RUN_REPORT_BYTES)
            if received is None:
                raise SandboxError("a reusable worker died while it started")
            report = decode_run_report(received[0])
            if report.code is not Code.OK:
                raise SandboxError(report.message)
        except BaseException as error:
            process.close()
            if isinstance(error, (OSError, TimeoutError)):
                raise SandboxError(f"a reusable worker did not start: {error}") from error
            raise
        process.is_prepared = True
        return _ReusableWorker(key, process)

    def _end_unused(self) -> None:
        loop = asyncio.get_running_loop()
        while self._idle and loop.time() - self._idle[0].used_at >= _UNUSED_SECONDS:
            self._idle.popleft().process.close()
        self._timer = loop.call_later(_UNUSED_SECONDS, self._end_unused) if self._idle else None
