"""Execution: from an accepted job to its outcome.

Waits for the job's module, has it compiled, runs it, and runs it again where that may help. A
worker is held for the run alone.
"""

import asyncio
import contextlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog
from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, wait_random_exponential

from wasmdrop.delivery.delivery import Delivery
from wasmdrop.intake.intake import Intake
from wasmdrop.intake.layout import MODULE_NAME, Layout
from wasmdrop.intake.module_finder import DIGEST_PREFIX, ModuleFinder
from wasmdrop.jobs.entrypoint import Plan, plan
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.jobs.module_waits import ModuleWaits
from wasmdrop.protocol.errors import RefusedError, SandboxError, StorageError
from wasmdrop.protocol.input import InputSpec, content_bytes, grants_for, limits_for, parse_input
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import ModuleSummary
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.slot import FileVersion, PinnedModule, Slot
from wasmdrop.protocol.text import bounded_text
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.executor import Executor
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule
from wasmdrop.sandbox.wire import PROGRAM_NAME, EngineOptions
from wasmdrop.settings import Settings
from wasmdrop.system.mount_threads import MountThreads

__all__ = [
    "JobRunner",
    "ModuleAwaitedError",
    "NothingOwedError",
    "Stages",
    "Work",
    "ids_of",
    "is_large",
    "log_finished",
]

_log = structlog.get_logger()

#: How much of a job's message its line in the log shows, in characters; results have all of it.
_LOGGED_REASON: Final = 500

#: Inputs up to this size stay in memory while their job waits; others are read from the journal.
_KEPT_INPUT_BYTES: Final = 4096

#: How long a look for a module may take before its job makes room for others, in seconds.
_SLOW_LOOK_SECONDS: Final = 0.5

#: Slots of which the version that they ran last is in memory, too: more than have a job that is
#: not written yet.
_RECENT_SLOTS: Final = 4096

#: What a module that was dropped without an input may lack, and then owes nobody a result.
_NEEDS_INPUT: Final = frozenset(
    {Code.INVALID_ARGS, Code.ENTRY_NOT_FOUND, Code.UNSUPPORTED_SIGNATURE}
)


@dataclass(frozen=True)
class Stages:
    """The stages that the dispatcher calls."""

    layout: Layout
    intake: Intake
    modules: ModuleFinder
    journal: Journal
    executor: Executor
    delivery: Delivery
    metrics: Metrics


@dataclass(slots=True)
class Work:
    """A job on its way, with what is needed of it in memory."""

    job: Job
    accepted: "asyncio.Future[None] | None" = None
    spec: InputSpec | None = None
    refusal: RefusedError | None = None
    is_resumed: bool = False
    """Whether an earlier daemon left it, perhaps because it did not survive it."""
    owes_result: bool = True
    """False for a module that was dropped alone and may turn out to need an input."""
    compile_seconds: float = 0.0
    limits: Limits | None = None
    is_deterministic: bool = False
    plan: Plan | None = None
    begun: "asyncio.Future[None] | None" = None
    """Done when the journal holds the attempt durably."""
    deadline: float | None = None
    """When its module must be there, by the loop's clock; None if it was there at first."""
    incomplete: tuple[FileVersion, float] | None = None
    """A version of its module that is invalid, and when that was seen first."""
    next: "Work | None" = None
    """The job behind it in its slot."""


class NothingOwedError(Exception):
    """A module that was dropped alone can't run without an input."""


class ModuleAwaitedError(Exception):
    """A job's module is not there yet."""


