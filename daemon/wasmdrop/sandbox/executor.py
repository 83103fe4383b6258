"""The local executor: runs one job, or compiles one module, in a sandbox child.

The dispatcher knows it by the :class:`Executor` protocol alone: run this call, give me its outcome.
The sandbox's own failures end as ``internal`` or ``crashed``.
"""

import asyncio
import math
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec
import structlog

from wasmdrop.errors import RefusedError, SandboxError, StorageError
from wasmdrop.limits import MEBIBYTE, Limits
from wasmdrop.metrics import Pulse
from wasmdrop.module import ModuleKind, ModuleSummary
from wasmdrop.outcome import Code, Outcome, OutputTree, bounded_text
from wasmdrop.sandbox.call import Call, CompileLimits
from wasmdrop.sandbox.directory import JobDirectories, JobDirectory, open_grants
from wasmdrop.sandbox.messages import (
    MAX_REPORT_BYTES,
    MAX_RUN_REPORT_BYTES,
    CompileOrder,
    CompileReport,
    EngineOptions,
    RunOrder,
    WasiOrder,
    encode_frame,
)
from wasmdrop.sandbox.pool import Child, ChildPool
from wasmdrop.sandbox.store import CompiledModule, ModuleStore
from wasmdrop.sandbox.verdict import (
    compiler_death,
    content,
    decode_compile_report,
    decode_run_report,
    outcome_of_death,
    outcome_of_report,
)
from wasmdrop.tree import TreeLimitError

__all__ = ["Executor", "LocalExecutor"]

_log = structlog.get_logger()

#: Machine code is some three to eight times the size of its module; this stops what is not.
_CODE_BYTES: Final = 2048 * MEBIBYTE

#: Modules whose refusal is remembered: compiling one again may take a minute, to the same end.
_REFUSALS: Final = 1024

#: How long a dead child's wait status may take to arrive, in seconds.
_STATUS_SECONDS: Final = 5.0

#: Ends after which what a job left in its directory is not for anybody to see.
_PUBLISHES_NOTHING: Final = frozenset(
    {Code.DISK_LIMIT, Code.SANDBOX_VIOLATION, Code.CRASHED, Code.INTERNAL}
)
_COMPILER_CODES: Final = frozenset({Code.INVALID_MODULE, Code.COMPILE_LIMIT})


class Executor(Protocol):
    """Whoever runs jobs: this machine's sandbox, or one day a fleet."""

    def compiled(self, sha256: str, options: EngineOptions) -> CompiledModule | None:
        """Return the compiled module where it is at hand, without any I/O."""

    def compile(self, sha256: str, options: EngineOptions) -> Awaitable[CompiledModule]:
        """Return a module of the store, compiled now if it was not before.

        Raises ``RefusedError`` where it can't be, with ``module-missing`` where the store has it no
        more; ``SandboxError`` where that is the daemon's fault, or its disk's.
        """

    def run(self, module: CompiledModule, call: Call, limits: Limits) -> Awaitable[Outcome]:
        """Run one call to its end. Raises nothing but ``SandboxError``."""


