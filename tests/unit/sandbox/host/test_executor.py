"""Unit tests of the local executor."""

import asyncio
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import (
    ComponentCall,
    FunctionType,
    ModuleKind,
    ModuleSummary,
    WitFunction,
    WitType,
)
from wasmdrop.protocol.outcome import Outcome
from wasmdrop.sandbox.host import executor
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.compilation import CompileLimits
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule, ModuleCache
from wasmdrop.sandbox.host.reports import outcome_of_report
from wasmdrop.sandbox.host.request import RequestResult
from wasmdrop.sandbox.wire import EngineOptions


class FakeForkServer:
    """A fork server whose children are not needed, because the exchange is replaced."""

    def __init__(self) -> None:
        self.released = 0

    async def take(self) -> SimpleNamespace:
        """Return a child."""
        return SimpleNamespace(is_native=False, output=None)

    def release(self, _child: object) -> None:
        """Count the children that came back."""
        self.released += 1


@pytest.mark.parametrize("elements", [10, 100_000])
def test_report_of_large_size_is_decoded_on_another_thread(
    elements: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A large report does not block the event loop; a small one is faster without a thread."""
    threads = []
    real = outcome_of_report

    def noted(*args: Any) -> Outcome:
        threads.append(threading.get_ident())
        return real(*args)

    async def exchange(*_args: object, **_more: object) -> RequestResult:
        numbers = ",".join(["7"] * elements)
        report = f'{{"code":"ok","component_result":[{numbers}]}}'.encode()
        return RequestResult(report, 1.0, None, None)

    monkeypatch.setattr(executor, "outcome_of_report", noted)
    monkeypatch.setattr(executor, "exchange", exchange)
    result = WitType("list", (), (WitType("u16"),))
    call = Call("run", FunctionType(), component=ComponentCall(WitFunction((), result), ()))
    summary = ModuleSummary(ModuleKind.LIBRARY)
    module = CompiledModule("0" * 64, EngineOptions(), summary, os.memfd_create("code"))
    fork_server = FakeForkServer()

    async def run() -> Outcome:
        local = LocalExecutor(
            fork_server,  # type: ignore[arg-type]
            ModuleCache(tmp_path, 1 << 20),
            None,  # type: ignore[arg-type]  # no job has a directory
            CompileLimits(),
        )
        return await local.run(module, call, Limits())

    outcome = asyncio.run(run())
    assert outcome.results == ([7] * elements,)
    assert (threads == [threading.get_ident()]) is (elements == 10)
    assert fork_server.released == 1
