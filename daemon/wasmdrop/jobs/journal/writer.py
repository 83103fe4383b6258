"""The journal: every accepted job and its state, in SQLite. Only the journal moves a job.

One thread writes; see :mod:`.commit_thread`. A future returned here is done when its write is
durable. Lazy writes only inform: nothing is lost if the daemon ends before they are written. Large
results that can't be delivered are files beside the journal, so that they delay no other write.
"""

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.jobs.job import DecidedEnd, Job, JobState
from wasmdrop.jobs.journal import statements
from wasmdrop.jobs.journal.awaited_modules import KeyRange
from wasmdrop.jobs.journal.batch import Accepted, Moved, Operation, Remembered
from wasmdrop.jobs.journal.commit_thread import CommitThread
from wasmdrop.jobs.journal.database import open_for_writing
from wasmdrop.jobs.journal.event_queue import EventQueue
from wasmdrop.jobs.journal.statements import OpenJob, Trimmed
from wasmdrop.protocol.slot import FileVersion
from wasmdrop.system.durable_files import make_directory_durably, write_durably
from wasmdrop.system.heartbeat import Heartbeat

_log = structlog.get_logger()

#: Results up to this size, in bytes, are kept in the row of their job, larger ones in a file.
_RESULTS_IN_ROW_BYTES: Final = 16 * 1024


