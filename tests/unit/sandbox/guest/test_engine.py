"""Both guests build the same engine."""

from typing import Final

import pytest
import wasmtime

from tests.support.native.process import NativeZygote
from tests.support.require import require_native_program
from wasmdrop.protocol.limits import Limits
from wasmdrop.sandbox.guest import engine, native_zygote
from wasmdrop.sandbox.guest.engine import MAX_STACK_BYTES, Engine
from wasmdrop.sandbox.wire import EngineOptions

RECURSION: Final = """(module (global $calls (export "calls") (mut i32) (i32.const 0))
  (func $run (export "run")
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (call $run) (call $run)))"""


def calls_in_python() -> int:
    """Return how often a function can call itself in an engine of the Python guest."""
    built = Engine(EngineOptions())
    store = wasmtime.Store(built.wasmtime_engine)
    module = wasmtime.Module(built.wasmtime_engine, RECURSION)
    exports = wasmtime.Instance(store, module, []).exports(store)
    run, calls = exports["run"], exports["calls"]
    assert isinstance(run, wasmtime.Func)
    assert isinstance(calls, wasmtime.Global)
    with pytest.raises(wasmtime.Trap, match="stack"):
        run(store)
    return int(calls.value(store))


def fuel_in_c() -> int:
    """Return the fuel of the same calls in the native guest."""
    limits = Limits(fuel=1 << 40)
    options = EngineOptions(fuel=True)
    with NativeZygote(require_native_program(), RECURSION, options, limits) as zygote:
        report = zygote.run("run").report
    assert report.fuel_used is not None
    return report.fuel_used


def test_python_engine_has_the_stack_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the depth of a recursion does not depend on wasmtime's default."""
    found = calls_in_python()
    monkeypatch.setattr(engine, "MAX_STACK_BYTES", 2 * MAX_STACK_BYTES)
    assert calls_in_python() == pytest.approx(2 * found, rel=0.01)


def test_native_engine_has_the_stack_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is part of the configuration."""
    found = fuel_in_c()
    monkeypatch.setattr(native_zygote, "MAX_STACK_BYTES", 2 * MAX_STACK_BYTES)
    assert fuel_in_c() == pytest.approx(2 * found, rel=0.01)
