"""ModuleCompiler: each module once, however many jobs ask for it, and few at a time.

Owns the memory of which are under way and which were refused. Promises that jobs of other modules
go on meanwhile, be they compiled already or new, and that the log tells of one that takes long,
from its beginning to its end.
"""

import asyncio
import contextlib
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

import structlog

from wasmdrop.protocol.errors import RefusedError, SandboxError, StorageError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import bounded_text
from wasmdrop.sandbox.host.call import CompileLimits
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

__all__ = ["ModuleCompiler", "ProgressCallback"]

_log = structlog.get_logger()

#: Told, in words for people, what a module waits for.
ProgressCallback = Callable[[str], None]

#: Machine code is some three to eight times the size of its module; this stops what is not.
_CODE_BYTES: Final = 2048 * MEBIBYTE

#: Modules whose refusal is remembered: compiling one again may take a minute, to the same end.
_REFUSALS: Final = 1024

#: How often the log tells of a compilation that goes on. Most take less, and are told of twice.
_PROGRESS_SECONDS: Final = 5.0

#: After this long a compilation has to make room for those of others. Most modules take less.
_QUICK_SECONDS: Final = 1.0

_COMPILER_CODES: Final = frozenset({Code.INVALID_MODULE, Code.COMPILE_LIMIT})

_WAITS: Final = "its module waits for the compiler, which is at work on another"
_IS_SLOW: Final = (
    "its module takes long to compile, and was interrupted for modules of other directories"
)


class _Compilation:
    """One that is under way, and who wants to know of it."""

    def __init__(self, directory: str) -> None:
        self.entrant = SlotRequest(directory)
        self.task: asyncio.Task[CompiledModule] | None = None
        self._words = ""
        self._listeners: list[ProgressCallback] = []

    @contextlib.contextmanager
    def heard_by(self, tell: ProgressCallback) -> Iterator[None]:
        """Let ``tell`` know how things stand, now and whenever that changes."""
        self._listeners.append(tell)
        if self._words:
            tell(self._words)
        try:
            yield
        finally:
            self._listeners.remove(tell)

    def say(self, words: str) -> None:
        """Let everybody know, unless they do."""
        if words == self._words:
            return
        self._words = words
        for tell in self._listeners:
            tell(words)


