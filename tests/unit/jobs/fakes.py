"""Stand-ins for what the dispatcher and the runner talk to."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.jobs.job import DecidedEnd, Job, JobState
from wasmdrop.protocol.slot import InputFile, Slot


def slot(key: str) -> Slot:
    """Return the slot of an input below ``/shared``."""
    directory = f"/shared/{key}".rpartition("/")[0]
    return Slot(key, f"/shared/{key}", directory, "result")


def job(job_id: str, key: str = "input.json", **fields: Any) -> Job:
    """Return a job with a small input."""
    fields = {"input": InputFile(f"/shared/{key}", "", 2)} | fields
    return Job(job_id, slot(key), 1, **fields)


def done(result: Any = None) -> "asyncio.Future[Any]":
    """Return a future that is done."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_result(result)
    return future


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop run until a condition holds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the loop is what makes progress
            await asyncio.sleep(0)


class FakeJournal:
    """Keeps the latest state of each job in memory; its writes are durable when a test says so."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.notes: dict[str, str] = {}
        self.inputs: dict[str, bytes] = {}
        self.is_slow = False
        self.unwritten: list[asyncio.Future[None]] = []

    def accept(
        self, job: Job, data: bytes | None, _taken: dict[str, bytes]
    ) -> "asyncio.Future[None]":
        """Keep a job."""
        self.jobs[job.id] = job
        if data is not None:
            self.inputs[job.id] = data
        return self._write()

    def move(self, job: Job, state: JobState, **changes: Any) -> "tuple[Job, asyncio.Future[None]]":
        """Move a job as the journal does."""
        return self.move_lazily(job, state, **changes), self._write()

    def move_lazily(self, job: Job, state: JobState, **changes: Any) -> Job:
        """Move a job as the journal does."""
        self.jobs[job.id] = moved = job.moved(state, **changes)
        return moved

    def close_lazily(self, job: Job, _marker: bytes) -> Job:
        """Close a job as the journal does."""
        return self.move_lazily(job, JobState.DELIVERED)

    def begin(self, job: Job, **changes: Any) -> "tuple[Job, asyncio.Future[None]]":
        """Move a job to RUNNING."""
        return self.move(job, JobState.RUNNING, **changes)

    def end(self, job: Job, end: DecidedEnd) -> "tuple[Job, asyncio.Future[None]]":
        """Decide how a job ends."""
        self.jobs[job.id] = ended = msgspec.structs.replace(job, end=end)
        return ended, self._write()

    def explain(self, job: Job, note: str) -> None:
        """Keep the note."""
        self.notes[job.id] = note

    async def load_input(self, job: Job) -> bytes | None:
        """Return what was accepted."""
        return self.inputs.get(job.id)

    async def keep_package(self, _job: Job, _package: ResultPackage, _note: str) -> None:
        """Keep nothing."""

    def finish_writes(self) -> None:
        """Make all writes durable."""
        for future in self.unwritten:
            future.set_result(None)
        self.unwritten.clear()

    def _write(self) -> "asyncio.Future[None]":
        if not self.is_slow:
            return done()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.unwritten.append(future)
        return future
