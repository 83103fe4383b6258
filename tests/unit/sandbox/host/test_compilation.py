"""Unit tests of compilations: damaged caches, failing storage, and modules that must stay."""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.module_cache import (
    PLAIN,
    ROOMY,
    flip_a_bit,
    ingest,
    refusals,
)
from tests.support.require import require
from wasmdrop.protocol.errors import RefusedError, SandboxError
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.outcome import Code
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.compilation import CompileLimits
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.sandbox.host.fork_server import ForkServer
from wasmdrop.sandbox.host.job_directory import JobDirectoryFactory
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule, ModuleCache
from wasmdrop.system.full_disks import is_of_full_disk

#: ``(module (func (export "add") (param i64 i64) (result i64) local.get 0 local.get 1 i64.add))``
ADD = bytes.fromhex(
    "0061736d0100000001070160027e7e017e030201000707010361646400000a09010700200020017c0b"
)


class Rig:
    """A cache with an executor on it."""

    def __init__(self, cache: ModuleCache, executor: LocalExecutor, tmp: Path) -> None:
        self.cache = cache
        self.executor = executor
        self.tmp = tmp

    def ingest(self, content: bytes = ADD) -> str:
        """Add a module to the cache."""
        return ingest(self.cache, content, self.tmp)

    async def add(self, sha256: str) -> tuple[object, ...] | None:
        """Compile the module and return its results for 5 and 7."""
        module = await self.executor.compile(sha256, PLAIN)
        call = Call("add", module.summary.functions["add"], (5, 7))
        return (await self.executor.run(module, call, Limits())).results


def with_executor(state: Path, tmp: Path, test: Callable[[Rig], Awaitable[None]]) -> None:
    """Run a test with real children."""

    async def run() -> None:
        async with ForkServer(1) as fork_server:
            cache = ModuleCache(state, ROOMY)
            directories = JobDirectoryFactory(state, for_another_user=False)
            executor = LocalExecutor(fork_server, cache, directories, CompileLimits())
            await test(Rig(cache, executor, tmp))

    asyncio.run(run())


def test_job_with_damaged_machine_code_compiles_again(state: Path, tmp_path: Path) -> None:
    """The job gets its result, and the next start an intact entry."""

    async def first(rig: Rig) -> None:
        assert await rig.add(rig.ingest()) == (12,)

    async def second(rig: Rig) -> None:
        sha256 = rig.ingest()
        flip_a_bit(rig.cache.code_path(sha256, PLAIN))
        with capture_logs() as logs:
            assert await rig.add(sha256) == (12,)
        assert len(refusals(logs)) == 1
        assert "module-compiled" in [event["event"] for event in logs]

    async def third(rig: Rig) -> None:
        with capture_logs() as logs:
            assert await rig.add(rig.ingest()) == (12,)
        assert not logs

    for part in (first, second, third):
        with_executor(state, tmp_path, part)


def test_job_whose_module_copy_is_gone_is_module_missing(state: Path, tmp_path: Path) -> None:
    """The message does not speak of the daemon's files."""

    async def test(rig: Rig) -> None:
        sha256 = rig.ingest()
        rig.cache.module_path(sha256).unlink()
        with pytest.raises(RefusedError, match=f"sha256:{sha256} is gone") as caught:
            await rig.executor.compile(sha256, PLAIN)
        assert caught.value.code is Code.MODULE_MISSING
        assert not rig.cache.has_module(sha256)
        assert await rig.add(rig.ingest()) == (12,)

    with_executor(state, tmp_path, test)


def test_compilation_with_failing_storage_is_retryable(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is the daemon's fault, so the attempt is repeated."""

    async def test(rig: Rig) -> None:
        sha256 = rig.ingest()
        with monkeypatch.context() as patch:
            patch.setattr(rig.cache, "keep", fail_as_full)
            with pytest.raises(SandboxError, match="No space left"):
                await rig.executor.compile(sha256, PLAIN)
        assert rig.cache.has_module(sha256)
        assert await rig.add(sha256) == (12,)

    def fail_as_full(*_args: object) -> CompiledModule:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with_executor(state, tmp_path, test)


def test_compilation_that_cannot_write_is_retryable(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faults of the child and of the module are distinguished."""
    require(os.access("/dev/full", os.W_OK), "/dev/full")

    async def test(rig: Rig) -> None:
        sha256 = rig.ingest()
        open_file = os.open

        def open_full(path: Path, flags: int, mode: int = 0o777) -> int:
            if flags & os.O_EXCL:
                open_file(path, flags, mode)
                path = Path("/dev/full")
            return open_file(path, flags & ~os.O_CREAT & ~os.O_EXCL, mode)

        with monkeypatch.context() as patch:
            patch.setattr("wasmdrop.sandbox.host.compilation.os.open", open_full)
            patch.setattr("wasmdrop.sandbox.host.compilation.os.fsync", lambda _fd: None)
            with pytest.raises(SandboxError, match="No space left") as caught:
                await rig.executor.compile(sha256, PLAIN)
            assert is_of_full_disk(caught.value)  # the job waits for room
        assert await rig.add(sha256) == (12,)

    with_executor(state, tmp_path, test)


def test_eviction_spares_a_module_being_compiled(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it waits for its turn."""

    async def test(rig: Rig) -> None:
        sha256 = rig.ingest()
        held: list[bool] = []
        keep = rig.cache.keep

        def look(*args: object) -> CompiledModule:
            held.append(sha256 not in list(rig.cache._index.surplus(1 << 40)))
            return keep(*args)  # type: ignore[arg-type] # passed on as they came

        monkeypatch.setattr(rig.cache, "keep", look)
        monkeypatch.setattr(rig.cache._index, "_clock", lambda: 1e12)
        await rig.executor.compile(sha256, PLAIN)
        assert held == [True]
        monkeypatch.setattr(rig.cache._index, "_clock", lambda: 2e12)
        assert list(rig.cache._index.surplus(1 << 40)) == [sha256]

    with_executor(state, tmp_path, test)
