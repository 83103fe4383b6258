"""Run a job to its outcome: read its input, get its module, run it, repeat failed attempts.

A slot of the executor is held for the run alone.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import structlog
from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, wait_random_exponential

from wasmdrop.jobs.call_building import build_call, check_files
from wasmdrop.jobs.entrypoint import plan
from wasmdrop.jobs.executor import Executor
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.jobs.module_lookup import ModuleLookup, Scheduler
from wasmdrop.jobs.work_table import Work, WorkTable
from wasmdrop.protocol.errors import RefusedError, SandboxError, StorageError
from wasmdrop.protocol.input import InputSpec, grants_for, limits_for, parse_input
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.slot import PinnedModule, top_directory
from wasmdrop.protocol.text import bounded_text
from wasmdrop.sandbox.host.attempt import Attempt
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule
from wasmdrop.sandbox.wire import EngineOptions
from wasmdrop.settings import Settings
from wasmdrop.system.full_disks import is_of_full_disk
from wasmdrop.unixfs.cid import raw_cid
from wasmdrop.unixfs.profiles import DEFAULT_PROFILE

_log = structlog.get_logger()

#: Characters of a job's message that its log line shows; the results have all of it.
_LOGGED_REASON: Final = 500

#: Pauses before further attempts, in seconds: the first one, then random ones up to the longest.
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 10

#: How often a job that waits for disk space is tried, in seconds.
_FULL_DISK_PAUSE_SECONDS: Final = 1.0

_T = TypeVar("_T")

#: Refusals that mean that a module dropped without an input needs one: no result is owed then.
_NEEDS_INPUT: Final = frozenset(
    {Code.INVALID_ARGS, Code.ENTRY_NOT_FOUND, Code.UNSUPPORTED_SIGNATURE}
)


class NothingOwedError(Exception):
    """A module that was dropped alone can't run without an input."""


class _Ready(NamedTuple):
    """What an attempt runs."""

    module: CompiledModule
    call: Call
    limits: Limits


