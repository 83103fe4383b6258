"""The local executor: runs one job, or compiles one module, in a sandbox child.

The dispatcher knows it by the :class:`Executor` protocol alone: run this call, give me its outcome.
The sandbox's own failures end as ``internal`` or ``crashed``.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Collection, Sequence
from typing import Final, Protocol

import msgspec
import structlog

from wasmdrop.protocol.errors import SandboxError
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.outcome import Code, Outcome, OutputTree
from wasmdrop.protocol.text import bounded_text
from wasmdrop.sandbox.host.call import (
    Call,
    CompileLimits,
    can_be_readied,
    invocation_of,
    preparation_of,
)
from wasmdrop.sandbox.host.captured_output import CapturedOutput
from wasmdrop.sandbox.host.compilation import ModuleCompiler, ProgressCallback
from wasmdrop.sandbox.host.fork_server import ForkServer
from wasmdrop.sandbox.host.job_directory import JobDirectory, JobDirectoryFactory, open_grants
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule, ModuleCache
from wasmdrop.sandbox.host.reports import (
    decode_binary_report,
    decode_run_report,
    outcome_of_report,
    outcome_without_report,
    with_limit,
)
from wasmdrop.sandbox.host.request import ChildSource, RequestResult, exchange
from wasmdrop.sandbox.host.reusable_worker_pool import ReusableWorkerPool
from wasmdrop.sandbox.host.zygote_pool import ZygotePool
from wasmdrop.sandbox.memory_shares import initial_bytes
from wasmdrop.sandbox.wire import (
    MAX_RUN_REPORT_BYTES,
    EngineOptions,
    RunRequest,
    binary_report_bytes,
    encode_binary_call,
    encode_frame,
)
from wasmdrop.system.heartbeat import Heartbeat
from wasmdrop.system.untrusted_trees import TreeLimitError

__all__ = ["Executor", "LocalExecutor"]

_log = structlog.get_logger()

#: Ends after which what a job left in its directory is not for anybody to see.
_PUBLISHES_NOTHING: Final = frozenset(
    {Code.DISK_LIMIT, Code.SANDBOX_VIOLATION, Code.CRASHED, Code.INTERNAL}
)

#: Reports above this size are read on a thread, so that other jobs go on. One below takes at most
#: some milliseconds.
_LARGE_REPORT_BYTES: Final = 64 * 1024


class Executor(Protocol):
    """Whoever runs jobs: this machine's sandbox, or one day a fleet."""

    def compiled(self, sha256: str, options: EngineOptions) -> CompiledModule | None:
        """Return the compiled module where it is at hand, without any I/O."""

    def compile(
        self,
        sha256: str,
        options: EngineOptions,
        tell: ProgressCallback | None = None,
        directory: str = "",
    ) -> Awaitable[CompiledModule]:
        """Return a module of the store, compiled now if it was not before.

        ``directory`` is that of the job's slot: directories take turns. Meanwhile ``tell`` is told,
        in words for people, what that waits for.

        Raises ``RefusedError`` where it can't be, with ``module-missing`` where the store has it no
        more; ``SandboxError`` where that is the daemon's fault, or its disk's.
        """

    def run(self, module: CompiledModule, call: Call, limits: Limits) -> Awaitable[Outcome]:
        """Run one call to its end. Raises nothing but ``SandboxError``."""


