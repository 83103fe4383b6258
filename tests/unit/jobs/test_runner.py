"""The rules of the runner: attempts, refusals, and what the results echo."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import pytest

from tests.unit.jobs.fakes import FakeJournal, job
from wasmdrop import settings
from wasmdrop.jobs.job import DecidedEnd, Job, JobState
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.jobs.module_lookup import ModuleLookup, Scheduler
from wasmdrop.jobs.runner import JobRunner, NothingOwedError
from wasmdrop.jobs.work_table import Work, WorkTable
from wasmdrop.protocol.errors import RefusedError, SandboxError
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import FunctionType, ModuleKind, ModuleSummary
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.slot import InputFile, PinnedModule
from wasmdrop.sandbox.host.attempt import Attempt
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule
from wasmdrop.sandbox.wire import EngineOptions
from wasmdrop.unixfs.cid import raw_cid
from wasmdrop.unixfs.profiles import DEFAULT_PROFILE

OK = Outcome(code=Code.OK, results=(3,))
CRASHED = Outcome(code=Code.CRASHED, message="killed by signal 11")
INPUT = b'{"entry":"add","args":[1,2]}'
SUMMARY = ModuleSummary(
    ModuleKind.LIBRARY, {"add": FunctionType(("i64", "i64"), ("i64",)), "nop": FunctionType()}
)


class FakeModule:
    """A compiled module without machine code."""

    summary = SUMMARY


class Bench:
    """A runner whose executor and module lookup do what a test wants."""

    def __init__(self) -> None:
        self.journal = FakeJournal()
        self.table = WorkTable(cast("Journal", self.journal))
        self.metrics = Metrics()
        self.ends: list[Outcome | Exception] = []
        """How the runs end, one after the other; then they succeed."""
        self.calls: list[Call] = []
        self.durable: list[bool] = []
        """For each run, whether its attempt was durable when it began."""
        self.pauses: list[float] = []
        self.lookup_errors: list[Exception] = []
        self.most_running = 0
        self.attempts: list[Attempt] = []
        self.slots = asyncio.Semaphore(2)
        self.on_run: Callable[[int], None] = lambda _number: None
        """Called with the number of each call."""
        self.runner = JobRunner(
            settings.load({"WASMDROP_WORKERS": "2", "WASMDROP_ATTEMPTS": "3"}, {}).settings,
            self.table,
            cast("Journal", self.journal),
            cast("ModuleLookup", self),
            self,
            self.metrics,
            self._pause,
        )

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    # The lookup

    def in_memory(self, _work: Work, _options: EngineOptions) -> CompiledModule | None:
        """Return None: the module is to be compiled."""
        return None

    # The executor; `compiled` serves as that of the lookup, too

    async def compile(self, *_arguments: Any) -> CompiledModule:
        """Never called: the lookup compiles."""
        raise NotImplementedError

    def compiled(self, work: Any, *_arguments: Any) -> Any:
        """Compile the module, or fail."""

        async def compile_module() -> CompiledModule:
            if self.lookup_errors:
                raise self.lookup_errors.pop(0)
            self.table.evolve(work, compile_seconds=work.compile_seconds + 1)
            return cast("CompiledModule", FakeModule())

        return compile_module()

    async def module_cid(self, sha256: str) -> str | None:
        """Return the digest in place of a content id."""
        return f"cid of {sha256}"

    capacity = 2
    is_remote = False

    @contextlib.asynccontextmanager
    async def slot(
        self, _module: CompiledModule, _call: Call, attempt: Attempt, _explain: Any
    ) -> AsyncIterator["Bench"]:
        """Wait for one of two slots."""
        async with self.slots:
            self.attempts.append(attempt)
            yield self

    def cancel(self, _job_id: str) -> None:
        """Never called: no job of these tests is cancelled."""
        raise NotImplementedError

    def leave(self, _job_id: str) -> None:
        """Do nothing."""

    async def run(self, _module: CompiledModule, call: Call, _limits: Limits) -> Outcome:
        """Run a call."""
        self.calls.append(call)
        self.on_run(len(self.calls))
        self.durable.append(not self.journal.unwritten)
        self.most_running = max(self.most_running, self.metrics.running)
        await asyncio.sleep(0)
        end = self.ends.pop(0) if self.ends else OK
        if isinstance(end, Exception):
            raise end
        return end

    # What a test does

    def begin(self, data: bytes | None = INPUT, key: str = "input.json", **fields: Any) -> Work:
        """Make a job the active one of its slot."""
        names = {"owes_result", "is_resumed"} & fields.keys()
        work_fields = {name: fields.pop(name) for name in names}
        one = job(f"job-{key}", key, **fields)
        _ = self.journal.accept(one, data, {})
        self.table.add(Work(one, **work_fields))
        return self.table.begin(key)

    async def outcome(self, work: Work) -> Outcome:
        """Run a job."""
        return await self.runner.run(work, cast("Scheduler", None))

    def job(self, work: Work) -> Job:
        """Return the job as it is now."""
        return self.table.current(work).job


def with_bench(use: Callable[[Bench], Awaitable[None]]) -> None:
    """Use a bench."""

    async def run() -> None:
        await use(Bench())

    asyncio.run(run())


def test_runner_success_takes_one_attempt() -> None:
    """The call has the input's entry and arguments; the outcome has the compile time."""

    async def use(bench: Bench) -> None:
        work = bench.begin()
        outcome = await bench.outcome(work)
        assert (outcome.code, outcome.compile_seconds) == (Code.OK, 1)
        assert [(call.entry, call.args) for call in bench.calls] == [("add", (1, 2))]
        current = bench.table.current(work)
        assert (current.job.state, current.job.attempt) == (JobState.RUNNING, 1)
        assert current.plan is not None
        assert current.plan.args == (1, 2)
        assert bench.metrics.running == 0

    with_bench(use)


