"""Jobs in children of zygotes: what they may do, how they end, and when zygotes are ended.

Over the real fork server. Each job is compared with the same job without a zygote.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import pytest
from wasmtime import wat2wasm

from tests.support.guests import require_guest
from tests.support.require import require_confinement
from tests.support.security.bench import Bench, below, descriptors
from tests.support.security.jobs import AN_I32, LIMITS, LOOP, NOTHING, RANDOM, SAME, TURNS, YIELD
from wasmdrop.protocol.errors import SandboxError
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.sandbox.host import zygote_pool
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule
from wasmdrop.sandbox.wire import EngineOptions

T = TypeVar("T")

#: A call of :data:`LOOP`.
ENDLESS: Final = Call("run", AN_I32)


class ZygoteBench(Bench):
    """A bench with the real fork server, and executors with and without zygotes."""

    def __init__(self, runner: asyncio.Runner, directory: Path) -> None:
        super().__init__(runner, directory, "wasmdrop.sandbox.guest.fork_server")
        self.without = self.executor
        self._modules: dict[tuple[str, EngineOptions], CompiledModule] = {}

    def module(self, text: str, options: EngineOptions | None = None) -> CompiledModule:
        """Return a module, compiled once."""
        key = (text, options or EngineOptions())
        if key not in self._modules:
            self._modules[key] = self.compile(bytes(wat2wasm(f"(module {text})")), key[1])
        return self._modules[key]

    def run(self, work: Callable[[LocalExecutor], Awaitable[T]]) -> T:
        """Call ``work`` with an executor that has zygotes; end them afterwards."""

        async def do() -> T:
            executor = self.new_executor(zygote_idle=2)
            async with asyncio.timeout(60):
                try:
                    return await work(executor)
                finally:
                    executor.close()

        return self.runner.run(do())

    def alone(self, module: CompiledModule, call: Call, limits: Limits = LIMITS) -> Outcome:
        """Run a job without a zygote."""
        return self.runner.run(self.without.run(module, call, limits))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZygoteBench]:
    """Return one bench for all tests."""
    require_confinement()
    require_guest("native")
    with asyncio.Runner() as runner:
        it = ZygoteBench(runner, tmp_path_factory.mktemp("zygotes"))
        yield it
        runner.run(it.fork_server.__aexit__(None, None, None))


def of(executor: LocalExecutor) -> zygote_pool.ZygotePool:
    """Return an executor's zygote pool."""
    assert executor._zygotes is not None
    return executor._zygotes


async def until(look: Callable[[], object]) -> None:
    """Run the event loop until a condition holds."""
    while not look():  # noqa: ASYNC110 - nothing is signalled
        await asyncio.sleep(0.002)


async def settled(executor: LocalExecutor) -> None:
    """Wait until all zygotes have started, or could not be started."""
    made = of(executor)._starting
    await until(lambda: not made)


async def in_zygote(
    executor: LocalExecutor, module: CompiledModule, call: Call, limits: Limits, times: int
) -> list[Outcome]:
    """Run a job ``times`` times in children of a zygote, after two jobs that start it.

    Fails if a child of the fork server takes part.
    """
    for _ in range(2):
        await executor.run(module, call, limits)
    await settled(executor)
    assert [one._module is module for one in of(executor)._ready.values()][-1:] == [True]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor.fork_server, "take", None)
        return [await executor.run(module, call, limits) for _ in range(times)]


def comparable(outcome: Outcome) -> Outcome:
    """Return an outcome without its times."""
    return msgspec.structs.replace(outcome, run_seconds=0.0, cpu_seconds=None)


@pytest.mark.parametrize("what", SAME)
def test_job_in_a_zygote_ends_as_without_one(bench: ZygoteBench, what: str) -> None:
    """Several in a row, whatever earlier jobs did to memory, globals and tables."""
    text, call, limits, options = SAME[what]
    module = bench.module(text, options)
    alone = comparable(bench.alone(module, call, limits))
    outcomes = bench.run(lambda executor: in_zygote(executor, module, call, limits, 4))
    assert [comparable(one) for one in outcomes] == [alone] * 4
    assert alone.code is not Code.INTERNAL


def test_jobs_of_a_zygote_get_different_random_numbers(bench: ZygoteBench) -> None:
    """A generator that is seeded before the fork would repeat itself."""
    module = bench.module(RANDOM)
    call = Call("run", FunctionType((), ("i64",)))
    outcomes = bench.run(lambda executor: in_zygote(executor, module, call, LIMITS, 6))
    assert len({one.results for one in outcomes}) == 6