class JobRunner:
    """Finds outcomes.

    ``aside`` makes room for other jobs while one has its module looked for or compiled, and holds
    no large input. ``on_woken``: called with a job for which :meth:`outcome_of` raised
    ``ModuleAwaitedError``, when it is to be called again.
    """

    def __init__(
        self,
        settings: Settings,
        stages: Stages,
        aside: Callable[[Work], AbstractContextManager[None]],
        on_woken: Callable[[Work], None],
    ) -> None:
        self._settings = settings
        self._stages = stages
        self._aside = aside
        self._workers = asyncio.Semaphore(settings.workers)
        self._waits: ModuleWaits[Work] = ModuleWaits(on_woken)
        """Jobs that wait for their module, by the paths or the digest that it may come at."""
        self._recent: OrderedDict[str, FileVersion] = OrderedDict()
        self._mount_threads = MountThreads()
        self._is_stopping = False

    def wake(self, path: str, sha256: str | None) -> None:
        """Let every job look again that waits for the module at ``path``, or of this digest."""
        self._waits.wake((path, f"{DIGEST_PREFIX}{sha256}"))

    def stop(self) -> None:
        """Leave every job that waits for its module as it is."""
        self._is_stopping = True
        self._waits.close()

    def close(self) -> None:
        """Let go of what was opened."""
        self._mount_threads.close()

    def has_run(self, slot: Slot, version: FileVersion) -> bool:
        """Whether the slot is known to have run this version of its module a moment ago.

        The journal knows of all slots, but only what was written.
        """
        return self._recent.get(slot.key) == version

    async def outcome_of(self, work: Work) -> Outcome:
        """Run the job, again where that may help, and return its outcome.

        Raises ``NothingOwedError``, and ``ModuleAwaitedError`` for a job whose module is not there
        yet: nothing of it is under way then.
        """
        if work.job.attempt >= self._settings.attempts:
            return Outcome(
                code=Code.CRASHED,
                message=f"given up after {work.job.attempt} attempts, the last of which ended with"
                " the daemon itself",
            )
        outcome = await self._attempt(work)
        if not outcome.code.retried:
            return outcome
        left = self._settings.attempts - work.job.attempt

        async def again() -> Outcome:
            if work.job.state is not JobState.QUEUED:
                work.job = self._stages.journal.move_lazily(work.job, JobState.QUEUED)
            return await self._attempt(work)

        if left <= 0:
            return outcome
        await asyncio.sleep(0.1)
        last: Any = await AsyncRetrying(
            retry=retry_if_result(lambda result: result.code.retried),
            wait=wait_random_exponential(multiplier=0.2, max=10),
            stop=stop_after_attempt(left),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else outcome,
        )(again)
        return last if isinstance(last, Outcome) else outcome

    async def _attempt(self, work: Work) -> Outcome:
        settings = self._settings
        try:
            spec = await self._spec(work)
            work.limits = limits = limits_for(spec, settings.limits)
            grants = grants_for(spec, settings.grants)
            options = EngineOptions(limits.fuel is not None, spec.deterministic)
            module = self._at_hand(work, options)
            if module is None:
                reference = spec.module
                if is_large(work):
                    del spec  # it would be in memory for as long as the module takes
                    work.spec = None
                module = await self._compiled(work, reference, options)
                spec = await self._spec(work)
            work.is_deterministic = spec.deterministic
            _check_files(spec, module.summary, limits)
            work.plan = call = plan(module.summary, spec.entry, spec.args, settings)
        except RefusedError as refusal:
            if not work.owes_result and refusal.code in _NEEDS_INPUT:
                raise NothingOwedError(refusal.message) from None
            if work.spec is None and work.refusal is None:
                with contextlib.suppress(RefusedError):
                    await self._spec(work)  # results echo what was to be called
            return Outcome(
                code=refusal.code,
                message=bounded_text(refusal.message),
                compile_seconds=work.compile_seconds,
            )
        except (OSError, SandboxError, StorageError) as error:
            return self._count_failure(work, error)
        async with self._workers:
            work.job, work.begun = self._stages.journal.begin(
                work.job,
                attempt=work.job.attempt + 1,
                started_at_ns=time.time_ns(),
            )
            if work.is_resumed:
                # Should it be this job that takes the daemon down, the next one must know of it.
                await work.begun
            self._stages.metrics.running += 1
            try:
                outcome = await self._stages.executor.run(module, _call(call, spec, grants), limits)
            except SandboxError as error:
                outcome = Outcome(code=Code.INTERNAL, message=str(error))
            finally:
                self._stages.metrics.running -= 1
        if outcome.code.retried:
            await work.begun
            self._note_failure(work, outcome.message)
        return msgspec.structs.replace(outcome, compile_seconds=work.compile_seconds)

    def _count_failure(self, work: Work, error: Exception) -> Outcome:
        """Count an attempt that failed before there was anything to run."""
        work.job = msgspec.structs.replace(work.job, attempt=work.job.attempt + 1)
        self._note_failure(work, str(error))
        return Outcome(code=Code.INTERNAL, message=str(error))

    def _note_failure(self, work: Work, message: str) -> None:
        _log.warning("attempt-failed", **ids_of(work.job), message=message)
        self._stages.journal.explain(
            work.job, f"attempt {work.job.attempt} of {self._settings.attempts} failed: {message}"
        )

    async def _spec(self, work: Work) -> InputSpec:
        """Return what the input says. Raises ``RefusedError`` where it says nothing."""
        if work.refusal is not None:
            raise work.refusal
        if work.job.input is not None and work.job.input.refusal is not None:
            raise RefusedError(Code.INVALID_INPUT, work.job.input.refusal)
        if work.spec is None:
            data = await self._stages.journal.load_input(work.job)
            if data is None:
                work.spec = InputSpec()
            elif is_large(work):
                work.spec = await asyncio.to_thread(parse_input, data)
            else:
                work.spec = parse_input(data)
        return work.spec

    def _at_hand(self, work: Work, options: EngineOptions) -> CompiledModule | None:
        """Return the job's module if it is known and compiled."""
        if work.job.module is None:
            return None
        found = self._stages.executor.compiled(work.job.module.sha256, options)
        if found is not None:
            self._stages.metrics.module_hits += 1
            self._note_module(work)
        return found

    async def _compiled(
        self, work: Work, reference: str | None, options: EngineOptions
    ) -> CompiledModule:
        """Return the job's module, compiled, however long that takes to come about.

        Raises ``RefusedError`` and ``ModuleAwaitedError``.
        """
        executor = self._stages.executor
        if work.job.module is None:
            await self._find_module(work, reference)
        self._note_module(work)
        with self._aside(work):
            while True:
                pinned = work.job.module
                assert pinned is not None  # noqa: S101 - set just above
                found = executor.compiled(pinned.sha256, options)
                if found is not None:
                    return found
                if work.job.state is not JobState.COMPILING:
                    work.job = self._stages.journal.move_lazily(work.job, JobState.COMPILING)
                started = time.perf_counter()
                try:
                    return await executor.compile(
                        pinned.sha256,
                        options,
                        lambda words: self._say(work, words),
                        # One turn for all directories that an owner may have made in his own.
                        work.job.slot.key.rpartition("/")[0].partition("/")[0],
                    )
                except RefusedError as refusal:
                    if not await self._has_changed(work, reference, refusal, pinned):
                        raise
                finally:
                    work.compile_seconds += time.perf_counter() - started

    def _say(self, work: Work, words: str) -> None:
        """Note for people what a job that is COMPILING waits for."""
        if work.job.state is JobState.COMPILING:
            self._stages.journal.explain(work.job, words)

    def _note_module(self, work: Work) -> None:
        """Remember which version of a module the slot runs, where a drop of it matters."""
        pinned, slot = work.job.module, work.job.slot
        if pinned is not None and pinned.version is not None:
            own = f"{os.path.dirname(slot.input_path)}/{MODULE_NAME}"  # noqa: PTH120
            if slot.is_root or pinned.path == own:
                self._recent[slot.key] = pinned.version
                self._recent.move_to_end(slot.key)
                if len(self._recent) > _RECENT_SLOTS:
                    self._recent.popitem(last=False)

    async def _find_module(self, work: Work, reference: str | None) -> None:
        """Pin the job's module.

        Raises ``ModuleAwaitedError`` if it is not there yet, ``RefusedError`` when it did not come.
        """
        loop = asyncio.get_running_loop()
        seconds = self._settings.module_wait_sec
        if work.deadline is None:
            work.deadline = loop.time() + seconds
        slot, keys = work.job.slot, self._wake_keys(work.job.slot, reference)
        while True:
            wait = self._waits.watch(work, keys, work.deadline)
            try:
                pinned = await self._look(work, reference)
                if pinned is not None:
                    work.job = msgspec.structs.replace(work.job, module=pinned)
                    return
                if loop.time() >= work.deadline:
                    raise RefusedError(Code.MODULE_MISSING, self._missing(slot, reference, seconds))
                if self._is_stopping:
                    raise asyncio.CancelledError
                if work.job.state is not JobState.WAITING:
                    work.job = self._stages.journal.move_lazily(work.job, JobState.WAITING)
                    places = self._places(slot, reference)
                    self._stages.journal.explain(work.job, f"its module is not there yet: {places}")
            except BaseException:
                self._waits.call_off(wait)
                raise
            if self._waits.park(wait):
                raise ModuleAwaitedError

    async def _look(self, work: Work, reference: str | None) -> PinnedModule | None:
        """Look for the job's module; others have room meanwhile if that takes long."""
        looking = asyncio.ensure_future(self._find(work.job.slot, reference))
        await asyncio.wait([looking], timeout=_SLOW_LOOK_SECONDS)
        if looking.done():
            return looking.result()
        with self._aside(work):
            return await looking

    async def _find(self, slot: Slot, reference: str | None) -> PinnedModule | None:
        path = slot.input_path if reference is None else self._stages.layout.wasm_dir
        return await self._mount_threads.run(path, self._stages.modules.find, slot, reference)

    def _wake_keys(self, slot: Slot, reference: str | None) -> list[str]:
        if reference is not None and reference.startswith(DIGEST_PREFIX):
            return [reference.lower()]
        return [place.path for place in self._stages.layout.module_places(slot, reference)]

    def _missing(self, slot: Slot, reference: str | None, seconds: float) -> str:
        if reference is not None and reference.startswith(DIGEST_PREFIX):
            return f"no module of that digest was seen before: {reference}"
        places = self._places(slot, reference)
        return f"no module appeared within {seconds:g} s; looked for {places}"

    def _places(self, slot: Slot, reference: str | None) -> str:
        if reference is not None and reference.startswith(DIGEST_PREFIX):
            return reference
        places = self._stages.layout.module_places(slot, reference)
        return " and ".join(place.path for place in places)

    async def _has_changed(
        self, work: Work, reference: str | None, refusal: RefusedError, pinned: PinnedModule
    ) -> bool:
        """Whether a file that is no module became another one while it was left in peace.

        Also where its copy had to make room before it was compiled, and could be made again.
        """
        if pinned.version is None:
            return False
        if refusal.code is Code.MODULE_MISSING:
            again = await self._find(work.job.slot, reference)
            return again is not None and again.sha256 == pinned.sha256
        if refusal.code is not Code.INVALID_MODULE:
            return False
        await asyncio.sleep(self._settings.settle_sec)
        return await self._is_completed(work, reference, pinned)

    async def _is_completed(self, work: Work, reference: str | None, pinned: PinnedModule) -> bool:
        """Return whether there is another module now.

        Raises ``ModuleAwaitedError`` while this one is being written, for at most as long after its
        last change as a job waits for a module.
        """
        loop = asyncio.get_running_loop()
        seconds = self._settings.module_wait_sec
        keys = self._wake_keys(work.job.slot, reference)
        wait = self._waits.watch(work, keys, loop.time() + seconds)
        try:
            now = await self._find(work.job.slot, reference)
            is_other = now is not None and now.sha256 != pinned.sha256
            if now is None or not (is_other or await self._is_being_written(work, now)):
                return False
            work.job = msgspec.structs.replace(work.job, module=now)
            self._note_module(work)
            if is_other:
                return True
            if self._is_stopping:
                raise asyncio.CancelledError
            awaiting = self._stages.journal.move_lazily(work.job, JobState.WAITING)
            self._stages.journal.explain(
                awaiting, f"its module is not complete yet, a process is writing it: {now.path}"
            )
            if self._waits.park(wait):
                work.job = msgspec.structs.replace(awaiting, module=None)
                work.deadline = None
                raise ModuleAwaitedError
            work.job = awaiting
            return True
        finally:
            if not wait.is_parked:
                self._waits.call_off(wait)

    async def _is_being_written(self, work: Work, module: PinnedModule) -> bool:
        assert module.version is not None  # noqa: S101 - it was found as a file
        now, seconds = asyncio.get_running_loop().time(), self._settings.module_wait_sec
        if work.incomplete is None or work.incomplete[0] != module.version:
            work.incomplete = module.version, now
        if now - work.incomplete[1] >= seconds:
            return False
        return await self._mount_threads.run(
            module.path, self._stages.intake.is_module_written, module.path, module.version, seconds
        )