@pytest.mark.parametrize("end", [CRASHED, SandboxError("no process")])
def test_runner_crash_is_repeated_until_success(end: Outcome | Exception) -> None:
    """Each attempt is counted and noted."""

    async def use(bench: Bench) -> None:
        bench.ends = [end, end]
        work = bench.begin()
        assert (await bench.outcome(work)).code is Code.OK
        assert bench.job(work).attempt == 3
        assert len(bench.pauses) == 2
        assert "attempt 2 of 3 failed" in bench.journal.notes[work.job.id]

    with_bench(use)


def test_runner_crash_in_all_attempts_is_the_outcome() -> None:
    """No attempt follows the last one."""

    async def use(bench: Bench) -> None:
        bench.ends = [CRASHED] * 4
        work = bench.begin()
        assert (await bench.outcome(work)).code is Code.CRASHED
        assert len(bench.calls) == bench.job(work).attempt == 3

    with_bench(use)


@pytest.mark.parametrize("before", [0, 1])
def test_runner_attempt_that_counts_as_several_uses_them_up(before: int) -> None:
    """So many workers of a fleet died running it, also after an attempt that was repeated."""

    async def use(bench: Bench) -> None:
        lost = Outcome(code=Code.CRASHED, attempts=3 - before)
        bench.ends = [*[CRASHED] * before, lost, OK, OK]
        work = bench.begin()
        assert (await bench.outcome(work)).code is Code.CRASHED
        assert len(bench.calls) == before + 1
        assert bench.table.current(work).job.attempt == 3

    with_bench(use)


@pytest.mark.parametrize("attempts", [1, 2])
def test_runner_failure_of_a_cancelled_job_is_not_repeated(attempts: int) -> None:
    """Its end was decided while the attempt ran."""
    ends: list[Outcome | Exception] = [CRASHED, SandboxError("no process"), CRASHED]

    async def use(bench: Bench) -> None:
        work = bench.begin()

        def end(number: int) -> None:
            if number == attempts:
                end = DecidedEnd(Code.CANCELLED, "a test")
                bench.table.end("input.json", end, lambda _job: True)

        bench.ends = ends[-attempts:]
        bench.on_run = end
        assert (await bench.outcome(work)).code.retried
        assert len(bench.calls) == attempts

    with_bench(use)


