"""The seam to the machines that run jobs: this one, or others of a fleet."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.outcome import Outcome
from wasmdrop.sandbox.host.attempt import Attempt
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.compilation import ProgressCallback
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule
from wasmdrop.sandbox.wire import EngineOptions


class RunSlot(Protocol):
    """Room for one run."""

    @property
    def is_remote(self) -> bool:
        """Whether the run goes on if the daemon ends: an attempt that was begun is then resumed."""

    def run(self, module: CompiledModule, call: Call, limits: Limits) -> Awaitable[Outcome]:
        """Run one call to its end. Raises only ``SandboxError``."""


class Executor(Protocol):
    """Compiles modules and runs calls; knows nothing of slots, the journal or delivery."""

    @property
    def capacity(self) -> int:
        """Jobs that may run at a time."""

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

    def slot(
        self, module: CompiledModule, call: Call, attempt: Attempt, explain: Callable[[str], None]
    ) -> AbstractAsyncContextManager[RunSlot]:
        """Wait for room to run a call; the room is given back at the end of the block.

        ``explain`` is called with the reason why the job waits, for people, if it waits for
        anything but its turn.
        """

    def cancel(self, job_id: str) -> None:
        """Revoke a job on other hosts, without waiting for them. Raises nothing.

        Called when the cancellation is durable, and before the task that runs the job is
        interrupted. Without this call an interrupted run goes on there, for the next daemon.
        """

    def leave(self, job_id: str) -> None:
        """Forget a job: its results are in place or kept durably, or it owes none."""
