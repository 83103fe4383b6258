"""The seam to whatever runs jobs: this machine's sandbox, or one day a fleet."""

from collections.abc import Awaitable
from typing import Protocol

from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.outcome import Outcome
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.compilation import ProgressCallback
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule
from wasmdrop.sandbox.wire import EngineOptions


class Executor(Protocol):
    """Compiles modules and runs calls; knows nothing of slots, the journal or delivery."""

    def compiled(self, sha256: str, options: EngineOptions) -> CompiledModule | None:
        """Return the compiled module if it is in memory, without any I/O."""

    def compile(
        self,
        sha256: str,
        options: EngineOptions,
        on_progress: ProgressCallback | None = None,
        directory: str = "",
    ) -> Awaitable[CompiledModule]:
        """Return a module of the module cache, compiled now if it was not before.

        ``directory`` is that of the job's slot: directories are served in turn. ``on_progress`` is
        called with a message for people when the reason why the job waits changes.

        Raises ``RefusedError`` if the module can't be compiled, with ``module-missing`` if the
        module cache lost it; ``SandboxError`` if the daemon or its disk is at fault.
        """

    def module_cid(self, sha256: str) -> Awaitable[str | None]:
        """Return the content id of a module of the module cache; None if it can't be known."""

    def run(self, module: CompiledModule, call: Call, limits: Limits) -> Awaitable[Outcome]:
        """Run one call to its end. Raises only ``SandboxError``."""
