"""The local executor: runs one job, or compiles one module, in a child process.

Jobs know only the ``Executor`` protocol of :mod:`wasmdrop.jobs`: run this call, return its outcome.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import msgspec
import structlog

from wasmdrop.protocol.errors import SandboxError
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.outcome import Code, Outcome, OutputTree
from wasmdrop.protocol.text import bounded_text
from wasmdrop.sandbox.host.attempt import Attempt
from wasmdrop.sandbox.host.call import (
    Call,
    can_be_prepared,
    cpu_limit_seconds,
    invocation_of,
    preparation_of,
    wants_directory,
)
from wasmdrop.sandbox.host.captured_output import CapturedOutput
from wasmdrop.sandbox.host.child_process import ChildProcess, ChildSource
from wasmdrop.sandbox.host.compilation import CompileLimits, ModuleCompiler, ProgressCallback
from wasmdrop.sandbox.host.fork_server import ForkServer
from wasmdrop.sandbox.host.job_directory import JobDirectory, JobDirectoryFactory, open_grants
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule, ModuleCache
from wasmdrop.sandbox.host.native_reports import OUTPUT_LIMIT_MESSAGE, decode_native_report
from wasmdrop.sandbox.host.reports import (
    decode_run_report,
    outcome_of_report,
    outcome_without_report,
    with_limit,
)
from wasmdrop.sandbox.host.request import RequestResult, exchange
from wasmdrop.sandbox.host.zygote_pool import ZygotePool
from wasmdrop.sandbox.memory_shares import initial_bytes
from wasmdrop.sandbox.native_wire import MAX_NATIVE_REPORT_BYTES, encode_request
from wasmdrop.sandbox.wire import (
    MAX_RUN_REPORT_BYTES,
    EngineOptions,
    Preparation,
    RunRequest,
    encode_frame,
)
from wasmdrop.system.fair_turns import FairSemaphore
from wasmdrop.system.untrusted_trees import TreeLimitError

_log = structlog.get_logger()

#: Codes with which a job publishes no files from its directory.
WITHOUT_FILES: Final = frozenset(
    {Code.DISK_LIMIT, Code.SANDBOX_VIOLATION, Code.CRASHED, Code.INTERNAL}
)

#: Reports larger than this are decoded on a thread, so that other jobs go on. Smaller ones take at
#: most a few milliseconds.
_LARGE_REPORT_BYTES: Final = 64 * 1024


class LocalExecutor:
    """Runs jobs in children of the fork server and of zygotes.

    ``zygote_idle``: limit of a zygote's idle children; 0 without zygotes, which need the native
    program. ``workers``: jobs that run at a time.
    """

    is_remote: Final = False

    def __init__(
        self,
        fork_server: ForkServer,
        cache: ModuleCache,
        directories: JobDirectoryFactory,
        compile_limits: CompileLimits,
        zygote_idle: int = 0,
        workers: int = 1,
    ) -> None:
        self.capacity: Final = workers
        self._slots = FairSemaphore(workers)
        self.fork_server = fork_server
        self.directories = directories
        self.compiler = ModuleCompiler(fork_server, cache, compile_limits)
        self._cache = cache
        self._zygotes = ZygotePool(fork_server, zygote_idle) if zygote_idle else None

    @property
    def has_zygotes(self) -> bool:
        """Whether modules that are called again run in the native guest."""
        return self._zygotes is not None

    @property
    def zygotes(self) -> int:
        """Zygotes that are ready."""
        return 0 if self._zygotes is None else len(self._zygotes)

    def close(self) -> None:
        """End the zygotes. The caller closes the fork server."""
        if self._zygotes is not None:
            self._zygotes.close()

    def compiled(self, sha256: str, options: EngineOptions) -> CompiledModule | None:
        """Return the compiled module if it is in memory; no I/O."""
        return self._cache.at_hand(sha256, options)

    async def compile(
        self,
        sha256: str,
        options: EngineOptions,
        on_progress: ProgressCallback | None = None,
        directory: str = "",
    ) -> CompiledModule:
        """Load or compile a module; see :meth:`ModuleCompiler.compile`."""
        return await self.compiler.compile(sha256, options, on_progress, directory)

    async def module_cid(self, sha256: str) -> str | None:
        """Return the content id of a module of the cache; None if there is no intact copy."""
        known = self._cache.cids.known(sha256)
        if known is not None:
            return known
        try:
            return await asyncio.to_thread(self._cache.cids.of, sha256)
        except OSError as error:
            _log.warning("module-cid-failed", module=sha256, error=str(error))
            return None

    @contextlib.asynccontextmanager
    async def slot(
        self,
        _module: CompiledModule,
        _call: Call,
        attempt: Attempt,
        _explain: Callable[[str], None],
    ) -> AsyncIterator["LocalExecutor"]:
        """Wait until fewer jobs run than there are workers; directories take turns."""
        await self._slots.acquire(attempt.directory)
        try:
            yield self
        finally:
            self._slots.release()

    def cancel(self, job_id: str) -> None:
        """Do nothing: an interrupted run ends its child."""

    def leave(self, job_id: str) -> None:
        """Do nothing: a job leaves nothing here."""

    async def run(self, module: CompiledModule, call: Call, limits: Limits) -> Outcome:
        """Run one call and return its outcome."""
        return with_limit(await self._run(module, call, limits), limits)

    async def _run(self, module: CompiledModule, call: Call, limits: Limits) -> Outcome:
        wanted_bytes = initial_bytes(module.summary)
        if wanted_bytes > limits.memory_bytes:
            message = (
                f"the module needs {wanted_bytes} bytes of memory initially, including its tables"
            )
            return Outcome(code=Code.MEMORY_LIMIT, message=message)
        # Only a call that can use a directory pays for one.
        if wants_directory(module.summary, call):
            with open_grants(call.grants) as grants:
                return await self._run_in_directory(module, call, limits, grants)
        return await self._run_in_child(module, call, limits)

    async def _run_in_directory(
        self,
        module: CompiledModule,
        call: Call,
        limits: Limits,
        grants: Sequence[int],
    ) -> Outcome:
        """Run with a directory for the job; its files become part of the outcome."""
        try:
            directory = self.directories.make(limits.disk_bytes, module.sha256)
        except OSError as error:
            raise SandboxError(f"the directory of a job could not be created: {error}") from error
        output: OutputTree | None = None
        try:
            outcome = await self._run_in_child(module, call, limits, directory, grants)
            if outcome.code not in WITHOUT_FILES:
                output = await directory.inventory()
        except TreeLimitError as error:
            message = f"left {error} in its directory"
            outcome = Outcome(
                code=Code.DISK_LIMIT,
                message=message,
                run_seconds=outcome.run_seconds,
                cpu_seconds=outcome.cpu_seconds,
            )
        except OSError as error:
            raise SandboxError(f"the directory of a job could not be read: {error}") from error
        finally:
            await directory.leave(keep=output is not None)
        if output is not None and output.left_out:
            message = "\n".join(filter(None, (outcome.message, output.left_out)))
            outcome = msgspec.structs.replace(outcome, message=bounded_text(message))
        return msgspec.structs.replace(outcome, output=output)

    async def _run_in_child(
        self,
        module: CompiledModule,
        call: Call,
        limits: Limits,
        directory: JobDirectory | None = None,
        grants: Sequence[int] = (),
    ) -> Outcome:
        """Acquire a child, send it the request, and return the outcome of its report or death."""
        has_directory = directory is not None
        directories = () if directory is None else (directory.parent_fd, *grants)
        preparation = preparation_of(module, call, limits, directories)
        invocation = invocation_of(module, call, limits, has_directory=has_directory)
        child, source = await self._acquire(module, preparation, limits, directories)
        try:
            descriptors = [] if child.is_native else [module.fd]
            if preparation.has_wasi and child.output is None:
                child.output = _new_output()
                descriptors += child.output.fds
            if directory is not None:
                descriptors += [directory.fd, *grants]
            if child.is_native:
                frame = encode_request(invocation, call.stdin, call.files)
                max_report_bytes = MAX_NATIVE_REPORT_BYTES
            else:
                frame = encode_frame(
                    RunRequest(invocation, preparation),
                    b"".join((call.stdin, *call.files.values())),
                )
                # A component may return as much as it may print.
                max_report_bytes = MAX_RUN_REPORT_BYTES
                max_report_bytes += limits.output_bytes if call.component else 0
            result = await exchange(
                child,
                frame,
                descriptors,
                limits.timeout_sec,
                max_report_bytes,
                directory=directory,
                output_bytes=limits.output_bytes,
            )
            outcome = await self._outcome(
                result, child, module, preparation, call, limits, directory
            )
            if child.output is None:
                return outcome
            if child.output.size_bytes() > limits.output_bytes:
                # The kernel limits the size of each stream, not of both together.
                outcome = msgspec.structs.replace(
                    outcome,
                    code=Code.OUTPUT_LIMIT,
                    message=OUTPUT_LIMIT_MESSAGE % limits.output_bytes,
                    results=None,
                    exit_code=None,
                )
            stdout, stderr = child.output.read(limits.output_bytes)
        finally:
            source.release(child)
        return msgspec.structs.replace(
            outcome, is_command=call.is_command, stdout=stdout, stderr=stderr
        )

    async def _acquire(
        self,
        module: CompiledModule,
        preparation: Preparation,
        limits: Limits,
        directories: Sequence[int],
    ) -> tuple[ChildProcess, ChildSource]:
        """Return a child for one request, and the source to release it to."""
        if self._zygotes is not None and can_be_prepared(module):
            cpu_seconds = cpu_limit_seconds(limits)
            acquired = await self._zygotes.acquire(module, preparation, cpu_seconds, directories)
            if acquired is not None:
                return acquired
        return await self.fork_server.take(), self.fork_server

    async def _outcome(
        self,
        result: RequestResult,
        child: ChildProcess,
        module: CompiledModule,
        preparation: Preparation,
        call: Call,
        limits: Limits,
        directory: JobDirectory | None,
    ) -> Outcome:
        """Return the outcome of a job from the result of its request."""
        if directory is not None and directory.surplus:
            message = f"wrote {directory.surplus} into its directory"
            return Outcome(
                code=Code.DISK_LIMIT,
                message=message,
                run_seconds=result.seconds,
                cpu_seconds=result.cpu_seconds,
            )
        if result.report is None:
            return outcome_without_report(result.status, limits, result.seconds, result.cpu_seconds)
        if child.is_native:
            report = decode_native_report(result.report, call, preparation)
            return outcome_of_report(report, call, result.seconds)
        if len(result.report) > _LARGE_REPORT_BYTES:
            # The results of a component; to decode them may take seconds.
            return await asyncio.to_thread(
                self._outcome_of_report, result, result.report, module, call
            )
        return self._outcome_of_report(result, result.report, module, call)

    def _outcome_of_report(
        self, result: RequestResult, data: bytes, module: CompiledModule, call: Call
    ) -> Outcome:
        """Return the outcome that a child reports. Raise ``SandboxError`` if that is not valid."""
        report = decode_run_report(data)
        if report.stale_code:
            _log.warning("machine-code-stale", module=module.sha256, message=report.message)
            self._cache.forget_code(module.sha256, module.options)
            raise SandboxError(report.message)
        return outcome_of_report(report, call, result.seconds)


def _new_output() -> CapturedOutput:
    try:
        return CapturedOutput()
    except OSError as error:
        raise SandboxError(f"the files for a job's output could not be created: {error}") from error
