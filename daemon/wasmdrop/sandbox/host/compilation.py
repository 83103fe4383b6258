"""Compilations: each module once, however many jobs need it, and few at a time.

Remembers which modules are being compiled and which were refused. Jobs of other modules go on
meanwhile, whether these are compiled already or not.
"""

import asyncio
import contextlib
import errno
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from wasmdrop.protocol.errors import RefusedError, SandboxError, StorageError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import bounded_text
from wasmdrop.sandbox.host.compile_slots import CompileSlots, SlotRequest
from wasmdrop.sandbox.host.fork_server import ForkServer
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule, ModuleCache
from wasmdrop.sandbox.host.reports import compiler_death, decode_compile_report
from wasmdrop.sandbox.host.request import RequestResult, exchange
from wasmdrop.sandbox.wire import (
    MAX_REPORT_BYTES,
    CompileReport,
    CompileRequest,
    EngineOptions,
    encode_frame,
)

_log = structlog.get_logger()

#: Called with a message for people: the reason why a module waits.
ProgressCallback = Callable[[str], None]

#: Limit of machine code, which is usually three to eight times the size of its module.
_MAX_CODE_BYTES: Final = 2048 * MEBIBYTE

#: Refused modules that are remembered: to compile one again may take a minute for nothing.
_MAX_REFUSALS: Final = 1024

#: Compilations whose time is remembered.
_MAX_TIMES: Final = 256

#: Interval between log events of a compilation, in seconds.
_PROGRESS_SECONDS: Final = 5.0

#: After this time a compilation makes room for those of others, in seconds. Most modules take less.
_QUICK_SECONDS: Final = 1.0

_COMPILER_CODES: Final = frozenset({Code.INVALID_MODULE, Code.COMPILE_LIMIT})

_WAITS: Final = "its module waits for the compiler, which is at work on another"
_IS_SLOW: Final = (
    "its module takes long to compile, and was interrupted for modules of other directories"
)


class CompileLimits(msgspec.Struct, frozen=True):
    """Limits of one compilation."""

    seconds: float = 60.0
    memory_mb: int = 2048


class _Compilation:
    """A compilation, and the jobs that wait for it."""

    def __init__(self, directory: str) -> None:
        self.slot_request = SlotRequest(directory)
        self.task: asyncio.Task[CompiledModule] | None = None
        self._message = ""
        self._callbacks: list[ProgressCallback] = []

    @contextlib.contextmanager
    def reports_to(self, callback: ProgressCallback) -> Iterator[None]:
        """Call ``callback`` with the present message and with each new one during the block."""
        self._callbacks.append(callback)
        if self._message:
            callback(self._message)
        try:
            yield
        finally:
            self._callbacks.remove(callback)

    def set_message(self, message: str) -> None:
        """Set the message for people."""
        if message == self._message:
            return
        self._message = message
        for callback in self._callbacks:
            callback(message)


