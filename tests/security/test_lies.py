"""A child that its guest has taken over lies to the daemon: it spoils its own job, and no more.

The children are confined as ever and forked by a server of the test's own, which lets them say
whatever the test wants. The pool and the executor are the real ones.
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

#: How each lie about a run must end; a code, or None where it is the sandbox's own failure.
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
    """A bench of the forking server whose children lie."""

    def __init__(self, runner: asyncio.Runner, directory: Path) -> None:
        super().__init__(runner, directory, "tests.support.security.lying")
        self.module = self.compile(bytes(wat2wasm(WASI)))

    def run(self, *entries: str) -> list[Outcome | BaseException]:
        """Run these calls side by side, each of a function that returns an i32."""

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
    """Give one bench for all lies: each must leave it as it was."""
    with asyncio.Runner() as runner:
        it = LiesBench(runner, tmp_path_factory.mktemp("lies"))
        yield it
        runner.run(it.pool.__aexit__(None, None, None))


#: Two have tests of their own, as they cost or leave machine code.
_LIES = [lie for lie in LIES if lie not in {"machine-code-stale", "compiled-nothing"}]


@pytest.mark.parametrize("lie", _LIES)
def test_a_lie_spoils_the_liars_job_alone(bench: LiesBench, lie: str) -> None:
    """A neighbour and a later job run as ever; the process is gone, and so are its descriptors."""
    bench.run("seven")
    bench.settle()
    before = descriptors()
    started = time.perf_counter()
    told, neighbour = bench.run(lie, "seven")
    taken = time.perf_counter() - started
    assert isinstance(neighbour, Outcome)
    assert neighbour.results == (7,)
    expected = ENDS.get(lie)
    if expected is None:
        assert isinstance(told, SandboxError), told
    else:
        assert isinstance(told, Outcome), told
        assert told.code is expected
        assert len(told.message) <= MESSAGE_LIMIT
        assert "\x1b" not in told.message
        assert 0 <= told.run_seconds <= taken
    (later,) = bench.run("seven")
    assert isinstance(later, Outcome)
    assert later.results == (7,)
    bench.settle()
    assert bench.children() == 1
    assert descriptors() <= before
    assert bench.pool.restarts == 0


def test_a_lie_about_stale_code_costs_a_compilation(bench: LiesBench) -> None:
    """The code is made anew, and runs that hold the old one go on."""
    (told,) = bench.run("machine-code-stale")
    assert isinstance(told, SandboxError)
    (later,) = bench.run("seven")
    assert isinstance(later, Outcome)
    assert later.results == (7,)


@pytest.mark.parametrize("lie", _LIES)
def test_a_compiler_that_lies_is_not_believed(bench: LiesBench, lie: str) -> None:
    """Its module is refused or the sandbox is at fault; no machine code is kept."""
    module = b"\0asm\x01\0\0\0" + COMPILE_MARK + lie.encode()
    with pytest.raises((RefusedError, SandboxError)) as caught:
        bench.compile(module)
    if isinstance(caught.value, RefusedError):
        assert caught.value.code in {Code.INVALID_MODULE, Code.COMPILE_LIMIT}
        assert len(caught.value.message) <= MESSAGE_LIMIT
    assert not list(bench.store._code.glob(".*"))
    bench.settle()
    assert bench.children() == 1


def test_machine_code_that_is_none_is_never_run(bench: LiesBench) -> None:
    """A compiler that reports success and wrote nothing: its module's jobs fail, and no other's."""
    module = bench.compile(b"\0asm\x01\0\0\0" + COMPILE_MARK + b"compiled-nothing")
    call = Call("seven", FunctionType((), ("i32",)))
    with pytest.raises(SandboxError):
        bench.runner.run(bench.executor.run(module, call, TRUE_LIMITS))
    assert not bench.store.code_path(module.sha256, module.options).exists()
    (other,) = bench.run("seven")
    assert isinstance(other, Outcome)
    assert other.results == (7,)


def test_a_report_of_a_run_is_small_or_refused(bench: LiesBench) -> None:
    """The daemon's own memory does not move, however much a child says."""

    def peak_mb() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

    bench.run("seven")
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_mb()
    bench.run("results-by-the-million")
    assert peak_mb() - before < 24
