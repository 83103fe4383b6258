"""Jobs by way of a template: what they may, what becomes of them, and when templates go.

Over the real forking server. Whatever is compared is compared with the same job by the other way.
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

#: Of :data:`LOOP`.
ENDLESS: Final = Call("run", AN_I32)


class ZygoteBench(Bench):
    """A bench of the real forking server, with templates and without."""

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
        """Do some work with an executor that has templates; they are gone in the end."""

        async def do() -> T:
            executor = LocalExecutor(
                self.pool, self.store, self.directories, self.compile_limits, zygote_idle=2
            )
            async with asyncio.timeout(60):
                try:
                    return await work(executor)
                finally:
                    executor.close()

        return self.runner.run(do())

    def alone(self, module: CompiledModule, call: Call, limits: Limits = LIMITS) -> Outcome:
        """Run a job without a template."""
        return self.runner.run(self.without.run(module, call, limits))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZygoteBench]:
    """Give one bench for all."""
    require_confinement()
    with asyncio.Runner() as runner:
        it = ZygoteBench(runner, tmp_path_factory.mktemp("templates"))
        yield it
        runner.run(it.pool.__aexit__(None, None, None))


def of(executor: LocalExecutor) -> zygote_pool.ZygotePool:
    """Return an executor's templates."""
    assert executor._zygotes is not None
    return executor._zygotes


async def until(look: Callable[[], object]) -> None:
    """Wait for something; the test ends where it never comes about."""
    while not look():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.002)


async def settled(executor: LocalExecutor) -> None:
    """Wait until it is known of all modules whether they have templates."""
    made = of(executor)._starting
    await until(lambda: not made)


async def in_template(
    executor: LocalExecutor, module: CompiledModule, call: Call, limits: Limits, times: int
) -> list[Outcome]:
    """Run a job so many times by way of a template, after the two times that it takes to have one.

    Fails where a process of the forking server took part.
    """
    for _ in range(2):
        await executor.run(module, call, limits)
    await settled(executor)
    assert [one._module is module for one in of(executor)._ready.values()][-1:] == [True]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor._fork_server, "take", None)
        return [await executor.run(module, call, limits) for _ in range(times)]


def comparable(outcome: Outcome) -> Outcome:
    """Return an outcome without the time that it took."""
    return msgspec.structs.replace(outcome, run_seconds=0.0, cpu_seconds=None)


@pytest.mark.parametrize("what", SAME)
def test_a_job_ends_as_it_does_without_a_template(bench: ZygoteBench, what: str) -> None:
    """Each of several in a row, whatever the ones before did to memory, globals and tables."""
    text, call, limits, options = SAME[what]
    module = bench.module(text, options)
    alone = comparable(bench.alone(module, call, limits))
    told = bench.run(lambda executor: in_template(executor, module, call, limits, 4))
    assert [comparable(one) for one in told] == [alone] * 4
    assert alone.code is not Code.INTERNAL


def test_no_two_jobs_get_the_same_random_numbers(bench: ZygoteBench) -> None:
    """A generator that was seeded before the fork would give them."""
    module = bench.module(RANDOM)
    call = Call("run", FunctionType((), ("i64",)))
    told = bench.run(lambda executor: in_template(executor, module, call, LIMITS, 6))
    assert len({one.results for one in told}) == 6


@contextlib.asynccontextmanager
async def running(
    executor: LocalExecutor, module: CompiledModule, limits: Limits, call: Call = ENDLESS
) -> AsyncIterator[tuple[asyncio.Task[Outcome], int]]:
    """Run a job that does not end by itself; give it and its process."""
    await until(lambda: not _busy(executor))
    job = asyncio.create_task(executor.run(module, call, limits))
    await until(lambda: _busy(executor))
    (pid,) = _busy(executor)
    # Once it computes, it has been confined.
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
    """Return the processes that jobs have."""
    families: list[Any] = [executor._fork_server]
    if executor._zygotes is not None:
        made = executor._zygotes
        families += [*made._ready.values(), *made._retired]
        templates_pids = {one._process.pid for one in families[1:]}
    else:
        templates_pids = set()
    return {
        child.pid
        for family in families
        for child in family._alive.values()
        if child not in family._idle and not child.is_closed and child.pid not in templates_pids
    }


def _ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[11])