class JobRunner:
    """Runs jobs by way of an executor; used from one event loop."""

    def __init__(
        self,
        settings: Settings,
        table: WorkTable,
        journal: Journal,
        lookup: ModuleLookup,
        executor: Executor,
        metrics: Metrics,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._table = table
        self._journal = journal
        self._lookup = lookup
        self._executor = executor
        self._metrics = metrics
        self._sleep = sleep

    async def run(self, work: Work, scheduler: Scheduler) -> Outcome:
        """Run the active job ``work`` and return its outcome.

        Raises ``NothingOwedError``; ``ModuleAwaitedError`` if ``scheduler`` resumes it later.
        """
        most = self._settings.attempts
        if work.job.attempt >= most:
            return Outcome(
                code=Code.CRASHED,
                message=f"given up after {work.job.attempt} attempts; the last one failed, or the"
                " daemon ended during it",
            )

        def is_repeated(result: Outcome) -> bool:
            job = self._table.current(work).job
            # One attempt in a fleet may count as several.
            return result.code.retried and job.attempt < most and job.end is None

        outcome = await self._attempt(work, scheduler)
        if not is_repeated(outcome):
            return outcome

        async def attempt_again() -> Outcome:
            current = self._table.current(work)
            if current.job.state is not JobState.QUEUED:
                current = self._table.move(current, JobState.QUEUED)
            return await self._attempt(current, scheduler)

        await self._sleep(_FIRST_PAUSE_SECONDS)
        last: Any = await AsyncRetrying(
            sleep=self._sleep,
            retry=retry_if_result(is_repeated),
            wait=wait_random_exponential(multiplier=0.2, max=_LONGEST_PAUSE_SECONDS),
            stop=stop_after_attempt(most - self._table.current(work).job.attempt),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else outcome,
        )(attempt_again)
        return last if isinstance(last, Outcome) else outcome

    async def end(self, work: Work) -> Outcome:
        """Return the outcome of a job whose end was decided before it had another one."""
        job, end = work.job, work.job.end
        assert end is not None  # noqa: S101 - the caller checks it
        run_seconds = 0.0
        if job.state is JobState.RUNNING and job.started_at_ns is not None:
            run_seconds = max(0, time.time_ns() - job.started_at_ns) / 1e9
        if work.spec is None and not work.is_large:
            with contextlib.suppress(RefusedError):
                await self._spec(work)  # the results echo the entry and the arguments
        return Outcome(
            code=end.code,
            message=bounded_text(end.message),
            run_seconds=run_seconds,
            compile_seconds=work.compile_seconds,
        )

    @property
    def capacity(self) -> int:
        """Jobs that may run at a time."""
        return self._executor.capacity

    def cancel(self, job: Job) -> None:
        """Have the executor revoke a job whose task is about to be interrupted."""
        self._executor.cancel(job.id)

    def stop_waiting(self, slot_key: str) -> bool:
        """End the wait of a slot's job for its module; see :meth:`ModuleLookup.stop_waiting`."""
        return self._lookup.stop_waiting(slot_key)

    def leave(self, job: Job) -> None:
        """Have the executor forget a job that left the table."""
        self._executor.leave(job.id)

    async def module_cid(self, module: PinnedModule) -> str | None:
        """Return the content id of a job's module; None if it can't be known.

        That happens if the module is large, and the module cache lost its copy in an earlier run.
        """
        if module.size_bytes <= DEFAULT_PROFILE.chunk_bytes:
            return _cid_of_block(module.sha256)
        return await self._executor.module_cid(module.sha256)

    async def _attempt(self, work: Work, scheduler: Scheduler) -> Outcome:
        try:
            ready = await self._with_room(
                work, lambda: self._prepare(self._table.current(work), scheduler)
            )
        except RefusedError as refusal:
            return await self._refused(self._table.current(work), refusal)
        except (OSError, SandboxError, StorageError) as error:
            return self._count_failure(self._table.current(work), error)
        attempt = Attempt(
            job_id=work.job.id,
            number=self._table.current(work).job.attempt + 1,
            is_resumed=work.is_resumed,
            directory=top_directory(work.slot_key),
        )
        explain = functools.partial(self._journal.explain, work.job)
        async with self._executor.slot(ready.module, ready.call, attempt, explain) as slot:
            work = self._table.begin_attempt(work, time.time_ns(), is_remote=slot.is_remote)
            begun = work.begun
            assert begun is not None  # noqa: S101 - the attempt has just begun
            if work.is_resumed:
                # If this job crashes the daemon, the next daemon must see the attempt.
                await begun
            self._metrics.running += 1
            try:
                run = functools.partial(slot.run, *ready)
                # A remote run answers only once, and its answer may be the part without room.
                outcome = await (run() if slot.is_remote else self._with_room(work, run))
            except SandboxError as error:
                outcome = Outcome(code=Code.INTERNAL, message=str(error))
            finally:
                self._metrics.running -= 1
        if outcome.attempts > 1:
            count = work.job.attempt + outcome.attempts - 1
            work = self._table.evolve(work, job=msgspec.structs.replace(work.job, attempt=count))
        if outcome.code.retried:
            await begun
            self._note_failure(work.job, outcome.message)
        return msgspec.structs.replace(outcome, compile_seconds=work.compile_seconds)

    async def _with_room(self, work: Work, step: Callable[[], Awaitable[_T]]) -> _T:
        """Return the result of ``step``; repeat it while the disk of the state directory is full.

        That does not count as attempts: a job must not fail because it came at the wrong time.
        """
        is_logged = False
        while True:
            try:
                return await step()
            except (OSError, SandboxError, StorageError) as error:
                if not is_of_full_disk(error):
                    raise
                if not is_logged:
                    _log.warning("job-waits-for-space", **ids_of(work.job), message=str(error))
                    self._journal.explain(work.job, f"waits for disk space: {error}")
                is_logged = True
            await self._sleep(_FULL_DISK_PAUSE_SECONDS)

    async def _prepare(self, work: Work, scheduler: Scheduler) -> _Ready:
        """Read the input, get the module and fit one to the other. Raises ``RefusedError``."""
        settings, table = self._settings, self._table
        spec = await self._spec(work)
        if spec.deterministic:
            # First, so that the results of a job whose limits are refused are reproducible, too.
            work = table.evolve(work, is_deterministic=True)
        limits = limits_for(spec, settings.limits)
        grants = grants_for(spec, settings.grants)
        options = EngineOptions(limits.fuel is not None, spec.deterministic)
        work = table.evolve(work, limits=limits)
        module = self._lookup.in_memory(work, options)
        if module is not None:
            self._metrics.module_hits += 1
        else:
            reference = spec.module
            if work.is_large:
                del spec  # it would be in memory for as long as the module takes
                work = table.evolve(work, spec=None)
            module = await self._lookup.compiled(work, reference, options, scheduler)
            spec = await self._spec(table.current(work))
        check_files(spec, module.summary, limits)
        call = plan(module.summary, spec.entry, spec.args, settings)
        table.evolve(work, plan=call)
        return _Ready(module, build_call(call, spec, grants), limits)

    async def _refused(self, work: Work, refusal: RefusedError) -> Outcome:
        if not work.owes_result and refusal.code in _NEEDS_INPUT:
            raise NothingOwedError(refusal.message) from None
        if work.spec is None and work.refusal is None:
            with contextlib.suppress(RefusedError):
                await self._spec(work)  # the results echo the entry and the arguments
        return Outcome(
            code=refusal.code,
            message=bounded_text(refusal.message),
            compile_seconds=work.compile_seconds,
        )

    def _count_failure(self, work: Work, error: Exception) -> Outcome:
        """Count an attempt that failed before there was anything to run."""
        job = msgspec.structs.replace(work.job, attempt=work.job.attempt + 1)
        self._table.evolve(work, job=job)
        self._note_failure(job, str(error))
        return Outcome(code=Code.INTERNAL, message=str(error))

    def _note_failure(self, job: Job, message: str) -> None:
        _log.warning("attempt-failed", **ids_of(job), message=message)
        self._journal.explain(
            job, f"attempt {job.attempt} of {self._settings.attempts} failed: {message}"
        )

    async def _spec(self, work: Work) -> InputSpec:
        """Return the parsed input. Raises ``RefusedError`` if it is invalid."""
        if work.refusal is not None:
            raise work.refusal
        if work.job.input is not None and work.job.input.refusal is not None:
            raise RefusedError(Code.INVALID_INPUT, work.job.input.refusal)
        if work.spec is not None:
            return work.spec
        data = await self._journal.load_input(work.job)
        if data is None:
            spec = InputSpec()
        elif work.is_large:
            spec = await asyncio.to_thread(parse_input, data)
        else:
            spec = parse_input(data)
        self._table.evolve(work, spec=spec)
        return spec


#: Few modules have most jobs.
_cid_of_block: Final = functools.lru_cache(maxsize=256)(raw_cid)


def ids_of(job: Job) -> dict[str, Any]:
    """Return the fields by which log lines identify a job."""
    return {"job": job.id, "slot": job.slot.key, "attempt": job.attempt}


def log_finished(job: Job) -> None:
    """Log the line of a finished job; a failed one as a warning with the reason."""
    code = job.code or Code.INTERNAL
    seconds = ((job.finished_at_ns or 0) - job.dropped_at_ns) / 1e9
    known = {**ids_of(job), "code": code, "seconds": round(seconds, 6)}
    # The reason of a failed attempt is in the line of the attempt.
    if job.message and not code.retried:
        known["reason"] = bounded_text(job.message.partition("\n")[0], _LOGGED_REASON)
    (_log.info if code is Code.OK else _log.warning)("job-finished", **known)