def test_runner_end_of_a_job_has_its_reason_and_echoes_a_small_input() -> None:
    """A large input is not read for that."""

    async def use(bench: Bench) -> None:
        end = DecidedEnd(Code.CANCELLED, "a test")
        work = bench.begin(end=end)
        outcome = await bench.runner.end(work)
        assert (outcome.code, outcome.message, outcome.run_seconds) == (end.code, end.message, 0)
        spec = bench.table.current(work).spec
        assert spec is not None
        assert spec.entry == "add"
        found = InputFile("/shared/large/input.json", "", 5000)
        large = bench.begin(key="large/input.json", input=found, end=end)
        assert (await bench.runner.end(large)).code is Code.CANCELLED
        assert bench.table.current(large).spec is None
        invalid = bench.begin(b"nope", "invalid/input.json", end=end)
        assert (await bench.runner.end(invalid)).code is Code.CANCELLED
        running = bench.begin(key="b/input.json", state=JobState.RUNNING, started_at_ns=1, end=end)
        assert (await bench.runner.end(running)).run_seconds > 0
        later = bench.begin(
            key="c/input.json", state=JobState.RUNNING, started_at_ns=2**62, end=end
        )
        assert (await bench.runner.end(later)).run_seconds == 0, "the clock was set back"
        assert bench.calls == []

    with_bench(use)


def test_runner_trap_is_not_repeated() -> None:
    """The program is at fault: it would end so again."""

    async def use(bench: Bench) -> None:
        bench.ends = [Outcome(code=Code.TRAP)]
        work = bench.begin()
        assert (await bench.outcome(work)).code is Code.TRAP
        assert (len(bench.calls), bench.pauses) == (1, [])

    with_bench(use)


def test_runner_resumed_job_keeps_its_attempts() -> None:
    """A job that crashed the daemon in its last attempt does not get another one."""

    async def use(bench: Bench) -> None:
        bench.ends = [CRASHED] * 3
        work = bench.begin(attempt=2)
        assert (await bench.outcome(work)).code is Code.CRASHED
        assert len(bench.calls) == 1
        work = bench.begin(key="other/input.json", attempt=3)
        outcome = await bench.outcome(work)
        assert outcome.code is Code.CRASHED
        assert "given up after 3 attempts" in outcome.message
        assert len(bench.calls) == 1

    with_bench(use)


@pytest.mark.parametrize("is_resumed", [True, False])
def test_runner_resumed_job_runs_after_its_attempt_is_durable(is_resumed: bool) -> None:
    """A new job does not wait: it has not crashed a daemon."""

    async def use(bench: Bench) -> None:
        work = bench.begin(is_resumed=is_resumed)
        bench.journal.is_slow = True
        running = asyncio.ensure_future(bench.outcome(work))
        for _ in range(100):
            await asyncio.sleep(0)
        assert bool(bench.calls) is not is_resumed
        bench.journal.finish_writes()
        await running
        assert bench.durable == [is_resumed]

    with_bench(use)