def _open(pid: int) -> dict[int, str]:
    """Return what a process holds open."""
    held = Path(f"/proc/{pid}/fd").iterdir()
    return {int(path.name): path.readlink().name.partition(":")[0] for path in held}


#: What of a process's status says what it may do.
MAY: Final = {"Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "CapInh", "CapPrm", "CapEff"}
MAY_TOO: Final = {"CapBnd", "CapAmb", "SigBlk", "ShdPnd"}


def _bounds(pid: int) -> dict[str, str]:
    """Return the limits of a process, and what it may do."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in status)
    return {name: found[name].strip() for name in MAY | MAY_TOO if name in found} | {
        "limits": Path(f"/proc/{pid}/limits").read_text()
    }


@pytest.mark.parametrize(
    ("text", "call", "held"),
    [
        (LOOP, ENDLESS, 4),
        # With two for its output.
        (YIELD + LOOP, ENDLESS, 6),
        (
            YIELD + '(func (export "_start") (loop (br 0)))',
            Call("_start", NOTHING, is_command=True),
            6,
        ),
    ],
)
def test_a_job_has_the_bounds_that_it_has_without_a_template(
    bench: ZygoteBench, text: str, call: Call, held: int
) -> None:
    """The same limits, user and capabilities; no descriptor but its link and its order's."""
    module = bench.module(text)
    longer = Limits(timeout_sec=7, memory_mb=16)  # another limit than the zygote began with

    async def look(executor: LocalExecutor) -> tuple[dict[str, str], dict[int, str]]:
        async with running(executor, module, longer, call) as (_job, pid):
            return _bounds(pid), _open(pid)

    async def look_in_template(executor: LocalExecutor) -> tuple[dict[str, str], dict[int, str]]:
        for _ in range(2):
            await executor.run(module, call, Limits(timeout_sec=0.1, memory_mb=16))
        await settled(executor)
        (template,) = of(executor)._ready.values()
        await until(lambda: template._idle)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(executor._fork_server, "take", None)
            return await look(executor)

    alone, _descriptors = bench.runner.run(look(bench.without))
    told, descriptors_held = bench.run(look_in_template)
    assert told == alone
    assert sorted(descriptors_held) == list(range(held)), descriptors_held


def test_a_template_that_nobody_calls_goes_when_its_jobs_are_done(
    bench: ZygoteBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that runs on keeps it; then it goes, and nothing is left of it."""
    module = bench.module(LOOP)
    short = Limits(timeout_sec=0.1, memory_mb=16)
    monkeypatch.setattr(zygote_pool, "_CHECK_SECONDS", 0.01)

    async def work(executor: LocalExecutor) -> None:
        told = await in_template(executor, module, Call("run", AN_I32), short, 1)
        assert told[0].code is Code.TIMEOUT
        longer = Limits(timeout_sec=1, memory_mb=16)
        async with running(executor, module, longer) as (job, _pid):
            monkeypatch.setattr(zygote_pool, "_UNUSED_SECONDS", 0.0)
            assert (await job).code is Code.TIMEOUT
        made = of(executor)
        await until(lambda: not made._ready and not made._retired)
        await until(lambda: below(_server(bench)) == set(bench.pool._alive))

    bench.run(work)


def _server(bench: Bench) -> int:
    assert bench.pool._process is not None
    return bench.pool._process.pid


def test_of_too_many_templates_the_one_goes_that_was_called_least_lately(
    bench: ZygoteBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before a job that it runs has ended as it should."""
    monkeypatch.setattr(zygote_pool, "_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(zygote_pool, "_MAX_ZYGOTES", 2)
    first = bench.module(TURNS)
    others = [bench.module(f'(func (export "run") (result i32) (i32.const {n}))') for n in (5, 6)]
    long_call = Call("run", FunctionType(("i64",), ("i32",)), (200_000_000,))

    async def work(executor: LocalExecutor) -> None:
        made = of(executor)
        short_call = msgspec.structs.replace(long_call, args=(1,))
        await in_template(executor, first, short_call, LIMITS, 1)
        job = asyncio.create_task(executor.run(first, long_call, LIMITS))
        await until(lambda: _busy(executor))
        for number, other in zip((5, 6), others, strict=True):
            told = await in_template(executor, other, Call("run", AN_I32), LIMITS, 1)
            assert told[0].results == (number,)
        ready = {template._module.sha256 for template in made._ready.values()}
        assert ready == {other.sha256 for other in others}
        outcome = await job
        assert outcome.results == (1,)
        await until(lambda: not made._retired)

    bench.run(work)


def test_a_template_that_is_killed_loses_no_job(bench: ZygoteBench) -> None:
    """Those in its processes fail as the sandbox's own failure, to be run anew; others go on."""
    module = bench.module('(func (export "run") (result i32) (i32.const 7))')

    def held() -> int:
        bench.settle()
        return descriptors() - 2 * len(bench.pool._idle)

    before = held()

    async def work(executor: LocalExecutor) -> list[Outcome | BaseException]:
        call = Call("run", AN_I32)
        await in_template(executor, module, call, LIMITS, 1)
        (template,) = of(executor)._ready.values()
        assert template._process is not None
        jobs = [asyncio.create_task(executor.run(module, call, LIMITS)) for _ in range(30)]
        await until(jobs[3].done)
        os.kill(template._process.pid, signal.SIGKILL)
        told = await asyncio.gather(*jobs, return_exceptions=True)
        again = await executor.run(module, call, LIMITS)
        assert again.results == (7,)
        assert not of(executor)._ready
        return told

    told = bench.run(work)
    assert all(isinstance(one, SandboxError) or _is_seven(one) for one in told)
    assert sum(_is_seven(one) for one in told) > 15
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
def test_a_module_with_a_start_function_has_no_template(bench: ZygoteBench, text: str) -> None:
    """Which would run there, where no job's bounds are."""
    module = bench.module(text)

    async def work(executor: LocalExecutor) -> None:
        for _ in range(5):
            told = await executor.run(module, Call("run", AN_I32), LIMITS)
            assert told.results == (7,)
            await settled(executor)
            assert not of(executor)._seen

    bench.run(work)


def test_a_start_function_that_was_kept_secret_harms_its_own_jobs_alone(
    bench: ZygoteBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a compiler that broke out: its template is never made, and then not tried again."""
    text = '(func $s (loop (br 0))) (start $s) (func (export "run") (result i32) (i32.const 7))'
    module = bench.module(text)
    summary = msgspec.structs.replace(module.summary, has_start=False)
    secretive = CompiledModule(module.sha256, module.options, summary, os.dup(module.fd))
    other = bench.module('(func (export "run") (result i32) (i32.const 7))')
    monkeypatch.setattr(zygote_pool, "_TIMEOUT_SECONDS", 0.2)
    short = Limits(timeout_sec=0.1, memory_mb=16)

    async def work(executor: LocalExecutor) -> None:
        for _ in range(4):
            told = await executor.run(secretive, Call("run", AN_I32), short)
            assert told.code is Code.TIMEOUT
            await settled(executor)
        assert not of(executor)._ready
        told = await executor.run(other, Call("run", AN_I32), LIMITS)
        assert told.results == (7,)
        await until(lambda: below(_server(bench)) == set(bench.pool._alive))

    bench.run(work)


def test_a_function_of_another_type_than_was_said_has_no_template(bench: ZygoteBench) -> None:
    """A template calls without looking at types, so they are looked at when it is made."""
    text = '(func (export "run") (param i64 i64 i64) (result i64) (local.get 2))'
    module = bench.module(text)

    async def work(executor: LocalExecutor) -> None:
        for signature in (AN_I32, FunctionType(("i64",), ("i64",)), NOTHING):
            for _ in range(4):
                args = (1,) * len(signature.params)
                told = await executor.run(module, Call("run", signature, args), LIMITS)
                assert told.code is Code.TRAP
                await settled(executor)
            assert not of(executor)._ready

    bench.run(work)


def test_an_initializer_of_another_type_has_no_template_either(bench: ZygoteBench) -> None:
    """Anybody may write one, and its results would be more than there is room for."""
    results = "(result i64 i64 i64 i64)"
    text = f"""(func (export "_initialize") {results}
        (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4))
      (func (export "run") (result i32) (i32.const 7))"""
    module = bench.module(text)
    alone = bench.alone(module, Call("run", AN_I32))

    async def work(executor: LocalExecutor) -> None:
        for _ in range(4):
            told = await executor.run(module, Call("run", AN_I32), LIMITS)
            assert comparable(told) == comparable(alone)
            await settled(executor)
        assert not of(executor)._ready

    assert alone.code is Code.TRAP
    bench.run(work)
