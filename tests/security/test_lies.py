"""Children that their guests have taken over lie to the daemon: only their own jobs fail.

The fork server is one whose confined children report what the test wants; the rest is real.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from tests.support.security.bench import Bench, descriptors
from tests.support.security.lying import COMPILE_MARK, LIES
from wasmdrop.protocol.errors import RefusedError, SandboxError
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.text import MESSAGE_LIMIT
from wasmdrop.sandbox.host.call import Call

WASI = """
(module (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
  (func (export "seven") (result i32) (i32.const 7)))
"""

LIMITS = Limits(timeout_sec=0.5, memory_mb=16)
TRUE_LIMITS = Limits(timeout_sec=20, memory_mb=16)

#: The code that each lie about a run must lead to; None for a failure of the sandbox.
ENDS: dict[str, Code | None] = {
    "half-a-frame": Code.CRASHED,
    "half-a-frame-and-lives-on": Code.TIMEOUT,
    "nothing-and-exits": Code.CRASHED,
    "hangs-up-and-lives-on": Code.CRASHED,
    "frame-without-end": None,
    "reports-and-lives-on": Code.TRAP,
    "two-reports": Code.TRAP,
    "byte-by-byte": Code.TRAP,
    "exit-code-of-a-function": Code.OK,
    "time-beyond-measure": Code.TRAP,
    "time-below-nothing": Code.TRAP,
    "message-of-megabytes": None,
    "compiled-by-another-report": Code.OK,
    "overwrites-what-it-was-given": Code.TRAP,
}


class LiesBench(Bench):
    """A bench with a fork server whose children lie."""

    def __init__(self, runner: asyncio.Runner, directory: Path) -> None:
        super().__init__(runner, directory, "tests.support.security.lying")
        self.module = self.compile(bytes(wat2wasm(WASI)))

    def run(self, *entries: str) -> list[Outcome | BaseException]:
        """Run calls of functions that return an i32, concurrently."""

        async def all_of_them() -> list[Outcome | BaseException]:
            calls = (
                self.executor.run(
                    self.module,
                    Call(entry, FunctionType((), ("i32",))),
                    LIMITS if entry in LIES else TRUE_LIMITS,
                )
                for entry in entries
            )
            return await asyncio.gather(*calls, return_exceptions=True)

        return self.runner.run(all_of_them())


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiesBench]:
    """Return one bench for all lies: each must leave it unchanged."""
    with asyncio.Runner() as runner:
        it = LiesBench(runner, tmp_path_factory.mktemp("lies"))
        yield it
        runner.run(it.fork_server.__aexit__(None, None, None))


#: Without the two that concern machine code, which have tests of their own.
_LIES = [lie for lie in LIES if lie not in {"machine-code-stale", "compiled-nothing"}]


@pytest.mark.parametrize("lie", _LIES)
def test_report_that_lies_fails_only_its_own_job(bench: LiesBench, lie: str) -> None:
    """A concurrent and a later job succeed; process and descriptors of the liar are gone."""
    bench.run("seven")
    bench.settle()
    before = descriptors()
    started = time.perf_counter()
    outcome, neighbour = bench.run(lie, "seven")
    taken = time.perf_counter() - started
    assert isinstance(neighbour, Outcome)
    assert neighbour.results == (7,)
    expected = ENDS.get(lie)
    if expected is None:
        assert isinstance(outcome, SandboxError), outcome
    else:
        assert isinstance(outcome, Outcome), outcome
        assert outcome.code is expected
        assert len(outcome.message) <= MESSAGE_LIMIT
        assert "\x1b" not in outcome.message
        assert 0 <= outcome.run_seconds <= taken
    (later,) = bench.run("seven")
    assert isinstance(later, Outcome)
    assert later.results == (7,)
    bench.settle()
    assert bench.children() == 1
    assert descriptors() <= before
    assert bench.fork_server.restarts == 0


def test_report_of_stale_code_causes_a_compilation(bench: LiesBench) -> None:
    """The module is compiled again, and runs of the old code go on."""
    (outcome,) = bench.run("machine-code-stale")
    assert isinstance(outcome, SandboxError)
    (later,) = bench.run("seven")
    assert isinstance(later, Outcome)
    assert later.results == (7,)


@pytest.mark.parametrize("lie", _LIES)
def test_compiler_that_lies_leaves_no_machine_code(bench: LiesBench, lie: str) -> None:
    """Its module is refused, or the sandbox fails."""
    module = b"\0asm\x01\0\0\0" + COMPILE_MARK + lie.encode()
    with pytest.raises((RefusedError, SandboxError)) as caught:
        bench.compile(module)
    if isinstance(caught.value, RefusedError):
        assert caught.value.code in {Code.INVALID_MODULE, Code.COMPILE_LIMIT}
        assert len(caught.value.message) <= MESSAGE_LIMIT
    assert not list(bench.cache._code.glob(".*"))
    bench.settle()
    assert bench.children() == 1


def test_machine_code_that_is_empty_is_not_run(bench: LiesBench) -> None:
    """If a compiler reports success and wrote nothing, only the jobs of its module fail."""
    module = bench.compile(b"\0asm\x01\0\0\0" + COMPILE_MARK + b"compiled-nothing")
    call = Call("seven", FunctionType((), ("i32",)))
    with pytest.raises(SandboxError):
        bench.runner.run(bench.executor.run(module, call, TRUE_LIMITS))
    assert not bench.cache.code_path(module.sha256, module.options).exists()
    (other,) = bench.run("seven")
    assert isinstance(other, Outcome)
    assert other.results == (7,)


def test_report_of_large_size_is_not_read(bench: LiesBench) -> None:
    """The daemon's memory does not grow, however much a child sends."""

    def peak_mb() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

    bench.run("seven")
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_mb()
    bench.run("results-by-the-million")
    assert peak_mb() - before < 24
