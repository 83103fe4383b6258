"""A dispatcher whose runner, journal and delivery a test controls."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

from tests.unit.jobs.fakes import FakeJournal, done, job, slot, until
from wasmdrop import settings
from wasmdrop.delivery.delivery import Delivery
from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.intake.backlog import Backlog
from wasmdrop.intake.drops import InputDrop
from wasmdrop.jobs.dispatcher import Dispatcher
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.jobs.module_lookup import Scheduler
from wasmdrop.jobs.runner import JobRunner
from wasmdrop.jobs.work_table import Work, WorkTable
from wasmdrop.protocol.input import InputSpec
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.slot import InputFile, PinnedModule, Slot

OK = Outcome(code=Code.OK, results=(1,))


class FakePlacement:
    """Staged results."""

    def __init__(self, bench: "Bench", key: str, package: ResultPackage) -> None:
        self.package = package
        self.size_bytes = package.size_bytes
        self._bench = bench
        self._key = key

    def publish(self) -> "asyncio.Future[None]":
        """Publish, or fail."""
        self._bench.published.append(self._key)
        error = self._bench.errors.get(self._key)
        if error is None:
            return done()
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        failed.set_exception(error)
        return failed

    def hangs(self) -> bool:
        """Return that it does not."""
        return False

    def abandon(self) -> None:
        """Note it."""
        self._bench.abandoned.append(self._key)


class FakeRunner:
    """Begins attempts; a test ends them."""

    capacity = 2

    def __init__(self, bench: "Bench") -> None:
        self._bench = bench

    def leave(self, _job: Job) -> None:
        """Do nothing."""

    def cancel(self, job: Job) -> None:
        """Note it."""
        self._bench.revoked.append(job.id)
        self._bench.on_revoked()

    def stop_waiting(self, slot_key: str) -> bool:
        """End the wait for a module."""
        was_waiting = slot_key in self._bench.awaiting
        self._bench.awaiting.discard(slot_key)
        return was_waiting

    async def run(self, work: Work, _scheduler: Scheduler) -> Outcome:
        """Begin an attempt, and end it when the test does."""
        bench, job_id = self._bench, work.job.id
        bench.begun.append(job_id)
        if work.job.state is JobState.QUEUED:
            bench.table.begin_attempt(work, 2, is_remote=False)
        bench.outcomes[job_id] = asyncio.get_running_loop().create_future()
        return await bench.outcomes[job_id]

    async def end(self, work: Work) -> Outcome:
        """Return the end that was decided."""
        assert work.job.end is not None
        return Outcome(code=work.job.end.code, message=work.job.end.message)

    async def module_cid(self, module: PinnedModule) -> str | None:
        """Return the digest in place of a content id."""
        return f"cid of {module.sha256}"


class Bench:
    """A dispatcher whose runner, journal and delivery do what a test wants."""

    def __init__(self, **variables: str) -> None:
        variables = {"WASMDROP_MAX_QUEUED": "3"} | variables
        self.settings = settings.load(variables, {}).settings
        self.journal = FakeJournal()
        self.backlog = Backlog(3)
        self.metrics = Metrics()
        self.rooms = 0
        self.table = WorkTable(cast("Journal", self.journal))
        self.begun: list[str] = []
        self.outcomes: dict[str, asyncio.Future[Outcome]] = {}
        self.awaiting: set[str] = set()
        """Slots whose job waits for its module; a test adds them."""
        self.revoked: list[str] = []
        """Jobs that were revoked from other machines."""
        self.on_revoked: Callable[[], object] = lambda: None
        self.published: list[str] = []
        self.codes: dict[str, Code | None] = {}
        """The codes of the results that were staged last, by slot."""
        self.abandoned: list[str] = []
        self.errors: dict[str, OSError] = {}
        self.dispatcher = Dispatcher(
            self.settings,
            self.backlog,
            self.table,
            cast("JobRunner", FakeRunner(self)),
            cast("Journal", self.journal),
            cast("Delivery", self),
            self.metrics,
            self._on_room,
        )

    def _on_room(self) -> None:
        self.rooms += 1

    async def end(self, job_id: str, outcome: Outcome | Exception = OK) -> None:
        """End a run."""
        await until(lambda: job_id in self.outcomes)
        if isinstance(outcome, Exception):
            self.outcomes[job_id].set_exception(outcome)
        else:
            self.outcomes[job_id].set_result(outcome)

    # Delivery

    def stage(self, where: Slot, package: ResultPackage) -> FakePlacement:
        """Stage results."""
        self.codes[where.key] = json.loads(package.marker)["code"]
        return FakePlacement(self, where.key, package)

    def probe(self, _directory: str) -> "asyncio.Future[None]":
        """Wait for ever."""
        return asyncio.get_running_loop().create_future()

    # For tests

    def resume(self, *ids: str, key: str = "input.json") -> None:
        """Queue jobs of a slot."""
        for job_id in ids:
            self.journal.jobs[job_id] = job(job_id, key)
            self.dispatcher.resume_queued(self.journal.jobs[job_id])

    async def until_state(self, job_id: str, state: JobState) -> None:
        """Wait for a job to get there."""
        await until(lambda: self.journal.jobs[job_id].state is state)


def with_bench(use: Callable[[Bench], Awaitable[None]], **variables: str) -> None:
    """Use a bench with these settings."""

    async def run() -> None:
        bench = Bench(**variables)
        try:
            await use(bench)
        finally:
            await bench.dispatcher.drain(0)

    asyncio.run(run())


def drop(
    key: str, memory: Any = None, *, spec: InputSpec | None = None, size_bytes: int = 2
) -> InputDrop:
    """Return a drop of an input."""
    found = InputFile(f"/shared/{key}", "", size_bytes)
    return InputDrop(slot(key), 1, b"{}", found, spec, None, b"", memory=memory)
