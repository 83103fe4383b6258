"""ZygotePool that were taken over: whatever they do, other modules' jobs and the daemon go on.

The templates of a real pool are confined as ever but do whatever the test wants. Each of their
module's jobs ends, at its timeout at the latest; nothing that they forked is left in the end.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from wasmtime import wat2wasm

from tests.support.require import require_confinement
from tests.support.security.bench import Bench, below, descriptors
from tests.support.security.lying_zygotes import FORKS_NO_MORE, LIES
from wasmdrop.protocol.errors import SandboxError
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.sandbox.host import zygote_pool
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule

LIMITS: Final = Limits(timeout_sec=0.5, memory_mb=16)
TRUE_LIMITS: Final = Limits(timeout_sec=20, memory_mb=16)
SEVEN: Final = FunctionType((), ("i32",))

#: How jobs may end of a module whose template lies, if not as they do without one. None is the
#: sandbox's own failure, after which a job is run anew.
ENDS: Final[dict[str, set[Code | None]]] = {
    "children-are-the-forking-server": {Code.TIMEOUT, None},
    "children-are-the-daemon": {Code.TIMEOUT, None},
    "children-are-the-template": {Code.TIMEOUT, None},
    # A job that waits for the first has it before it is told that this one is dead.
    "children-that-died-before": {Code.TIMEOUT, Code.CRASHED, None},
    "children-twice": {Code.TIMEOUT, None},
    "children-leave-processes-behind": {None},
    "dies-with-its-jobs": {None},
    "ends-beyond-measure": {None},
    "ends-by-no-signal": {None},
    "ends-of-nobody": {None},
    "ends-of-two": {None},
    "ends-that-are-stops": {None},
    "ends-with-descriptors": {Code.CRASHED, None},
    "packets-without-end": {None},
    # Both of its children have one number: the second ends what came of the first.
    "processes-are-none": {Code.TIMEOUT, None},
    "tells-of-no-end": {None},
}


class LiesBench(Bench):
    """A bench of the forking server whose templates lie, and a module that they lie for."""

    def __init__(self, runner: asyncio.Runner, directory: Path) -> None:
        super().__init__(runner, directory, "tests.support.security.lying_zygotes", zygote_idle=2)
        functions = (
            f'(func (export "{name}") (result i32) (i32.const 7))'
            for name in (*LIES, FORKS_NO_MORE, "seven")
        )
        self.hostile = self.compile(bytes(wat2wasm(f"(module {''.join(functions)})")))
        seven = '(func (export "seven") (result i32) (i32.const 7))'
        other = f'(module {seven} (memory (export "memory") 1))'
        self.other = self.compile(bytes(wat2wasm(other)))

    @property
    def server_pid(self) -> int:
        """The forking server's process."""
        assert self.pool._process is not None
        return self.pool._process.pid

    def call(self, entry: str) -> Outcome | BaseException:
        """Call a function of the hostile module, and one of the other, whose result is seven."""

        async def both() -> tuple[Outcome | BaseException, Outcome | BaseException]:
            return await asyncio.gather(
                self.executor.run(self.hostile, Call(entry, SEVEN), LIMITS),
                self.executor.run(self.other, Call("seven", SEVEN), TRUE_LIMITS),
                return_exceptions=True,
            )

        told, other = self.runner.run(both())
        assert isinstance(other, Outcome), other
        assert other.results == (7,)
        return told

    def wait_until(self, look: Callable[[], object], what: str) -> None:
        """Let the daemon work until something has come about."""

        async def look_again() -> None:
            while not look():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.002)

        async def in_time() -> None:
            async with asyncio.timeout(20):
                await look_again()

        try:
            self.runner.run(in_time())
        except TimeoutError:
            raise AssertionError(f"waited in vain for {what}") from None

    def make_templates(self, entry: str) -> None:
        """Call both modules until their templates are made, or it is known that one is not."""
        for _ in range(2):
            told = self.call(entry)
            assert isinstance(told, Outcome), told
            assert told.results == (7,)
        made = self.templates
        self.wait_until(lambda: not made._starting, "templates")
        assert len(self.template_pids(self.other)) == 1

    def template_pids(self, module: CompiledModule) -> set[int]:
        """Return the processes of a module's templates, be they retired."""
        made = self.templates
        return {
            one._process.pid
            for one in (*made._ready.values(), *made._retired)
            if one._module is module and one._process is not None
        }

    @property
    def templates(self) -> zygote_pool.ZygotePool:
        """Those of the executor."""
        assert self.executor._zygotes is not None
        return self.executor._zygotes

    def close_executor(self) -> None:
        """Let all templates go."""

        async def close() -> None:
            self.executor.close()

        self.runner.run(close())

    def begin_anew(self) -> None:
        """Let all templates go, and wait until nothing is left of them."""
        self.close_executor()
        self.settle()
        self.wait_until(lambda: below(self.server_pid) == set(self.pool._alive), "processes to go")
        self.executor = LocalExecutor(
            self.pool, self.store, self.directories, self.compile_limits, zygote_idle=2
        )


