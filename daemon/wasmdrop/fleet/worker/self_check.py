"""Try the sandbox with a module of our own.

A job that fails in the sandbox may have caused that itself. A worker whose sandbox fails for this
module, too, would fail all jobs of the fleet faster than others can run them.
"""

import asyncio
import os
from typing import Final

from wasmdrop.protocol.errors import RefusedError, SandboxError, StorageError
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.protocol.outcome import Code
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.sandbox.host.module_cache.cache import ModuleCache
from wasmdrop.sandbox.wire import EngineOptions

#: ``(module (func (export "run")))``
_MODULE: Final = bytes.fromhex(
    "0061736d 01000000"  # magic, version
    "01 04 01 60 00 00"  # one type, () -> ()
    "03 02 01 00"  # one function of it
    "07 07 01 03 72756e 00 00"  # exported as "run"
    "0a 04 01 02 00 0b"  # its body
)
_CALL: Final = Call("run", FunctionType())

#: A check takes milliseconds; the rest is for a busy machine and a fork server that restarts.
_SECONDS: Final = 60.0


class SelfCheck:
    """Runs an empty function in the sandbox; checks at the same time are one."""

    def __init__(self, executor: LocalExecutor, cache: ModuleCache) -> None:
        self._executor = executor
        self._cache = cache
        self._running: asyncio.Task[str] | None = None

    async def problem(self) -> str:
        """Return why the sandbox does not work; empty if it does."""
        if self._running is None:
            self._running = asyncio.create_task(self._check())
            self._running.add_done_callback(self._forget)
        return await asyncio.shield(self._running)

    def _forget(self, _task: "asyncio.Task[str]") -> None:
        self._running = None

    async def _check(self) -> str:
        try:
            async with asyncio.timeout(_SECONDS):
                return await self._run()
        except TimeoutError:
            return f"an empty function did not return within {_SECONDS:g} s"
        except (OSError, RefusedError, SandboxError, StorageError) as error:
            return str(error)

    async def _run(self) -> str:
        sha256 = await asyncio.to_thread(self._ingest)
        module = await self._executor.compile(sha256, EngineOptions())
        directory = self._executor.directories.make(1, sha256)
        await directory.leave(keep=False)
        outcome = await self._executor.run(module, _CALL, Limits())
        return "" if outcome.code is Code.OK else f"{outcome.code}: {outcome.message}"

    def _ingest(self) -> str:
        fd = os.memfd_create("self-check")
        try:
            os.write(fd, _MODULE)
            return self._cache.ingest(fd)
        finally:
            os.close(fd)