def is_large(work: Work) -> bool:
    """Whether the job's input is not kept in memory while the job waits."""
    return work.job.input is not None and work.job.input.copied_bytes > _KEPT_INPUT_BYTES


def _check_files(spec: InputSpec, summary: ModuleSummary, limits: Limits) -> None:
    """Refuse files that the module could not look at, and those that are more than it may have."""
    for key, items in (("files", spec.files), ("grants", spec.grants)):
        if items and not summary.wants_files:
            raise RefusedError(
                Code.INVALID_INPUT,
                f"$.{key}: the module imports no function of WASI that could open them",
            )
    size_bytes = sum(len(content_bytes(content)) for content in spec.files.values())
    if size_bytes > limits.disk_bytes:
        raise RefusedError(
            Code.INVALID_INPUT,
            f"$.files: {size_bytes} bytes are more than the job's directory may hold"
            f" ({limits.disk_bytes})",
        )


def _call(chosen: Plan, spec: InputSpec, grants: dict[str, str]) -> Call:
    return Call(
        entry=chosen.entry,
        signature=chosen.signature,
        args=chosen.bits,
        argv=(PROGRAM_NAME, *(chosen.argv or ())),
        is_command=chosen.argv is not None,
        component=chosen.component,
        env=dict(spec.env or {}),
        stdin=b"" if spec.stdin is None else content_bytes(spec.stdin),
        files={path: content_bytes(content) for path, content in spec.files.items()},
        grants=grants,
    )


def ids_of(job: Job) -> dict[str, Any]:
    """Return what a log line says of a job."""
    return {"job": job.id, "slot": job.slot.key, "attempt": job.attempt}


def log_finished(job: Job) -> None:
    """Log the one line of a job; where it failed, as a warning that says why."""
    code = job.code or Code.INTERNAL
    seconds = ((job.finished_at_ns or 0) - job.dropped_at_ns) / 1e9
    known = {**ids_of(job), "code": code, "seconds": round(seconds, 6)}
    # What a failed attempt met is in the line of the attempt.
    if job.message and not code.retried:
        known["reason"] = bounded_text(job.message.partition("\n")[0], _LOGGED_REASON)
    (_log.info if code is Code.OK else _log.warning)("job-finished", **known)