@pytest.fixture(scope="module")
def whole_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiesBench]:
    """Give one bench for all lies: each must leave it as it was."""
    require_confinement()
    with asyncio.Runner() as runner:
        it = LiesBench(runner, tmp_path_factory.mktemp("template-lies"))
        yield it
        it.close_executor()
        runner.run(it.pool.__aexit__(None, None, None))


@pytest.fixture
def bench(whole_bench: LiesBench, monkeypatch: pytest.MonkeyPatch) -> LiesBench:
    """Give the bench, with little patience."""
    monkeypatch.setattr(zygote_pool, "_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(zygote_pool, "_CHECK_SECONDS", 0.05)
    monkeypatch.setattr(zygote_pool, "_START_PROCESSOR_SECONDS", 0.5)
    return whole_bench


@pytest.mark.parametrize("lie", LIES)
def test_a_template_that_lies_spoils_its_modules_jobs_alone(bench: LiesBench, lie: str) -> None:
    """Another module's run as ever, by its own template; nothing is left, and nobody was killed."""
    bench.call("seven")
    bench.begin_anew()
    before, server_pid = descriptors(), bench.server_pid
    bench.make_templates(lie)
    honest = bench.template_pids(bench.other)
    told = [bench.call(lie) for _ in range(3)]
    for one in told:
        code = one.code if isinstance(one, Outcome) else None
        assert isinstance(one, Outcome | SandboxError), one
        assert code in ENDS.get(lie, set()) | {Code.OK}, told
        assert not isinstance(one, Outcome) or one.results in {None, (7,)}
    assert bench.template_pids(bench.other) == honest
    bench.begin_anew()
    assert descriptors() <= before
    assert (bench.server_pid, bench.pool.restarts) == (server_pid, 0)


@pytest.mark.parametrize(
    "lie",
    ["leaves-processes-behind", "children-leave-processes-behind", "computes", "never-answers"],
)
def test_a_template_that_does_more_than_fork_is_one_no_longer(bench: LiesBench, lie: str) -> None:
    """It is ended while the daemon runs, with all that it forked, and its module gets no other."""
    bench.begin_anew()
    bench.make_templates(lie)
    bench.call(lie)
    bench.wait_until(
        lambda: bench.template_pids(bench.hostile) == set(), "the template to be ended"
    )
    (other,) = bench.template_pids(bench.other)
    bench.wait_until(
        lambda: below(bench.server_pid) - below(other) == set(bench.pool._alive),
        "all that it forked to be ended",
    )
    for _ in range(3):
        told = bench.call(lie)
        assert isinstance(told, Outcome)
        assert told.results == (7,)
    assert bench.template_pids(bench.hostile) == set()


def test_jobs_run_without_a_template_that_can_fork_no_more(bench: LiesBench) -> None:
    """Others may have used up what the kernel gives one user: it says so, and lives on."""
    bench.begin_anew()
    bench.make_templates(FORKS_NO_MORE)
    for _ in range(5):
        told = bench.call(FORKS_NO_MORE)
        assert isinstance(told, Outcome), told
        assert told.results == (7,)
    bench.wait_until(lambda: not bench.template_pids(bench.hostile), "the template to go")
    bench.begin_anew()


def test_nothing_outlives_the_forking_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose end is the daemon's, however that comes: it waits for the last generation."""
    monkeypatch.setattr(zygote_pool.Zygote, "check", lambda _self: None)
    require_confinement()
    with asyncio.Runner() as runner:
        bench = LiesBench(runner, tmp_path)
        bench.make_templates("leaves-processes-behind")
        bench.call("leaves-processes-behind")
        (liar,) = bench.template_pids(bench.hostile)
        bench.wait_until(lambda: any(below(pid) for pid in below(liar)), "grandchildren")
        pids = below(bench.server_pid)
        handles = [os.pidfd_open(pid) for pid in pids]
        runner.run(bench.pool.__aexit__(None, None, None))
        assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
        for handle in handles:
            os.close(handle)
        bench.close_executor()