class LocalExecutor:
    """Runs jobs in children of this machine's forking server, and of its templates.

    ``zygote_idle``: children that each template has ahead of need; without, there are none.
    ``reuses_workers``: whether one process may serve many jobs of a module.
    """

    def __init__(
        self,
        pool: ForkServer,
        store: ModuleCache,
        directories: JobDirectoryFactory,
        compile_limits: CompileLimits,
        zygote_idle: int = 0,
        *,
        reuses_workers: bool = False,
    ) -> None:
        self._pool = pool
        self._store = store
        self._directories = directories
        self._compilations = ModuleCompiler(pool, store, compile_limits)
        self._reusable_workers = ReusableWorkerPool(pool) if reuses_workers else None
        self._zygotes = ZygotePool(pool, zygote_idle) if zygote_idle else None

    @property
    def loads(self) -> int:
        """How many modules' machine code was found on disk."""
        return self._compilations.loads

    @property
    def compilations(self) -> int:
        """How many compilations were begun."""
        return self._compilations.begun

    @property
    def restarts(self) -> int:
        """How often the forking server had to be started again."""
        return self._pool.restarts

    @property
    def heartbeat(self) -> Heartbeat:
        """When the forking server last gave a sign of life."""
        return self._pool.heartbeat

    def sweep(self, kept: Collection[str] = ()) -> None:
        """Remove the jobs' directories that earlier daemons left, but for those that are kept."""
        self._directories.sweep(kept)

    def close(self) -> None:
        """End templates and residents; the pool is closed by whoever made it."""
        if self._reusable_workers is not None:
            self._reusable_workers.close()
        if self._zygotes is not None:
            self._zygotes.close()

    def ping(self) -> None:
        """Ask the forking server for a sign of life."""
        self._pool.ping()

    def compiled(self, sha256: str, options: EngineOptions) -> CompiledModule | None:
        """Return the compiled module where it is at hand, without any I/O."""
        return self._store.at_hand(sha256, options)

    async def compile(
        self,
        sha256: str,
        options: EngineOptions,
        tell: ProgressCallback | None = None,
        directory: str = "",
    ) -> CompiledModule:
        """Load or compile a module; see :meth:`ModuleCompiler.compile`."""
        return await self._compilations.compile(sha256, options, tell, directory)

    async def run(self, module: CompiledModule, call: Call, limits: Limits) -> Outcome:
        """Run ``call`` in a fresh child and return how it ended."""
        return with_limit(await self._run(module, call, limits), limits)

    async def _run(self, module: CompiledModule, call: Call, limits: Limits) -> Outcome:
        wanted_bytes = initial_bytes(module.summary)
        if wanted_bytes > limits.memory_bytes:
            message = (
                f"the module wants {wanted_bytes} bytes of memory from the start, its tables"
                " included"
            )
            return Outcome(code=Code.MEMORY_LIMIT, message=message)
        summary = module.summary
        # A directory costs a plain function nothing: only what asks for files has one.
        has_directory = summary.wants_files and (
            call.is_command or bool(call.files) or bool(call.grants)
        )
        if self._reusable_workers is not None and not has_directory and can_be_readied(module):
            return await self._run_in_resident(self._reusable_workers, module, call, limits)
        if not has_directory:
            return await self._run_in_child(module, call, limits)
        with open_grants(call.grants) as grants:
            return await self._run_in_directory(module, call, limits, grants)

    async def _run_in_resident(
        self, residents: ReusableWorkerPool, module: CompiledModule, call: Call, limits: Limits
    ) -> Outcome:
        preparation = preparation_of(module, call, limits)
        resident = await residents.take(module, preparation)
        try:
            if preparation.function is not None:
                frame = encode_binary_call(call.args)
            else:
                invocation = invocation_of(module, call, limits, has_directory=False)
                frame = encode_frame(invocation, call.stdin)
            outcome = await self._exchange(resident, frame, (), module, call, limits)
            return _with_output(outcome, call, limits, resident.streams)
        finally:
            residents.give_back(resident)

    async def _run_in_directory(
        self,
        module: CompiledModule,
        call: Call,
        limits: Limits,
        grants: list[int],
    ) -> Outcome:
        """Run with a directory of the job's own; what is left in it goes with the outcome."""
        try:
            directory = self._directories.make(limits.disk_bytes)
        except OSError as error:
            raise SandboxError(f"a job's directory could not be made: {error}") from error
        output: OutputTree | None = None
        try:
            outcome = await self._run_in_child(module, call, limits, directory, grants)
            if outcome.code not in _PUBLISHES_NOTHING:
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
            raise SandboxError(f"a job's directory could not be read: {error}") from error
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
        preparation = preparation_of(module, call, limits)
        template = None
        if self._zygotes is not None and directory is None and can_be_readied(module):
            template = await self._zygotes.take(module, preparation)
        streams = None if template is None else template.streams
        if streams is None and preparation.has_wasi:
            streams = _new_streams()
        with contextlib.nullcontext() if streams is None else streams.closing():
            fds = [] if streams is None else streams.fds
            if template is None:
                source: ChildSource = self._pool
                has_directory = directory is not None
                invocation = invocation_of(module, call, limits, has_directory=has_directory)
                raw = b"".join((call.stdin, *call.files.values()))
                frame = encode_frame(RunRequest(preparation, invocation), raw)
                descriptors = [module.fd, *fds, *([directory.fd] if directory else ()), *grants]
            elif preparation.function is None:
                source, descriptors = template, fds
                invocation = invocation_of(module, call, limits, has_directory=False)
                frame = encode_frame(invocation, call.stdin)
            else:
                source, descriptors = template, []
                frame = encode_binary_call(call.args)
            outcome = await self._exchange(
                source, frame, descriptors, module, call, limits, directory
            )
            return _with_output(outcome, call, limits, streams)

    async def _exchange(
        self,
        source: ChildSource,
        frame: bytes,
        descriptors: Sequence[int],
        module: CompiledModule,
        call: Call,
        limits: Limits,
        directory: JobDirectory | None = None,
    ) -> Outcome:
        """Give an order to a child of ``source``; return what its answer says of the job."""
        answer = await exchange(
            source,
            frame,
            descriptors,
            limits.timeout_sec,
            # A component may return as much as it may print; base64 and escapes were counted there.
            MAX_RUN_REPORT_BYTES + (limits.output_bytes if call.component else 0),
            binary_bytes=binary_report_bytes(call.signature),
            directory=directory,
        )
        if directory is not None and directory.surplus:
            message = f"wrote {directory.surplus} into its directory"
            return Outcome(
                code=Code.DISK_LIMIT,
                message=message,
                run_seconds=answer.seconds,
                cpu_seconds=answer.cpu_seconds,
            )
        if answer.report is None:
            return outcome_without_report(answer.status, limits, answer.seconds, answer.cpu_seconds)
        if len(answer.report) > _LARGE_REPORT_BYTES:
            # Of a component's results, which may take seconds to make of their JSON.
            return await asyncio.to_thread(self._outcome, answer, module, call)
        return self._outcome(answer, module, call)

    def _outcome(self, answer: RequestResult, module: CompiledModule, call: Call) -> Outcome:
        """Return what an answer with a report says of the job; raises ``SandboxError``."""
        assert answer.report is not None  # noqa: S101 - looked at before
        if answer.is_binary:
            report = decode_binary_report(answer.report, call.signature)
        else:
            report = decode_run_report(answer.report)
        if report.stale_code:
            _log.warning("machine-code-stale", module=module.sha256, message=report.message)
            self._store.forget_code(module.sha256, module.options)
            raise SandboxError(report.message)
        return outcome_of_report(report, call, answer.seconds)


def _new_streams() -> CapturedOutput:
    try:
        return CapturedOutput()
    except OSError as error:
        raise SandboxError(f"no files for a job's output could be made: {error}") from error


def _with_output(
    outcome: Outcome, call: Call, limits: Limits, streams: CapturedOutput | None
) -> Outcome:
    """Return the outcome with the output of a WASI program."""
    if streams is None:
        return outcome
    stdout, stderr = streams.read(limits.output_bytes)
    return msgspec.structs.replace(
        outcome, is_command=call.is_command, stdout=stdout, stderr=stderr
    )