class ModuleCompiler:
    """Loads and compiles the modules of ``store`` in children of ``pool``."""

    def __init__(self, pool: ForkServer, store: ModuleCache, limits: CompileLimits) -> None:
        self.loads = 0
        """Modules whose machine code was found on disk."""
        self.begun = 0
        """ModuleCompiler so far."""
        self._pool = pool
        self._store = store
        self._limits = limits
        self._under_way: dict[tuple[str, str], _Compilation] = {}
        self._refused: OrderedDict[tuple[str, str], RefusedError] = OrderedDict()
        # Compiling is pure computation: few at a time leave the other cores to jobs.
        self._compilers = CompileSlots(max(1, (os.cpu_count() or 1) // 2), _QUICK_SECONDS)

    async def compile(
        self,
        sha256: str,
        options: EngineOptions,
        tell: ProgressCallback | None = None,
        directory: str = "",
    ) -> CompiledModule:
        """Load or compile a module once, however many jobs ask for it at the same time.

        ``directory`` is that of the job's slot: directories take turns. Each job is told what it
        waits for. Raises ``RefusedError`` where the module can't be compiled within its limits, or
        is gone; ``SandboxError`` where children or storage fail.
        """
        key = (sha256, options.token)
        refusal = self._refused.get(key)
        if refusal is not None:
            raise RefusedError(refusal.code, refusal.message)
        compilation = self._under_way.get(key)
        if compilation is None:
            compilation = self._under_way[key] = _Compilation(directory)
            compilation.task = asyncio.create_task(self._compile(sha256, options, compilation))
            compilation.task.add_done_callback(lambda _task: self._under_way.pop(key, None))
        else:
            self._compilers.also_for(compilation.entrant, directory)
        assert compilation.task is not None  # noqa: S101 - set where it was made
        with compilation.heard_by(tell or (lambda _words: None)):
            return await asyncio.shield(compilation.task)

    async def _compile(
        self, sha256: str, options: EngineOptions, compilation: _Compilation
    ) -> CompiledModule:
        store = self._store
        try:
            with store.held(sha256):
                found = await asyncio.to_thread(store.load, sha256, options)
                if found is not None:
                    self.loads += 1
                    return found
                self.begun += 1
                while True:
                    if compilation.entrant.is_late:
                        # However often it is interrupted: this goes to each of its jobs.
                        compilation.say(_IS_SLOW)
                    elif self._compilers.are_full():
                        compilation.say(_WAITS)
                    async with self._compilers.place(compilation.entrant):
                        module = await self._compile_anew(sha256, options, compilation)
                    if module is not None:
                        return module
                    _log.info("compilation-postponed", module=sha256)
        except (OSError, StorageError) as error:
            raise SandboxError(f"the module could not be compiled or kept: {error}") from error

    async def _compile_anew(
        self, sha256: str, options: EngineOptions, compilation: _Compilation
    ) -> CompiledModule | None:
        """Compile a module that has a place; return None if it has to leave that to others."""
        store = self._store
        work = store.code_path(sha256, options).with_name(f".{sha256}-{options.token}")
        started = time.perf_counter()
        try:
            report = await self._compile_in_child(sha256, work, options, compilation)
            if report is None:
                return None
            if report.summary is None:
                # "internal" is what a child says that could not write, or met a fault of ours.
                if report.code not in _COMPILER_CODES:
                    raise SandboxError(bounded_text(f"a compiling child failed: {report.message}"))
                if report.code is Code.INVALID_MODULE:
                    store.forget_module(sha256)
                raise self._refuse(sha256, options, report)
            module = await asyncio.to_thread(store.keep, sha256, options, report.summary, work)
        finally:
            work.unlink(missing_ok=True)
        seconds = time.perf_counter() - started
        _log.info("module-compiled", module=sha256, seconds=round(seconds, 3))
        return module

    def _refuse(self, sha256: str, options: EngineOptions, report: CompileReport) -> RefusedError:
        refusal = RefusedError(report.code, bounded_text(report.message))
        # Another one: the one that is raised keeps all that led to it.
        self._refused[sha256, options.token] = RefusedError(refusal.code, refusal.message)
        if len(self._refused) > _REFUSALS:
            self._refused.popitem(last=False)
        _log.info("module-refused", module=sha256, code=refusal.code, message=refusal.message)
        return refusal

    async def _compile_in_child(
        self, sha256: str, work: Path, options: EngineOptions, compilation: _Compilation
    ) -> CompileReport | None:
        """Return the report of a child; None if it was interrupted for another compilation."""
        limits = self._limits
        try:
            source_fd = await asyncio.to_thread(self._store.open_module, sha256)
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
            order = CompileRequest(
                options=options,
                module_bytes=size_bytes,
                code_bytes=_CODE_BYTES,
                cpu_seconds=math.ceil(limits.seconds) + 1,
                memory_bytes=limits.memory_mb * MEBIBYTE,
            )
            compilation.say(
                _IS_SLOW
                if compilation.entrant.is_late
                else f"its module of {size_bytes / 1e6:.1f} MB is being compiled, which may take"
                f" {limits.seconds:g} s"
            )
            with _progress(sha256, size_bytes):
                answer = await _unless_interrupted(
                    compilation.entrant,
                    exchange(
                        self._pool,
                        encode_frame(order),
                        [source_fd, work_fd],
                        limits.seconds,
                        MAX_REPORT_BYTES,
                        to_its_end=True,
                    ),
                )
            if answer is None:
                return None
            await asyncio.to_thread(_sync, work_fd)
        if answer.report is None:
            message = compiler_death(answer.status, limits.seconds, limits.memory_mb)
            return CompileReport(code=Code.COMPILE_LIMIT, message=message)
        return decode_compile_report(answer.report)


async def _unless_interrupted(
    entrant: SlotRequest, exchanging: Coroutine[Any, Any, RequestResult]
) -> RequestResult | None:
    """Wait for an answer; None if ``entrant`` is interrupted first, and the child then killed."""
    exchange_task = asyncio.create_task(exchanging)
    ends: list[asyncio.Future[Any]] = [exchange_task, entrant.interrupted]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        return await exchange_task if exchange_task.done() else None
    finally:
        exchange_task.cancel()
        await asyncio.wait([exchange_task])


@contextlib.contextmanager
def _progress(sha256: str, size_bytes: int) -> Iterator[None]:
    """Tell the log of a compilation: when it begins, and again and again while it goes on."""
    started = time.perf_counter()

    async def tell() -> None:
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            seconds = round(time.perf_counter() - started, 1)
            _log.info("compilation-started", module=sha256, bytes=size_bytes, seconds=seconds)

    _log.info("compilation-started", module=sha256, bytes=size_bytes, seconds=0.0)
    teller = asyncio.create_task(tell())
    try:
        yield
    finally:
        teller.cancel()


def _sync(fd: int) -> None:
    os.fsync(fd)
