"""Zygotes that were taken over: jobs of other modules and the daemon go on.

The zygotes of a real pool are confined as usual, but do what the test wants. Each job of their
module ends, at its timeout at the latest, and no process of theirs is left in the end.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from wasmtime import wat2wasm

from tests.support.guests import require_guest
from tests.support.require import require_confinement
from tests.support.security.bench import Bench, below, descriptors
from tests.support.security.lying_zygotes import ANSWERS, LIES, limits_of
from wasmdrop.protocol.errors import SandboxError
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.text import MESSAGE_LIMIT
from wasmdrop.sandbox.host import zygote_pool
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule

TIMEOUT_SECONDS: Final = 0.5
_START_SECONDS: Final = 20.0
TRUE_LIMITS: Final = Limits(timeout_sec=20, memory_mb=16)
SEVEN: Final = FunctionType((), ("i32",))

#: The codes, besides ``ok``, that a lying zygote's jobs may end with. None is a failure of the
#: sandbox, after which a job is retried.
ENDS: Final[dict[str, set[Code | None]]] = {
    "children-are-the-fork-server": {Code.TIMEOUT, None},
    "children-are-the-daemon": {Code.TIMEOUT, None},
    "children-are-the-zygote": {Code.TIMEOUT, None},
    # A job may get the first child before the daemon knows that it is dead.
    "children-that-died-before": {Code.TIMEOUT, Code.CRASHED, None},
    "children-twice": {Code.TIMEOUT, None},
    "children-leave-processes-behind": {None},
    "dies-with-its-jobs": {None},
    # A job may get the child before the daemon reads the message that is not valid.
    "ends-after-all-time": {None},
    "ends-without-a-time": {None},
    "ends-beyond-measure": {None},
    "ends-by-no-signal": {None},
    "ends-of-no-child": {None},
    "ends-of-two": {None},
    "ends-that-are-stops": {None},
    "ends-with-descriptors": {Code.CRASHED, None},
    "packets-without-end": {None},
    # Both children have the same process ID: the second one ends the zygote.
    "processes-are-none": {Code.TIMEOUT, None},
    "tells-of-no-end": {None},
}


class LiesBench(Bench):
    """A bench with a fork server whose zygotes lie, and a module for which they lie.

    A lie is the name of one, or nothing.
    """

    def __init__(self, runner: asyncio.Runner, directory: Path) -> None:
        super().__init__(runner, directory, "tests.support.security.lying_zygotes", zygote_idle=2)
        seven = '(func (export "seven") (result i32) (i32.const 7))'
        self.hostile = self.compile(bytes(wat2wasm(f"(module {seven})")))
        other = f'(module {seven} (memory (export "memory") 1))'
        self.other = self.compile(bytes(wat2wasm(other)))

    @property
    def server_pid(self) -> int:
        """Process ID of the fork server."""
        assert self.fork_server._process is not None
        return self.fork_server._process.pid

    def call(self, lie: str = "") -> Outcome | BaseException:
        """Call the function of the hostile module, and concurrently that of the other module."""
        limits = limits_of(lie, TIMEOUT_SECONDS) if lie else TRUE_LIMITS

        async def both() -> tuple[Outcome | BaseException, Outcome | BaseException]:
            return await asyncio.gather(
                self.executor.run(self.hostile, Call("seven", SEVEN), limits),
                self.executor.run(self.other, Call("seven", SEVEN), TRUE_LIMITS),
                return_exceptions=True,
            )

        outcome, other = self.runner.run(both())
        assert isinstance(other, Outcome), other
        assert other.results == (7,)
        return outcome

    def wait_until(self, look: Callable[[], object], what: str) -> None:
        """Run the event loop until a condition holds."""

        async def look_again() -> None:
            while not look():  # noqa: ASYNC110 - nothing is signalled
                await asyncio.sleep(0.002)

        async def in_time() -> None:
            async with asyncio.timeout(20):
                await look_again()

        try:
            self.runner.run(in_time())
        except TimeoutError:
            raise AssertionError(f"timed out waiting for {what}") from None

    def start_zygotes(self, lie: str) -> None:
        """Call both modules until their zygotes have started, or could not be started."""
        made = self.zygotes
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(zygote_pool, "_TIMEOUT_SECONDS", _START_SECONDS)
            # First an honest one, for which a busy machine may need a while.
            for one in ("", lie) if lie.startswith("made:") else (lie,):
                if one.startswith("made:"):
                    patch.undo()
                for _ in range(2):
                    outcome = self.call(one)
                    assert isinstance(outcome, Outcome), outcome
                    assert outcome.results == (7,)
                self.wait_until(lambda: not made._starting, "zygotes")
        assert len(self.zygote_pids(self.other)) == 1

    def zygote_pids(self, module: CompiledModule) -> set[int]:
        """Return the process IDs of a module's zygotes, including retired ones."""
        made = self.zygotes
        return {
            one._process.pid
            for one in (*made._ready.values(), *made._retired)
            if one._module is module and one._process is not None
        }

    @property
    def zygotes(self) -> zygote_pool.ZygotePool:
        """The zygote pool of the executor."""
        assert self.executor._zygotes is not None
        return self.executor._zygotes

    def close_executor(self) -> None:
        """End all zygotes."""

        async def close() -> None:
            self.executor.close()

        self.runner.run(close())

    def restart(self) -> None:
        """End all zygotes, and wait until none of their processes is left."""
        self.close_executor()
        self.settle()
        self.wait_until(
            lambda: below(self.server_pid) == set(self.fork_server._alive), "processes to go"
        )
        self.executor = self.new_executor(zygote_idle=2)