@contextlib.asynccontextmanager
async def running(
    executor: LocalExecutor, module: CompiledModule, limits: Limits, call: Call = ENDLESS
) -> AsyncIterator[tuple[asyncio.Task[Outcome], int]]:
    """Run a job that does not end by itself; yield it and its process ID."""
    await until(lambda: not _busy(executor))
    job = asyncio.create_task(executor.run(module, call, limits))
    await until(lambda: _busy(executor))
    (pid,) = _busy(executor)
    # It is confined as soon as it computes.
    at_first = _ticks(pid)
    await until(lambda: _ticks(pid) > at_first + 5)
    try:
        yield job, pid
    finally:
        job.cancel()
        with contextlib.suppress(asyncio.CancelledError, ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            await job


def _busy(executor: LocalExecutor) -> set[int]:
    """Return the process IDs of jobs."""
    families: list[Any] = [executor.fork_server]
    if executor._zygotes is not None:
        made = executor._zygotes
        families += [*made._ready.values(), *made._retired]
        zygote_pids = {one._process.pid for one in families[1:]}
    else:
        zygote_pids = set()
    return {
        child.pid
        for family in families
        for child in family._alive.values()
        if child not in family._idle and not child.is_closed and child.pid not in zygote_pids
    }


def _ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[11])


def _open(pid: int) -> dict[int, str]:
    """Return the open descriptors of a process."""
    held = Path(f"/proc/{pid}/fd").iterdir()
    return {int(path.name): path.readlink().name.partition(":")[0] for path in held}