class ModuleCompiler:
    """Loads and compiles the modules of ``cache`` in children of ``fork_server``."""

    def __init__(self, fork_server: ForkServer, cache: ModuleCache, limits: CompileLimits) -> None:
        self.loads = 0
        """Number of modules whose machine code was loaded from disk."""
        self.begun = 0
        """Number of compilations that were started."""
        self.seconds: OrderedDict[str, float] = OrderedDict()
        """How long each of the last compilations took, by the digest of its module."""
        self._fork_server = fork_server
        self._cache = cache
        self._limits = limits
        self._running: dict[tuple[str, str], _Compilation] = {}
        self._refused: OrderedDict[tuple[str, str], RefusedError] = OrderedDict()
        # Compilers only compute; the other half of the cores is left to jobs.
        self._slots = CompileSlots(max(1, (os.cpu_count() or 1) // 2), _QUICK_SECONDS)

    async def compile(
        self,
        sha256: str,
        options: EngineOptions,
        on_progress: ProgressCallback | None = None,
        directory: str = "",
    ) -> CompiledModule:
        """Load or compile a module once, however many jobs need it at the same time.

        ``directory``: the directory of the job's slot; directories are served in turn.
        ``on_progress`` is called with the reason why the job waits. Raise ``RefusedError`` if the
        module cannot be compiled within its limits, or is gone; ``SandboxError`` if a child or
        storage fails.
        """
        key = (sha256, options.token)
        refusal = self._refused.get(key)
        if refusal is not None:
            raise RefusedError(refusal.code, refusal.message)
        compilation = self._running.get(key)
        if compilation is None:
            compilation = self._running[key] = _Compilation(directory)
            compilation.task = asyncio.create_task(self._compile(sha256, options, compilation))
            compilation.task.add_done_callback(lambda _task: self._running.pop(key, None))
        else:
            self._slots.add_directory(compilation.slot_request, directory)
        assert compilation.task is not None  # noqa: S101 - set together with it
        with compilation.reports_to(on_progress or (lambda _message: None)):
            return await asyncio.shield(compilation.task)

    async def _compile(
        self, sha256: str, options: EngineOptions, compilation: _Compilation
    ) -> CompiledModule:
        cache = self._cache
        try:
            with cache.held(sha256):
                found = await asyncio.to_thread(cache.load, sha256, options)
                if found is not None:
                    self.loads += 1
                    return found
                self.begun += 1
                while True:
                    if compilation.slot_request.is_late:
                        # Repeated after each interruption, for the jobs that joined meanwhile.
                        compilation.set_message(_IS_SLOW)
                    elif self._slots.are_full():
                        compilation.set_message(_WAITS)
                    async with self._slots.slot(compilation.slot_request):
                        module = await self._compile_in_slot(sha256, options, compilation)
                    if module is not None:
                        return module
                    _log.info("compilation-postponed", module=sha256)
        except (OSError, StorageError) as error:
            raise SandboxError(f"the module could not be compiled or kept: {error}") from error

    async def _compile_in_slot(
        self, sha256: str, options: EngineOptions, compilation: _Compilation
    ) -> CompiledModule | None:
        """Compile a module that has a slot. Return None if it has to make room for others."""
        cache = self._cache
        work = cache.code_path(sha256, options).with_name(f".{sha256}-{options.token}")
        started = time.perf_counter()
        try:
            report = await self._compile_in_child(sha256, work, options, compilation)
            if report is None:
                return None
            if report.summary is None:
                if report.lacks_room:
                    # The caller waits for room, as if the daemon itself had found none.
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(work.parent))
                # A child reports ``internal`` if it cannot write, or finds a fault of ours.
                if report.code not in _COMPILER_CODES:
                    raise SandboxError(bounded_text(f"a compiling child failed: {report.message}"))
                if report.code is Code.INVALID_MODULE:
                    cache.forget_module(sha256)
                raise self._refuse(sha256, options, report)
            module = await asyncio.to_thread(cache.keep, sha256, options, report.summary, work)
        finally:
            work.unlink(missing_ok=True)
        seconds = time.perf_counter() - started
        self.seconds[sha256] = seconds
        if len(self.seconds) > _MAX_TIMES:
            self.seconds.popitem(last=False)
        _log.info("module-compiled", module=sha256, seconds=round(seconds, 3))
        return module

    def _refuse(self, sha256: str, options: EngineOptions, report: CompileReport) -> RefusedError:
        refusal = RefusedError(report.code, bounded_text(report.message))
        # A copy: the one that is raised refers to its traceback.
        self._refused[sha256, options.token] = RefusedError(refusal.code, refusal.message)
        if len(self._refused) > _MAX_REFUSALS:
            self._refused.popitem(last=False)
        _log.info("module-refused", module=sha256, code=refusal.code, message=refusal.message)
        return refusal

    async def _compile_in_child(
        self, sha256: str, work: Path, options: EngineOptions, compilation: _Compilation
    ) -> CompileReport | None:
        """Return the report of a child, or None if it was interrupted for another compilation."""
        limits = self._limits
        try:
            source_fd = await asyncio.to_thread(self._cache.open_module, sha256)
        except FileNotFoundError:
            raise RefusedError(
                Code.MODULE_MISSING,
                f"the daemon's copy of module sha256:{sha256} is gone; drop the module again",
            ) from None
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, source_fd)
            size_bytes = os.fstat(source_fd).st_size
            work_fd = os.open(work, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, work_fd)
            request = CompileRequest(
                options=options,
                module_bytes=size_bytes,
                code_bytes=_MAX_CODE_BYTES,
                cpu_seconds=math.ceil(limits.seconds) + 1,
                memory_bytes=limits.memory_mb * MEBIBYTE,
            )
            compilation.set_message(
                _IS_SLOW
                if compilation.slot_request.is_late
                else f"its module of {size_bytes / 1e6:.1f} MB is being compiled, which may take"
                f" {limits.seconds:g} s"
            )
            with _progress(sha256, size_bytes):
                result = await _unless_interrupted(
                    compilation.slot_request,
                    self._exchange(encode_frame(request), [source_fd, work_fd]),
                )
            if result is None:
                return None
            await asyncio.to_thread(_sync, work_fd)
        if result.report is None:
            message = compiler_death(result.status, limits.seconds, limits.memory_mb)
            return CompileReport(code=Code.COMPILE_LIMIT, message=message)
        return decode_compile_report(result.report)

    async def _exchange(self, frame: bytes, descriptors: list[int]) -> RequestResult:
        child = await self._fork_server.take()
        try:
            return await exchange(
                child,
                frame,
                descriptors,
                self._limits.seconds,
                MAX_REPORT_BYTES,
                awaits_end=True,
            )
        finally:
            self._fork_server.release(child)


async def _unless_interrupted(
    slot_request: SlotRequest, exchanging: Coroutine[Any, Any, RequestResult]
) -> RequestResult | None:
    """Return the result, or None if the slot is taken away first; the child is then killed."""
    exchange_task = asyncio.create_task(exchanging)
    ends: list[asyncio.Future[Any]] = [exchange_task, slot_request.interrupted]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        return await exchange_task if exchange_task.done() else None
    finally:
        exchange_task.cancel()
        await asyncio.wait([exchange_task])


@contextlib.contextmanager
def _progress(sha256: str, size_bytes: int) -> Iterator[None]:
    """Log a compilation when it starts, and at intervals while it runs."""
    started = time.perf_counter()

    async def tell() -> None:
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            seconds = round(time.perf_counter() - started, 1)
            _log.info("compilation-running", module=sha256, bytes=size_bytes, seconds=seconds)

    _log.info("compilation-started", module=sha256, bytes=size_bytes, seconds=0.0)
    teller = asyncio.create_task(tell())
    try:
        yield
    finally:
        teller.cancel()


def _sync(fd: int) -> None:
    os.fsync(fd)
