"""What one module may cost the daemon's own process, and so all others' jobs."""

import asyncio
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from wasmtime import wat2wasm

from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import (
    ComponentCall,
    FunctionType,
    ModuleKind,
    ModuleSummary,
    WitFunction,
    WitType,
)
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.sandbox.guest import compiler
from wasmdrop.sandbox.guest.engine import Engine
from wasmdrop.sandbox.host import executor, zygote_pool
from wasmdrop.sandbox.host.call import Call, CompileLimits, preparation_of
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.sandbox.host.module_cache import cache
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule, ModuleCache
from wasmdrop.sandbox.host.reports import outcome_of_report
from wasmdrop.sandbox.host.request import RequestResult
from wasmdrop.sandbox.host.zygote_pool import ZygotePool
from wasmdrop.sandbox.wire import CompileRequest, EngineOptions, Preparation

OPTIONS = EngineOptions()


def a_module(sha256: str = "0" * 64) -> CompiledModule:
    """Return a module whose machine code is nothing."""
    fd = os.memfd_create("code")
    return CompiledModule(sha256, OPTIONS, ModuleSummary(ModuleKind.LIBRARY), fd)


@pytest.mark.parametrize("elements", [10, 100_000])
def test_a_large_report_is_read_on_another_thread(
    elements: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So that it holds up no event loop; a small one on the loop's own, which is quicker."""
    threads = []
    real = outcome_of_report

    def noted(*args: Any) -> Outcome:
        threads.append(threading.get_ident())
        return real(*args)

    async def answered(*_args: object, **_more: object) -> RequestResult:
        plain = ",".join(["7"] * elements)
        return RequestResult(
            f'{{"code":"ok","component_result":[{plain}]}}'.encode(), False, 1.0, None, None
        )

    monkeypatch.setattr(executor, "outcome_of_report", noted)
    monkeypatch.setattr(executor, "exchange", answered)
    result = WitType("list", (), (WitType("u16"),))
    call = Call("run", FunctionType(), component=ComponentCall(WitFunction((), result), ()))

    async def scenario() -> Outcome:
        local = LocalExecutor(
            None,  # type: ignore[arg-type]  # there is no child
            ModuleCache(tmp_path, 1 << 20),
            None,  # type: ignore[arg-type]  # nor a directory
            CompileLimits(),
        )
        return await local.run(a_module(), call, Limits())

    outcome = asyncio.run(scenario())
    assert outcome.results == ([7] * elements,)
    assert (threads == [threading.get_ident()]) is (elements == 10)


def test_summaries_at_hand_are_bounded_by_their_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """However few they are; one that had to go is read again."""
    monkeypatch.setattr(cache, "_AT_HAND_BYTES", 100_000)
    kept = ModuleCache(tmp_path, 1 << 30)
    names = {f"export-{number:04}": FunctionType() for number in range(1000)}
    summary = ModuleSummary(ModuleKind.LIBRARY, names)
    digests = [f"{number:064}" for number in range(8)]
    for sha256 in digests:
        code = tmp_path / "code-in-the-making"
        code.write_bytes(b"code")
        kept.keep(sha256, OPTIONS, summary, code)
    at_hand = [sha256 for sha256 in digests if kept.at_hand(sha256, OPTIONS) is not None]
    assert 1 <= len(at_hand) < len(digests)
    assert at_hand == digests[-len(at_hand) :]
    found = kept.load(digests[0], OPTIONS)
    assert found is not None
    assert found.summary == summary


def test_one_summary_above_the_bound_is_at_hand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Or each of its jobs would read it anew."""
    monkeypatch.setattr(cache, "_AT_HAND_BYTES", 1)
    kept = ModuleCache(tmp_path, 1 << 30)
    for sha256 in ("1" * 64, "2" * 64):
        code = tmp_path / "code-in-the-making"
        code.write_bytes(b"code")
        kept.keep(sha256, OPTIONS, ModuleSummary(ModuleKind.LIBRARY), code)
        assert kept.at_hand(sha256, OPTIONS) is not None
    assert kept.at_hand("1" * 64, OPTIONS) is None


def test_few_templates_are_made_at_a_time() -> None:
    """Each takes a process beside those of the workers; the next ones are made later."""

    class SlowPool:
        """A pool whose processes do not come."""

        asked = 0

        async def take(self) -> None:
            self.asked += 1
            await asyncio.Event().wait()

    async def scenario() -> None:
        pool, module = SlowPool(), a_module()
        made = ZygotePool(pool, 1)  # type: ignore[arg-type]  # it is only asked for processes
        wanted: list[Preparation] = [
            preparation_of(module, Call("run", FunctionType()), Limits(memory_mb=mb))
            for mb in range(1, 20)
        ]
        for _ in range(3):
            for preparation in wanted:
                assert await made.take(module, preparation) is None
        await asyncio.sleep(0)
        assert pool.asked == len(made._making) == zygote_pool._MOST_MAKING
        for task in made._making.values():
            task.cancel()
        await asyncio.gather(*made._making.values(), return_exceptions=True)
        assert await made.take(module, wanted[-1]) is None
        assert len(made._making) == 1, "there is room again"
        made.close()

    asyncio.run(scenario())


def test_machine_code_that_is_too_much_is_the_modules_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And not the daemon's, which would try again."""

    def too_much(_fd: int, _data: object) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(compiler, "_write", too_much)
    module = bytes(wat2wasm("(module)"))
    fd = os.memfd_create("module")
    os.write(fd, module)
    order = CompileRequest(OPTIONS, len(module), 10, 1, 1)
    report = compiler.compile_module(order, Engine(OPTIONS), fd, -1)
    os.close(fd)
    assert report.code is Code.COMPILE_LIMIT
    assert "more than 10 bytes" in report.message