class Journal:
    """The journal in ``path``, opened by one daemon; used from its event loop.

    ``is_busy``: see :class:`CommitThread`. ``records_events``: whether there is a completion hook.
    """

    def __init__(
        self,
        path: Path,
        is_busy: Callable[[], bool] = lambda: False,
        *,
        records_events: bool = False,
    ) -> None:
        self.path = path
        self._results = path.with_name("undelivered")
        self._is_busy = is_busy
        connection = open_for_writing(path)
        found = connection.execute("SELECT max(changed_ns) FROM jobs").fetchone()
        self._changed_ns: int = found[0] or 0
        self._thread = CommitThread(connection, path, is_busy)
        self.events = EventQueue(connection, self._thread, is_busy) if records_events else None
        """The events for the completion hook; None without one."""

    @property
    def heartbeat(self) -> Heartbeat:
        """The commit thread's heartbeat."""
        return self._thread.heartbeat

    @property
    def failure(self) -> "asyncio.Future[str]":
        """Done, with the reason, when the file can't be used any more."""
        return self._thread.failure

    @property
    def problem(self) -> str:
        """Why writes fail now and are retried; empty if they do not. Readable from any thread."""
        return self._thread.problem

    def fail(self, reason: str) -> None:
        """Report, from any thread, that the file can't be used any more."""
        self._thread.fail(reason)

    def ping(self) -> None:
        """Request a heartbeat."""
        self._thread.ping()

    async def close(self) -> None:
        """Write all pending requests and close the file."""
        await self._thread.close()

    # Jobs

    def accept(
        self, job: Job, data: bytes | None, taken: dict[str, bytes]
    ) -> "asyncio.Future[None]":
        """Record a new job, its input as it was read, and the versions that caused it."""
        return self._thread.submit(Accepted(job, data, taken, self._tick()))

    def move(self, job: Job, state: JobState, **changes: Any) -> "tuple[Job, asyncio.Future[None]]":
        """Move ``job`` to ``state``; return the moved job and when that is durable.

        Raises ``IllegalMoveError``.
        """
        moved = job.moved(state, **changes)
        return moved, self._thread.submit(Moved(moved, self._tick()))

    def move_lazily(self, job: Job, state: JobState, **changes: Any) -> Job:
        """Move ``job`` as :meth:`move` does, but lazily."""
        moved = job.moved(state, **changes)
        self._thread.submit_lazily(Moved(moved, self._tick()))
        return moved

    def close_lazily(self, job: Job, marker: bytes) -> Job:
        """Move ``job`` to DELIVERED lazily: its results and this marker are in place.

        If there is a completion hook, its event is recorded in the same transaction. A job whose
        move is not written before the daemon ends is closed at the next start, by its marker.
        """
        closed = self._closed(job, marker)
        self._thread.submit_lazily(closed)
        return closed.job

    def close_job(self, job: Job, marker: bytes) -> "tuple[Job, asyncio.Future[None]]":
        """Move ``job`` as :meth:`close_lazily` does; return also when that is durable."""
        closed = self._closed(job, marker)
        return closed.job, self._thread.submit(closed)

    def begin(self, job: Job, **changes: Any) -> "tuple[Job, asyncio.Future[None]]":
        """Move ``job`` to RUNNING as :meth:`move` does, and begin to write at once.

        The caller is about to give the core to the job, whose results wait for this write.
        """
        begun = self.move(job, JobState.RUNNING, **changes)
        if not self._is_busy():
            self._thread.hand_over()
        return begun

    def end(self, job: Job, end: DecidedEnd) -> "tuple[Job, asyncio.Future[None]]":
        """Decide how ``job`` ends, in any state; return the new job and when that is durable."""
        ended = msgspec.structs.replace(job, end=end)
        return ended, self._thread.submit(Moved(ended, self._tick()))

    def explain(self, job: Job, note: str) -> None:
        """Note for people why ``job`` stays in its state; its next move removes the note."""
        self._thread.submit_lazily(self._explanation(job, note))

    def open_jobs(self, after_seq: int = 0) -> "asyncio.Future[list[OpenJob]]":
        """Return the first jobs after that place that are not final, in the order of their drops.

        Returns a thousand at a time: pass the last one's place to go on.
        """
        return self._thread.submit(partial(statements.open_jobs, after_seq=after_seq))

    def load_job(self, job_id: str) -> "asyncio.Future[OpenJob]":
        """Return the job of this id as it is now; there must be one."""
        return self._thread.submit(partial(statements.job_of, job_id=job_id))

    def latest_jobs(self, slot_keys: Sequence[str]) -> "asyncio.Future[dict[str, Job]]":
        """Return the latest job of each of these slots that has one, without discarded jobs."""
        return self._thread.submit(partial(statements.latest_jobs, slot_keys=slot_keys))

    def find_job(self, job_id: str) -> "asyncio.Future[Job | None]":
        """Return the job of this id as it is now; None if there is none."""
        return self._thread.submit(partial(statements.find_job, job_id=job_id))

    def load_input(self, job: Job) -> "asyncio.Future[bytes | None]":
        """Return the input of ``job`` as it was read."""
        return self._thread.submit(partial(statements.input_of, job_id=job.id))

    # Versions of files

    def remember(self, taken: dict[str, bytes]) -> None:
        """Record versions that were taken and made no job."""
        self._thread.submit_lazily(Remembered(taken))

    def forget(self, path: str) -> None:
        """Forget which version of a file that is gone was taken."""
        self._thread.submit_lazily(partial(statements.forget, path=path))

    def awaiting(
        self, keys: KeyRange, after: tuple[bytes, str] | None, limit: int
    ) -> "asyncio.Future[list[tuple[bytes, str]]]":
        """Return the inputs whose latest jobs failed because of the modules of these keys.

        Returns at most ``limit`` pairs of a key and the input's path, in order, that come
        ``after`` a pair: pass the last one to go on.
        """
        return self._thread.submit(
            partial(statements.awaiting, keys=keys, after=after, limit=limit)
        )

    def last_module(self, slot_key: str) -> "asyncio.Future[FileVersion | None]":
        """Return the version of the module of a slot's latest job."""
        return self._thread.submit(partial(statements.last_module, slot_key=slot_key))

    # Kept results

    async def keep_package(self, job: Job, package: ResultPackage, note: str) -> None:
        """Record results that can't be delivered now, durably, and in ``note`` why."""
        encoded = msgspec.msgpack.encode(package)
        data: bytes | None = encoded
        output = package.output
        output_bytes = sum(file.size_bytes for file in output.files) if output else 0
        if len(encoded) > _RESULTS_IN_ROW_BYTES:
            try:
                await asyncio.to_thread(self._write_results, job.id, encoded)
                data = None
            except OSError as error:
                # The row instead: its write waits until the disk has room.
                _log.warning(
                    "results-file-write-failed", job=job.id, slot=job.slot.key, error=str(error)
                )
        explain = self._explanation(job, note)
        root = os.fsencode(output.root) if output else b""
        row = (data, len(encoded) + output_bytes, root, job.id)

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE jobs SET package = ?, kept_bytes = ?, kept_output = ? WHERE id = ?", row
            )
            explain(connection)

        await self._thread.submit(write)

    async def load_package(self, job: Job) -> ResultPackage | None:
        """Return the results that were kept for ``job``, if any were and are whole."""
        found = await self._thread.submit(partial(statements.package_of, job_id=job.id))
        if found is None or found[1] is None:
            return None
        data: bytes | None = found[0]
        try:
            if data is None:
                data = await asyncio.to_thread((self._results / job.id).read_bytes)
            return msgspec.msgpack.decode(data, type=ResultPackage)
        except (FileNotFoundError, msgspec.DecodeError) as error:
            _log.warning("results-lost", job=job.id, slot=job.slot.key, error=str(error))
            return None

    def forget_package(self, job: Job) -> "asyncio.Future[None]":
        """Forget the results that were kept for ``job``, which is to be rerun."""
        return self._thread.submit(partial(statements.forget_package, job_id=job.id))

    def remove_results(self, job_id: str) -> None:
        """Remove the file of a job's kept results. Blocks."""
        (self._results / job_id).unlink(missing_ok=True)

    def sweep_results(self, kept: Collection[str]) -> None:
        """Remove all files of kept results except those of these jobs. Blocks."""
        with contextlib.suppress(FileNotFoundError):
            for path in self._results.iterdir():
                if path.name not in kept:
                    self.remove_results(path.name)

    # Retention

    def prune(self, before_ns: int) -> "asyncio.Future[int]":
        """Remove final jobs that changed last before that time; return how many.

        Removes some hundred at a time, the oldest first: call it until it removes none.
        """
        return self._thread.submit(partial(statements.prune, before_ns=before_ns))

    def trim(self, max_bytes: int) -> "asyncio.Future[Trimmed]":
        """Remove the oldest of finished jobs while the journal is larger than ``max_bytes``.

        First their inputs, past three quarters of that; then the jobs, and last the oldest events.
        Some hundred at a time: call it until it removes none. Open jobs stay, however many.
        """
        trimmed = self._thread.submit(partial(statements.trim, max_bytes=max_bytes))
        trimmed.add_done_callback(self._note_trimmed)
        return trimmed

    def shrink(self) -> "asyncio.Future[int]":
        """Return free pages beyond the spare ones to the filesystem; return how many.

        Some hundred at a time: call it until it returns none.
        """
        return self._thread.submit(statements.free_pages)

    def _closed(self, job: Job, marker: bytes) -> Moved:
        moved = job.moved(JobState.DELIVERED)
        if self.events is None:
            return Moved(moved, self._tick())
        self.events.note_recorded()
        return Moved(moved, self._tick(), marker)

    def _note_trimmed(self, trimmed: "asyncio.Future[Trimmed]") -> None:
        if self.events is not None and not trimmed.cancelled():
            self.events.note_trimmed(trimmed.result().events)

    def _write_results(self, job_id: str, data: bytes) -> None:
        make_directory_durably(self._results, 0o700)
        with write_durably(self._results / job_id) as file:
            file.write(data)

    def _explanation(self, job: Job, note: str) -> Operation:
        return partial(statements.explain, job_id=job.id, note=note, changed_ns=self._tick())

    def _tick(self) -> int:
        """Return the time in nanoseconds since 1970, later than ever before, whatever the clock."""
        self._changed_ns = max(time.time_ns(), self._changed_ns + 1)
        return self._changed_ns