class LocalExecutor:
    """Runs jobs in children of this machine's forking server."""

    def __init__(
        self,
        pool: ChildPool,
        store: ModuleStore,
        directories: JobDirectories,
        compile_limits: CompileLimits,
    ) -> None:
        self.loads = 0
        """Modules whose machine code was found on disk."""
        self.compilations = 0
        self._pool = pool
        self._store = store
        self._directories = directories
        self._compile_limits = compile_limits
        self._compiling: dict[tuple[str, str], asyncio.Task[CompiledModule]] = {}
        self._refused: OrderedDict[tuple[str, str], RefusedError] = OrderedDict()
        # Compiling is pure computation: one at a time leaves the other cores to jobs.
        self._one_compiler = asyncio.Semaphore(max(1, (os.cpu_count() or 1) // 2))

    @property
    def restarts(self) -> int:
        """How often the forking server had to be started again."""
        return self._pool.restarts

    @property
    def pulse(self) -> Pulse:
        """When the forking server last gave a sign of life."""
        return self._pool.pulse

    def ping(self) -> None:
        """Ask the forking server for a sign of life."""
        self._pool.ping()

    def compiled(self, sha256: str, options: EngineOptions) -> CompiledModule | None:
        """Return the compiled module where it is at hand, without any I/O."""
        return self._store.at_hand(sha256, options)

    async def compile(self, sha256: str, options: EngineOptions) -> CompiledModule:
        """Load or compile a module once, however many jobs ask for it at the same time.

        Raises ``RefusedError`` where the module can't be compiled within its limits, or is gone;
        ``SandboxError`` where children or storage fail.
        """
        key = (sha256, options.token)
        refusal = self._refused.get(key)
        if refusal is not None:
            raise RefusedError(refusal.code, refusal.message)
        task = self._compiling.get(key)
        if task is None:
            task = asyncio.create_task(self._compile(sha256, options))
            self._compiling[key] = task
            task.add_done_callback(lambda _task: self._compiling.pop(key, None))
        return await asyncio.shield(task)

    async def run(self, module: CompiledModule, call: Call, limits: Limits) -> Outcome:
        """Run ``call`` in a fresh child and return how it ended."""
        wanted_bytes = module.summary.memory_min_bytes
        if wanted_bytes > limits.memory_bytes:
            message = (
                f"the module wants {wanted_bytes} bytes of memory from the start, and may have"
                f" {limits.memory_bytes}"
            )
            return Outcome(code=Code.MEMORY_LIMIT, message=message)
        if not module.summary.wants_wasi:
            return await self._run_in_child(module, call, limits, [module.fd], None)
        streams = [os.memfd_create(name) for name in ("stdout", "stderr")]
        descriptors = [module.fd, *streams]
        try:
            # A directory costs a plain function nothing: only what asks for files has one.
            if module.summary.wants_files and (call.is_command or call.files or call.grants):
                with open_grants(call.grants) as grants:
                    outcome = await self._run_in_directory(
                        module, call, limits, descriptors, grants
                    )
            else:
                outcome = await self._run_in_child(module, call, limits, descriptors, None)
            if not call.is_command:
                return outcome
            # The child counts both together; one that broke out counts nothing.
            stdout = content(streams[0], limits.output_bytes)
            stderr = content(streams[1], limits.output_bytes - len(stdout))
            return msgspec.structs.replace(outcome, stdout=stdout, stderr=stderr)
        finally:
            for fd in streams:
                os.close(fd)

    async def _run_in_directory(
        self,
        module: CompiledModule,
        call: Call,
        limits: Limits,
        descriptors: list[int],
        grants: list[int],
    ) -> Outcome:
        """Run with a directory of the job's own; what is left in it goes with the outcome."""
        try:
            directory = self._directories.make(limits.disk_bytes)
        except OSError as error:
            raise SandboxError(f"a job's directory could not be made: {error}") from error
        output: OutputTree | None = None
        try:
            outcome = await self._run_in_child(
                module, call, limits, [*descriptors, directory.fd, *grants], directory
            )
            if outcome.code not in _PUBLISHES_NOTHING:
                output = await directory.inventory()
        except TreeLimitError as error:
            message = f"left {error} in its directory"
            outcome = Outcome(
                code=Code.DISK_LIMIT, message=message, run_seconds=outcome.run_seconds
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
        descriptors: Sequence[int],
        directory: JobDirectory | None,
    ) -> Outcome:
        order = _run_order(module, call, limits, has_directory=directory is not None)
        raw = b"".join((call.stdin, *call.files.values()))
        header, seconds, child_status = await self._exchange(
            encode_frame(order, raw),
            descriptors,
            limits.timeout_sec,
            # A component may return as much as it may print; base64 and escapes were counted there.
            MAX_RUN_REPORT_BYTES + (limits.output_bytes if call.component else 0),
            directory=directory,
        )
        if directory is not None and directory.surplus:
            message = f"wrote {directory.surplus} into its directory"
            return Outcome(code=Code.DISK_LIMIT, message=message, run_seconds=seconds)
        if header is None:
            return outcome_of_death(child_status, limits, seconds)
        report = decode_run_report(header)
        if report.stale_code:
            _log.warning("stale-code", module=module.sha256, message=report.message)
            self._store.forget_code(module.sha256, module.options)
            raise SandboxError(report.message)
        return outcome_of_report(report, call, seconds)

    async def _exchange(
        self,
        frame: bytes,
        descriptors: Sequence[int],
        timeout_seconds: float,
        max_report_bytes: int,
        *,
        to_its_end: bool = False,
        directory: JobDirectory | None = None,
    ) -> tuple[bytes | None, float, int | None]:
        """Give one order to a fresh child; return its report's header, the time taken, its status.

        The header is None where the child died first; then the status is its wait status, or None
        where it was killed at its timeout. With ``to_its_end``, or with a ``directory`` that holds
        anything, the child is dead on return, and so writes nowhere any more.
        """
        child = await self._pool.take()
        header: bytes | None = None
        timed_out = False

        def on_timeout() -> None:
            nonlocal timed_out
            timed_out = True
            child.kill()

        started = time.perf_counter()
        timer = asyncio.get_running_loop().call_later(timeout_seconds, on_timeout)
        guard = None if directory is None else asyncio.create_task(directory.guard(child.kill))
        try:
            await child.send(frame, list(descriptors))
            header = await child.receive(max_report_bytes)
            seconds = time.perf_counter() - started
            is_left = directory is not None and not directory.is_empty()
            status: int | None = None
            if to_its_end or is_left or (header is None and not timed_out):
                status = await _status(child)
        except OSError as error:
            raise SandboxError(f"a child could not be reached: {error}") from error
        else:
            return header, seconds, None if timed_out else status
        finally:
            timer.cancel()
            if guard is not None:
                guard.cancel()
            if header is None:
                child.close()
            else:
                self._pool.close_soon(child)

    async def _compile(self, sha256: str, options: EngineOptions) -> CompiledModule:
        store = self._store
        try:
            with store.held(sha256):
                found = await asyncio.to_thread(store.load, sha256, options)
                if found is not None:
                    self.loads += 1
                    return found
                async with self._one_compiler:
                    return await self._compile_anew(sha256, options)
        except (OSError, StorageError) as error:
            raise SandboxError(f"the module could not be compiled or kept: {error}") from error

    async def _compile_anew(self, sha256: str, options: EngineOptions) -> CompiledModule:
        store = self._store
        self.compilations += 1
        work = store.code_path(sha256, options).with_name(f".{sha256}-{options.token}")
        started = time.perf_counter()
        try:
            report = await self._compile_in_child(sha256, work, options)
            if report.summary is None:
                # "internal" is what a child says that could not write, or met a fault of ours.
                if report.code not in _COMPILER_CODES:
                    raise SandboxError(bounded_text(f"a compiling child failed: {report.message}"))
                if report.code is Code.INVALID_MODULE:
                    store.forget_module(sha256)
                refusal = RefusedError(report.code, bounded_text(report.message))
                self._refused[sha256, options.token] = refusal
                if len(self._refused) > _REFUSALS:
                    self._refused.popitem(last=False)
                raise refusal
            module = await asyncio.to_thread(store.keep, sha256, options, report.summary, work)
        finally:
            work.unlink(missing_ok=True)
        seconds = time.perf_counter() - started
        _log.info("module-compiled", module=sha256, seconds=round(seconds, 3))
        return module

    async def _compile_in_child(
        self, sha256: str, work: Path, options: EngineOptions
    ) -> CompileReport:
        limits = self._compile_limits
        try:
            source_fd = await asyncio.to_thread(self._store.open_module, sha256)
        except FileNotFoundError:
            raise RefusedError(
                Code.MODULE_MISSING,
                f"the daemon's copy of module sha256:{sha256} is gone; drop the module again",
            ) from None
        try:
            work_fd = os.open(work, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                order = CompileOrder(
                    options=options,
                    module_bytes=os.fstat(source_fd).st_size,
                    code_bytes=_CODE_BYTES,
                    cpu_seconds=math.ceil(limits.seconds) + 1,
                    memory_bytes=limits.memory_mb * MEBIBYTE,
                )
                header, _seconds, status = await self._exchange(
                    encode_frame(order),
                    [source_fd, work_fd],
                    limits.seconds,
                    MAX_REPORT_BYTES,
                    to_its_end=True,
                )
                os.fsync(work_fd)
            finally:
                os.close(work_fd)
        finally:
            os.close(source_fd)
        if header is None:
            message = compiler_death(status, limits.seconds, limits.memory_mb)
            return CompileReport(code=Code.COMPILE_LIMIT, message=message)
        return decode_compile_report(header)


def _run_order(
    module: CompiledModule, call: Call, limits: Limits, *, has_directory: bool
) -> RunOrder:
    summary = module.summary
    memories = (name for name, kind in summary.other_exports.items() if kind == "memory")
    return RunOrder(
        options=module.options,
        entry=call.entry,
        signature=call.signature,
        args=call.args,
        is_command=call.is_command,
        initialize=summary.kind is ModuleKind.REACTOR and call.entry != "_initialize",
        memory_export=next(memories, None),
        memory_bytes=limits.memory_bytes,
        memory_bytes_each=_memory_bytes_each(summary, limits),
        output_bytes=limits.output_bytes,
        cpu_seconds=math.ceil(limits.timeout_sec) + 1,
        fuel=limits.fuel,
        wasi=WasiOrder(
            call.argv,
            call.env,
            len(call.stdin),
            limits.disk_bytes if has_directory else None,
            tuple(call.grants),
            tuple((path, len(content)) for path, content in call.files.items()),
        )
        if summary.wants_wasi
        else None,
        component=call.component,
    )


def _memory_bytes_each(summary: ModuleSummary, limits: Limits) -> int:
    """Return the bound of each linear memory: wasmtime knows no bound of all of them together.

    Several share the limit in equal parts, but each gets the least that it asks for.
    """
    if summary.memory_count <= 1:
        return limits.memory_bytes
    return max(limits.memory_bytes // summary.memory_count, summary.memory_min_largest_bytes)


async def _status(child: Child) -> int:
    """Return the wait status of a child whose socket has closed."""
    child.kill()  # it may have closed the socket and lived on
    try:
        async with asyncio.timeout(_STATUS_SECONDS):
            return await child.exit_status
    except TimeoutError:
        raise SandboxError("a killed child did not end") from None