def test_runner_failure_before_the_run_counts_as_attempt() -> None:
    """A disk that fails for a moment does not fail the job; one that goes on failing does."""

    async def use(bench: Bench) -> None:
        bench.lookup_errors = [OSError("disk"), SandboxError("no process")]
        work = bench.begin()
        assert (await bench.outcome(work)).code is Code.OK
        assert bench.job(work).attempt == 3
        bench.lookup_errors = [OSError("disk")] * 3
        work = bench.begin(key="other/input.json")
        assert (await bench.outcome(work)).code is Code.INTERNAL
        assert bench.job(work).attempt == 3
        assert "attempt 3 of 3 failed: disk" in bench.journal.notes[work.job.id]

    with_bench(use)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"[]", Code.INVALID_INPUT),
        (b'{"entry":"sub"}', Code.ENTRY_NOT_FOUND),
        (b'{"entry":"add","args":[1]}', Code.INVALID_ARGS),
        (b'{"entry":"nop","files":{"a":"b"}}', Code.INVALID_INPUT),
    ],
)
def test_runner_bad_input_is_refused_without_an_attempt(data: bytes, code: Code) -> None:
    """The results echo what the input says."""

    async def use(bench: Bench) -> None:
        work = bench.begin(data)
        assert (await bench.outcome(work)).code is code
        assert (bench.job(work).attempt, bench.calls) == (0, [])
        spec = bench.table.current(work).spec
        assert (spec is None) is (data == b"[]")

    with_bench(use)


def test_runner_unread_input_is_refused_with_its_reason() -> None:
    """The journal has no copy of it."""

    async def use(bench: Bench) -> None:
        found = InputFile("/shared/input.json", None, None, refusal="no regular file")
        outcome = await bench.outcome(bench.begin(None, input=found))
        assert (outcome.code, outcome.message) == (Code.INVALID_INPUT, "no regular file")

    with_bench(use)


@pytest.mark.parametrize("owes_result", [True, False])
def test_runner_module_without_input_owes_no_refusal(owes_result: bool) -> None:
    """It was dropped alone, and needs arguments; with an input that is a failure."""

    async def use(bench: Bench) -> None:
        work = bench.begin(b'{"entry":"sub"}', owes_result=owes_result)
        if owes_result:
            assert (await bench.outcome(work)).code is Code.ENTRY_NOT_FOUND
        else:
            with pytest.raises(NothingOwedError):
                await bench.outcome(work)

    with_bench(use)


def test_runner_missing_module_is_a_refusal_for_a_module_without_input() -> None:
    """Only refusals that an input could prevent are owed to nobody."""

    async def use(bench: Bench) -> None:
        bench.lookup_errors = [RefusedError(Code.INVALID_MODULE, "no module")]
        work = bench.begin(owes_result=False)
        assert (await bench.outcome(work)).code is Code.INVALID_MODULE

    with_bench(use)


def test_runner_large_input_is_not_in_memory_while_its_module_compiles() -> None:
    """It is read from the journal again for the run."""

    async def use(bench: Bench) -> None:
        data = b'{"entry":"add","args":[1,2],"env":{"A":"%s"}}' % (b"x" * 5000)
        specs: list[object] = []
        compiled = bench.compiled

        def look(work: Work, *arguments: Any) -> Any:
            specs.append(bench.table.current(work).spec)
            return compiled(work, *arguments)

        bench.compiled = look  # type: ignore[method-assign]
        for key, text in (("large/input.json", data), ("small/input.json", INPUT)):
            found = InputFile(f"/shared/{key}", "", len(text))
            assert (await bench.outcome(bench.begin(text, key, input=found))).code is Code.OK
        assert [spec is None for spec in specs] == [True, False]

    with_bench(use)


def test_runner_runs_no_more_jobs_than_workers() -> None:
    """The others wait, and run in the end."""

    async def use(bench: Bench) -> None:
        works = [bench.begin(key=f"{number}/input.json") for number in range(6)]
        outcomes = await asyncio.gather(*map(bench.outcome, works))
        assert [outcome.code for outcome in outcomes] == [Code.OK] * 6
        assert bench.most_running == 2

    with_bench(use)


def test_runner_content_id_of_module_is_its_digest_unless_it_is_large() -> None:
    """That of a large one is asked of the executor, which has a copy."""

    async def use(bench: Bench) -> None:
        digest = "1" * 64
        block = DEFAULT_PROFILE.chunk_bytes
        assert await bench.runner.module_cid(PinnedModule("/m", digest, block)) == raw_cid(digest)
        large = PinnedModule("/m", digest, block + 1)
        assert await bench.runner.module_cid(large) == f"cid of {digest}"

    with_bench(use)