@pytest.fixture(scope="module")
def whole_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiesBench]:
    """Return one bench for all lies: each must leave it unchanged."""
    require_confinement()
    require_guest("native")
    with asyncio.Runner() as runner:
        it = LiesBench(runner, tmp_path_factory.mktemp("zygote-lies"))
        yield it
        it.close_executor()
        runner.run(it.fork_server.__aexit__(None, None, None))


@pytest.fixture
def bench(whole_bench: LiesBench, monkeypatch: pytest.MonkeyPatch) -> LiesBench:
    """Return the bench, with short timeouts."""
    monkeypatch.setattr(zygote_pool, "_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(zygote_pool, "_CHECK_SECONDS", 0.05)
    monkeypatch.setattr(zygote_pool, "_START_PROCESSOR_SECONDS", 0.5)
    return whole_bench


#: The codes of jobs whose child answers with a lie; None is a failure of the sandbox.
_ANSWERS: Final[dict[str, Code | None]] = {
    "nothing": Code.TIMEOUT,
    "half-a-frame": Code.TIMEOUT,
    "two-reports": Code.OK,
    "byte-by-byte": Code.TRAP,
    "stale-machine-code": Code.INTERNAL,
    "fault-of-the-sandbox": Code.INTERNAL,
    "largest-exit-code": Code.EXIT,
    "trap-of-no-number": Code.TRAP,
    "trap-beyond-all-numbers": Code.TRAP,
    "message-of-terminal-escapes": Code.TRAP,
    "message-that-is-no-text": Code.TRAP,
    "time-below-nothing": Code.OK,
    "time-that-is-no-number": Code.OK,
    "growth-below-nothing": Code.TRAP,
    "growth-beyond-measure": Code.MEMORY_LIMIT,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_report_of_a_native_child_that_lies_fails_only_its_own_job(
    whole_bench: LiesBench, name: str
) -> None:
    """It is refused, or the outcome is plausible and its message safe."""
    bench = whole_bench
    bench.restart()
    lie = f"answers: {name}"
    bench.start_zygotes(lie)
    assert bench.zygote_pids(bench.hostile)
    other_pids = bench.zygote_pids(bench.other)
    expected = _ANSWERS.get(name)
    for _ in range(2):
        outcome = bench.call(lie)
        if expected is None:
            assert isinstance(outcome, SandboxError), outcome
            continue
        assert isinstance(outcome, Outcome), outcome
        assert outcome.code is expected, outcome
        assert 0 <= outcome.run_seconds < 60
        assert len(outcome.message) <= MESSAGE_LIMIT
        assert "\x1b" not in outcome.message
    assert bench.zygote_pids(bench.other) == other_pids


@pytest.mark.parametrize("lie", [lie for lie in LIES if not lie.startswith("answers: ")])
def test_zygote_that_lies_fails_only_its_modules_jobs(bench: LiesBench, lie: str) -> None:
    """Another module's jobs run by its own zygote; nothing is left, and nothing else was killed."""
    bench.call()
    bench.restart()
    before, server_pid = descriptors(), bench.server_pid
    bench.start_zygotes(lie)
    before_pids = bench.zygote_pids(bench.other)
    outcome = [bench.call(lie) for _ in range(3)]
    for one in outcome:
        code = one.code if isinstance(one, Outcome) else None
        assert isinstance(one, Outcome | SandboxError), one
        assert code in ENDS.get(lie, set()) | {Code.OK}, outcome
        assert not isinstance(one, Outcome) or one.results in {None, (7,)}
    assert bench.zygote_pids(bench.other) == before_pids
    bench.restart()
    assert descriptors() <= before
    assert (bench.server_pid, bench.fork_server.restarts) == (server_pid, 0)


@pytest.mark.parametrize(
    "lie",
    ["leaves-processes-behind", "children-leave-processes-behind", "computes", "never-answers"],
)
def test_zygote_that_does_more_than_fork_is_ended(bench: LiesBench, lie: str) -> None:
    """With all that it forked, while the daemon runs; its module gets no other zygote."""
    bench.restart()
    bench.start_zygotes(lie)
    bench.call(lie)
    bench.wait_until(lambda: bench.zygote_pids(bench.hostile) == set(), "the zygote to be ended")
    (other,) = bench.zygote_pids(bench.other)
    bench.wait_until(
        lambda: below(bench.server_pid) - below(other) == set(bench.fork_server._alive),
        "all that it forked to be ended",
    )
    for _ in range(3):
        outcome = bench.call(lie)
        assert isinstance(outcome, Outcome)
        assert outcome.results == (7,)
    assert bench.zygote_pids(bench.hostile) == set()


def test_zygote_that_cannot_fork_is_not_used(bench: LiesBench) -> None:
    """The user may have no processes left; the zygote reports that and lives on."""
    bench.restart()
    bench.start_zygotes("forks-no-more")
    for _ in range(5):
        outcome = bench.call("forks-no-more")
        assert isinstance(outcome, Outcome), outcome
        assert outcome.results == (7,)
    bench.wait_until(lambda: not bench.zygote_pids(bench.hostile), "the zygote to be ended")
    bench.restart()


def test_fork_server_end_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with the daemon, and waits for all its descendants."""
    monkeypatch.setattr(zygote_pool.Zygote, "check", lambda _self: None)
    require_confinement()
    require_guest("native")
    with asyncio.Runner() as runner:
        bench = LiesBench(runner, tmp_path)
        bench.start_zygotes("leaves-processes-behind")
        bench.call("leaves-processes-behind")
        (liar,) = bench.zygote_pids(bench.hostile)
        bench.wait_until(lambda: any(below(pid) for pid in below(liar)), "grandchildren")
        pids = below(bench.server_pid)
        handles = [os.pidfd_open(pid) for pid in pids]
        runner.run(bench.fork_server.__aexit__(None, None, None))
        assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
        for handle in handles:
            os.close(handle)
        bench.close_executor()