#: The fields of a process's status that describe its rights.
MAY: Final = {"Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "CapInh", "CapPrm", "CapEff"}
MAY_TOO: Final = {"CapBnd", "CapAmb", "SigBlk", "ShdPnd"}


def _bounds(pid: int) -> dict[str, str]:
    """Return the limits and rights of a process."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in status)
    return {name: found[name].strip() for name in MAY | MAY_TOO if name in found} | {
        "limits": Path(f"/proc/{pid}/limits").read_text()
    }


@pytest.mark.parametrize(
    ("text", "call", "output"),
    [
        (LOOP, ENDLESS, "null"),
        (YIELD + LOOP, ENDLESS, "memfd"),
        (
            YIELD + '(func (export "_start") (loop (br 0)))',
            Call("_start", NOTHING, is_command=True),
            "memfd",
        ),
    ],
)
def test_job_in_a_zygote_has_the_limits_that_it_has_without_one(
    bench: ZygoteBench, text: str, call: Call, output: str
) -> None:
    """The same limits, user and capabilities; no descriptors but its streams and the link."""
    module = bench.module(text)
    longer = Limits(timeout_sec=7, memory_mb=16)  # another limit than the zygote began with

    async def look(executor: LocalExecutor) -> tuple[dict[str, str], dict[int, str]]:
        async with running(executor, module, longer, call) as (_job, pid):
            return _bounds(pid), _open(pid)

    async def look_in_zygote(executor: LocalExecutor) -> tuple[dict[str, str], dict[int, str]]:
        for _ in range(2):
            await executor.run(module, call, Limits(timeout_sec=0.1, memory_mb=16))
        await settled(executor)
        (zygote,) = of(executor)._ready.values()
        await until(lambda: zygote._idle)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(executor.fork_server, "take", None)
            return await look(executor)

    alone, _descriptors = bench.runner.run(look(bench.without))
    limits_held, descriptors_held = bench.run(look_in_zygote)
    assert limits_held == alone
    assert descriptors_held == {0: "null", 1: output, 2: output, 3: "socket"}


def test_zygote_unused_is_ended_after_its_last_job(
    bench: ZygoteBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running job keeps it; afterwards none of its processes is left."""
    module = bench.module(LOOP)
    short = Limits(timeout_sec=0.1, memory_mb=16)
    monkeypatch.setattr(zygote_pool, "_CHECK_SECONDS", 0.01)

    async def work(executor: LocalExecutor) -> None:
        (outcome,) = await in_zygote(executor, module, Call("run", AN_I32), short, 1)
        assert outcome.code is Code.TIMEOUT
        longer = Limits(timeout_sec=1, memory_mb=16)
        async with running(executor, module, longer) as (job, _pid):
            monkeypatch.setattr(zygote_pool, "_UNUSED_SECONDS", 0.0)
            assert (await job).code is Code.TIMEOUT
        made = of(executor)
        await until(lambda: not made._ready and not made._retired)
        await until(lambda: below(_server(bench)) == set(bench.fork_server._alive))

    bench.run(work)


def _server(bench: Bench) -> int:
    assert bench.fork_server._process is not None
    return bench.fork_server._process.pid


def test_zygote_evicted_is_ended_after_its_last_job(
    bench: ZygoteBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least recently used one; the job in its child ends normally."""
    monkeypatch.setattr(zygote_pool, "_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(zygote_pool, "_MAX_ZYGOTES", 2)
    first = bench.module(TURNS)
    others = [bench.module(f'(func (export "run") (result i32) (i32.const {n}))') for n in (5, 6)]
    long_call = Call("run", FunctionType(("i64",), ("i32",)), (200_000_000,))

    async def work(executor: LocalExecutor) -> None:
        made = of(executor)
        short_call = msgspec.structs.replace(long_call, args=(1,))
        await in_zygote(executor, first, short_call, LIMITS, 1)
        job = asyncio.create_task(executor.run(first, long_call, LIMITS))
        await until(lambda: _busy(executor))
        for number, other in zip((5, 6), others, strict=True):
            (first_outcome,) = await in_zygote(executor, other, Call("run", AN_I32), LIMITS, 1)
            assert first_outcome.results == (number,)
        ready = {zygote._module.sha256 for zygote in made._ready.values()}
        assert ready == {other.sha256 for other in others}
        outcome = await job
        assert outcome.results == (1,)
        await until(lambda: not made._retired)

    bench.run(work)


def test_zygote_that_is_killed_loses_no_job(bench: ZygoteBench) -> None:
    """Jobs in its children are failures of the sandbox, to be retried; the others go on."""
    module = bench.module('(func (export "run") (result i32) (i32.const 7))')

    def held() -> int:
        bench.settle()
        return descriptors() - 2 * len(bench.fork_server._idle)

    before = held()

    async def work(executor: LocalExecutor) -> list[Outcome | BaseException]:
        call = Call("run", AN_I32)
        await in_zygote(executor, module, call, LIMITS, 1)
        (zygote,) = of(executor)._ready.values()
        assert zygote._process is not None
        workers = asyncio.Semaphore(4)

        async def run() -> Outcome:
            async with workers:
                return await executor.run(module, call, LIMITS)

        jobs = [asyncio.create_task(run()) for _ in range(30)]
        await until(jobs[3].done)
        os.kill(zygote._process.pid, signal.SIGKILL)
        outcomes = await asyncio.gather(*jobs, return_exceptions=True)
        await until(lambda: not of(executor)._ready)
        again = await executor.run(module, call, LIMITS)
        assert again.results == (7,)
        return outcomes

    outcomes = bench.run(work)
    assert all(isinstance(one, SandboxError) or _is_seven(one) for one in outcomes)
    assert sum(_is_seven(one) for one in outcomes) > 15
    assert held() == before


def _is_seven(one: Outcome | BaseException) -> bool:
    return isinstance(one, Outcome) and one.results == (7,)


@pytest.mark.parametrize(
    "text",
    [
        '(func $s (nop)) (start $s) (func (export "run") (result i32) (i32.const 7))',
        YIELD + '(func $s (nop)) (start $s) (func (export "run") (result i32) (i32.const 7))',
    ],
)
def test_module_with_a_start_function_has_no_zygote(bench: ZygoteBench, text: str) -> None:
    """The function would run in the zygote, without the limits of a job."""
    module = bench.module(text)

    async def work(executor: LocalExecutor) -> None:
        for _ in range(5):
            outcome = await executor.run(module, Call("run", AN_I32), LIMITS)
            assert outcome.results == (7,)
            await settled(executor)
            assert not of(executor)._seen

    bench.run(work)


def test_module_with_a_hidden_start_function_fails_only_its_own_jobs(
    bench: ZygoteBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hidden by a compiler that was taken over: the zygote never starts, and is tried once."""
    text = '(func $s (loop (br 0))) (start $s) (func (export "run") (result i32) (i32.const 7))'
    module = bench.module(text)
    summary = msgspec.structs.replace(module.summary, has_start=False)
    secretive = CompiledModule(module.sha256, module.options, summary, os.dup(module.fd))
    other = bench.module('(func (export "run") (result i32) (i32.const 7))')
    monkeypatch.setattr(zygote_pool, "_TIMEOUT_SECONDS", 0.2)
    short = Limits(timeout_sec=0.1, memory_mb=16)

    async def work(executor: LocalExecutor) -> None:
        for _ in range(4):
            outcome = await executor.run(secretive, Call("run", AN_I32), short)
            assert outcome.code is Code.TIMEOUT
            await settled(executor)
        assert not of(executor)._ready
        outcome = await executor.run(other, Call("run", AN_I32), LIMITS)
        assert outcome.results == (7,)
        await until(lambda: below(_server(bench)) == set(bench.fork_server._alive))

    bench.run(work)


@pytest.mark.parametrize(
    "signature", [AN_I32, FunctionType(("i64",), ("i64",)), NOTHING], ids=["i32", "i64", "none"]
)
def test_function_of_another_type_than_the_call_traps(
    bench: ZygoteBench, signature: FunctionType
) -> None:
    """The compiler that reported the type may have been taken over."""
    module = bench.module('(func (export "run") (param i64 i64 i64) (result i64) (local.get 2))')
    call = Call("run", signature, (1,) * len(signature.params))
    outcomes = bench.run(lambda executor: in_zygote(executor, module, call, LIMITS, 2))
    assert [one.code for one in outcomes] == [Code.TRAP] * 2


def test_initializer_with_results_traps(bench: ZygoteBench) -> None:
    """As it does without a zygote."""
    results = "(result i64 i64 i64 i64)"
    text = f"""(func (export "_initialize") {results}
        (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4))
      (func (export "run") (result i32) (i32.const 7))"""
    module, call = bench.module(text), Call("run", AN_I32)
    outcomes = bench.run(lambda executor: in_zygote(executor, module, call, LIMITS, 2))
    assert [one.code for one in outcomes] == [Code.TRAP] * 2
    assert bench.alone(module, call).code is Code.TRAP
