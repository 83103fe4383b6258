"""The journal: every accepted job and its state, in SQLite, and the only one that moves a job.

Writes are handed to one thread, which puts all that has gathered into one transaction: jobs that
come together share a sync. A future returned here is done when its write is durable. Moves that
only inform (``lazy``) wait a moment for a transaction to ride in.

No statement that runs for each job or event reads more rows than it returns or changes, but for a
constant: the journal's size makes nothing slower. Large results that can't be delivered now are
files beside the journal, so that its thread is not kept from other jobs' writes.

Where the disk is full or failing, the thread tries again until it succeeds: callers wait, nothing
is lost, and nothing that is not durable is ever published.
"""

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.awaited_modules import KeyRange
from wasmdrop.jobs.journal.batch import Accepted, Entry, Moved, Operation, Remembered, perform
from wasmdrop.jobs.journal.database import FINAL, decode_job, open_for_writing
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import FileVersion
from wasmdrop.protocol.text import bounded_text
from wasmdrop.system.durable_files import make_directory_durably, write_durably
from wasmdrop.system.heartbeat import Heartbeat
from wasmdrop.system.processes import use_batch_scheduling

__all__ = ["Journal", "OpenJob", "Trimmed"]

_log = structlog.get_logger()

#: How long a move that only informs waits for company, in seconds.
_LAZY_SECONDS: Final = 0.05

#: While many jobs wait, a transaction waits for what is asked for in so many turns of the loop, but
#: for so many naps of so many seconds at most. It takes a core for as long whatever it writes.
_ENOUGH: Final = 16
_MOST_NAPS: Final = 5
_NAP_SECONDS: Final = 0.003

#: Rows and pages that one step of housekeeping takes: some milliseconds, then others have a turn.
_ROWS_AT_ONCE: Final = 200
_PAGES_AT_ONCE: Final = 256

#: Open jobs that are read at a time, at the start: a megabyte or two, while no job waits for more.
_OPEN_AT_ONCE: Final = 1000

#: Free pages that stay in the file, to be written again: this many, or a quarter of all.
_SPARE_PAGES: Final = 1024


#: Results up to this size, in bytes, are kept in the row of their job, larger ones in a file.
_RESULTS_IN_ROW_BYTES: Final = 16 * 1024

_OF_THE_MODULE: Final = "({})".format(", ".join(f"'{c}'" for c in Code if c.of_the_module))

#: The part of the journal's bound past which the inputs of finished jobs go.
_INPUTS_GO_AT: Final = 0.75


class OpenJob(NamedTuple):
    """A job that is not final."""

    seq: int
    """Its place in the order of acceptance."""
    job: Job
    kept_bytes: int | None
    """Size of its results, if they could not be delivered and were kept; with output files."""
    kept_output: str | None
    """Where its output files lie; empty if there are none, None if that is not known."""


class Trimmed(NamedTuple):
    """What one step of :meth:`Journal.trim` removed."""

    inputs: int = 0
    jobs: int = 0


class _Request(NamedTuple):
    what: Entry | Operation
    future: "asyncio.Future[Any] | None" = None


class Journal:
    """The journal in ``path``. Opened once, by one daemon; used from its event loop.

    ``is_busy`` says whether so many jobs wait that a moment more makes no difference to them.
    """

    def __init__(self, path: Path, is_busy: Callable[[], bool] = lambda: False) -> None:
        self.heartbeat = Heartbeat()
        self.path = path
        self._results = path.with_name("undelivered")
        self._is_busy = is_busy
        self._connection = open_for_writing(path)
        found = self._connection.execute("SELECT max(changed_ns) FROM jobs").fetchone()
        self._changed_ns: int = found[0] or 0
        self._loop = asyncio.get_running_loop()
        self.failure: asyncio.Future[str] = self._loop.create_future()
        """Done, with the reason, where the file can't be used any more: it was damaged."""
        self._requests: queue.SimpleQueue[list[_Request] | None] = queue.SimpleQueue()
        self._gathered: list[_Request] = []
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def open_jobs(self, after_seq: int = 0) -> "asyncio.Future[list[OpenJob]]":
        """Return the first jobs after that place that are not final, in the order of their drops.

        A thousand at a time: the last one's place is where to go on.
        """
        query = f"""
            SELECT seq, job, kept_bytes, kept_output FROM jobs
            WHERE state NOT IN {FINAL} AND seq > ? ORDER BY seq LIMIT {_OPEN_AT_ONCE}
            """  # noqa: S608 - constants

        def read(connection: sqlite3.Connection) -> list[OpenJob]:
            return [_open_job(row) for row in connection.execute(query, (after_seq,))]

        return self._submit(read)

    def accept(
        self, job: Job, data: bytes | None, taken: dict[str, bytes]
    ) -> "asyncio.Future[None]":
        """Record a new job, its input as it was read, and the versions that caused it."""
        return self._submit(Accepted(job, data, taken, self._tick()))

    def remember(self, taken: dict[str, bytes]) -> None:
        """Record versions that were taken and made no job."""
        self._submit_lazily(Remembered(taken))

    def forget(self, path: str) -> None:
        """Forget which version of a file that exists no more was taken."""
        row = (os.fsencode(path),)

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM taken WHERE path = ?", row)
            connection.execute("DELETE FROM awaiting WHERE path = ?", row)

        self._submit_lazily(write)

    def move(self, job: Job, state: JobState, **changes: Any) -> "tuple[Job, asyncio.Future[None]]":
        """Move ``job`` to ``state``; return the moved job and when that is durable.

        Raises ``IllegalMoveError``.
        """
        moved = job.moved(state, **changes)
        return moved, self._submit(Moved(moved, self._tick()))

    def move_lazily(self, job: Job, state: JobState, **changes: Any) -> Job:
        """Move ``job`` where nothing is lost if the daemon ends before that is written."""
        moved = job.moved(state, **changes)
        self._submit_lazily(Moved(moved, self._tick()))
        return moved

    def begin(self, job: Job, **changes: Any) -> "tuple[Job, asyncio.Future[None]]":
        """Move ``job`` to RUNNING as :meth:`move` does, and begin to write at once.

        The caller is about to give the core to the job, whose results wait for this.
        """
        begun = self.move(job, JobState.RUNNING, **changes)
        if not self._is_busy():
            self._hand_over()
        return begun

    def explain(self, job: Job, note: str) -> None:
        """Note for people why ``job`` stays in its state; its next move takes the note away."""
        self._submit_lazily(_explain(job, note, self._tick()))

    async def keep_package(self, job: Job, package: ResultPackage, note: str) -> None:
        """Record results that can't be delivered now, durably, and in ``note`` why."""
        data: bytes | None = msgspec.msgpack.encode(package)
        assert data is not None  # noqa: S101 - it was just made
        output = os.fsencode(package.output.root) if package.output else b""
        size_bytes = len(data) + _output_bytes(package)
        if len(data) > _RESULTS_IN_ROW_BYTES:
            try:
                await asyncio.to_thread(self._write_results, job.id, data)
                data = None
            except OSError as error:
                # Into its row, then: that waits until the disk has room.
                _log.warning(
                    "results-file-write-failed", job=job.id, slot=job.slot.key, error=str(error)
                )
        explain = _explain(job, note, self._tick())
        row = (data, size_bytes, output, job.id)

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE jobs SET package = ?, kept_bytes = ?, kept_output = ? WHERE id = ?", row
            )
            explain(connection)

        await self._submit(write)

    async def load_package(self, job: Job) -> ResultPackage | None:
        """Return the results that were kept for ``job``, if any were and are whole."""

        def read(connection: sqlite3.Connection) -> tuple[bytes | None, int | None] | None:
            query = "SELECT package, kept_bytes FROM jobs WHERE id = ?"
            found: tuple[bytes | None, int | None] | None
            found = connection.execute(query, (job.id,)).fetchone()
            return found

        found = await self._submit(read)
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
        """Forget that results were kept for ``job``, which is to run again."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE jobs SET package = NULL, kept_bytes = NULL, kept_output = NULL"
                " WHERE id = ?",
                (job.id,),
            )

        return self._submit(write)

    def remove_results(self, job_id: str) -> None:
        """Remove the file of the kept results of a job that needs them no more. Blocks."""
        (self._results / job_id).unlink(missing_ok=True)

    def sweep_results(self, kept: Collection[str]) -> None:
        """Remove all files of kept results but those of these jobs. Blocks."""
        with contextlib.suppress(FileNotFoundError):
            for path in self._results.iterdir():
                if path.name not in kept:
                    self.remove_results(path.name)

    def _write_results(self, job_id: str, data: bytes) -> None:
        make_directory_durably(self._results, 0o700)
        with write_durably(self._results / job_id) as file:
            file.write(data)

    def load_job(self, job_id: str) -> "asyncio.Future[OpenJob]":
        """Return the job of this id as it is now; there must be one."""
        query = "SELECT seq, job, kept_bytes, kept_output FROM jobs WHERE id = ?"

        def read(connection: sqlite3.Connection) -> OpenJob:
            return _open_job(connection.execute(query, (job_id,)).fetchone())

        return self._submit(read)

    def load_input(self, job: Job) -> "asyncio.Future[bytes | None]":
        """Return the input of ``job`` as it was read."""

        def read(connection: sqlite3.Connection) -> bytes | None:
            found = connection.execute("SELECT input FROM jobs WHERE id = ?", (job.id,)).fetchone()
            return None if found is None else found[0]

        return self._submit(read)

    def awaiting(
        self, keys: KeyRange, after: tuple[bytes, str] | None, limit: int
    ) -> "asyncio.Future[list[tuple[bytes, str]]]":
        """Return which inputs' latest jobs failed because of the modules of these keys.

        Gives at most ``limit`` pairs of a key and the input's path, in their order, those that come
        ``after`` a pair: the last one is where to go on.
        """
        key, path = after or (keys.first, "")
        values = (key, os.fsencode(path), keys.end, limit)
        # One that went back to be run again has no such code when it is done.
        query = f"""
            SELECT a.module, a.path FROM awaiting AS a LEFT JOIN jobs AS j ON j.id = a.job
            WHERE (a.module, a.path) > (?, ?) AND a.module < ?
            AND (j.id IS NULL OR j.code IN {_OF_THE_MODULE})
            ORDER BY a.module, a.path LIMIT ?
            """  # noqa: S608 - constants

        def read(connection: sqlite3.Connection) -> list[tuple[bytes, str]]:
            rows = connection.execute(query, values)
            return [(found_key, os.fsdecode(found)) for found_key, found in rows]

        return self._submit(read)

    def last_module(self, slot_key: str) -> "asyncio.Future[FileVersion | None]":
        """Return the version of the module that the latest job of a slot has, if it has one."""
        query = "SELECT job FROM jobs WHERE slot = ? ORDER BY seq DESC LIMIT 1"

        def read(connection: sqlite3.Connection) -> FileVersion | None:
            found = connection.execute(query, (os.fsencode(slot_key),)).fetchone()
            module = None if found is None else decode_job(found[0]).module
            return None if module is None else module.version

        return self._submit(read)

    def prune(self, before_ns: int) -> "asyncio.Future[int]":
        """Remove final jobs that changed last before that time; return how many went.

        Removes some hundred at a time, the oldest first: call it again until none went.
        """
        query = f"""
            DELETE FROM jobs WHERE seq IN (
                SELECT seq FROM jobs WHERE state IN {FINAL} AND changed_ns < ?
                ORDER BY changed_ns LIMIT {_ROWS_AT_ONCE}
            )"""  # noqa: S608 - constants

        def remove(connection: sqlite3.Connection) -> int:
            return connection.execute(query, (before_ns,)).rowcount

        return self._submit(remove)

    def trim(self, max_bytes: int) -> "asyncio.Future[Trimmed]":
        """Remove what is oldest of finished jobs while the journal holds more than ``max_bytes``.

        First the inputs that were kept of them, past three quarters of that; then the jobs. Some
        hundred at a time: call it again until nothing went. Open jobs stay, however many.
        """
        oldest = f"ORDER BY changed_ns LIMIT {_ROWS_AT_ONCE}"
        drop_inputs = f"""
            UPDATE jobs SET input = NULL WHERE seq IN (
                SELECT seq FROM jobs WHERE state IN {FINAL} AND input IS NOT NULL {oldest}
            )"""  # noqa: S608 - constants
        drop_jobs = f"""
            DELETE FROM jobs WHERE seq IN (SELECT seq FROM jobs WHERE state IN {FINAL} {oldest})
            """  # noqa: S608 - constants

        def remove(connection: sqlite3.Connection) -> Trimmed:
            held_bytes = _held_bytes(connection)
            inputs = jobs = 0
            if held_bytes > max_bytes * _INPUTS_GO_AT:
                inputs = connection.execute(drop_inputs).rowcount
            if held_bytes > max_bytes and not inputs:
                jobs = connection.execute(drop_jobs).rowcount
            return Trimmed(inputs, jobs)

        return self._submit(remove)

    def shrink(self) -> "asyncio.Future[int]":
        """Give free pages beyond what is soon used again back to the filesystem; return how many.

        Gives some hundred at a time: call it again until none went.
        """

        def free(connection: sqlite3.Connection) -> int:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            (free_pages,) = connection.execute("PRAGMA freelist_count").fetchone()
            surplus: int = min(_PAGES_AT_ONCE, free_pages - max(_SPARE_PAGES, pages // 4))
            for _ in range(surplus):
                # One at a time: Python steps through such a statement once, whatever it is told.
                connection.execute("PRAGMA incremental_vacuum(1)")
            return max(0, surplus)

        return self._submit(free)

    def fail(self, reason: str) -> None:
        """Say, from any thread, that the file can't be used any more."""
        self._loop.call_soon_threadsafe(self._fail, reason)

    def _fail(self, reason: str) -> None:
        if not self.failure.done():
            self.failure.set_result(f"{self.path}: {reason}")

    def ping(self) -> None:
        """Ask the thread for a sign of life: to find nothing in what it is handed."""
        self._requests.put([])

    async def close(self) -> None:
        """Write what has gathered and close the file."""
        self._hand_over()
        self._requests.put(None)
        await asyncio.to_thread(self._thread.join)
        self._connection.close()

    def _tick(self) -> int:
        """Return the time in nanoseconds since 1970, later than ever before, whatever the clock."""
        self._changed_ns = max(time.time_ns(), self._changed_ns + 1)
        return self._changed_ns

    def _submit(self, what: Entry | Operation) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = self._loop.create_future()
        self._gather(_Request(what, future))
        return future

    def _submit_lazily(self, what: Entry | Operation) -> None:
        self._gather(_Request(what))

    def _gather(self, request: _Request) -> None:
        """Hand over what one turn of the loop asks for together.

        Two turns, in fact: a drop's acceptance in the first and its start in the second then share
        a transaction, and so a sync.
        """
        self._gathered.append(request)
        if len(self._gathered) == 1:
            self._loop.call_soon(self._loop.call_soon, self._hand_over)

    def _hand_over(self) -> None:
        if self._gathered:
            self._requests.put(self._gathered)
            self._gathered = []

    def _write(self) -> None:
        use_batch_scheduling()
        try:
            self._write_until_closed()
        except Exception as error:  # noqa: BLE001 - else nobody would hear of it
            self.fail(str(error))

    def _write_until_closed(self) -> None:
        ending = False
        while not ending:
            batch, ending = self._collect()
            self.heartbeat.beat()
            if batch:
                self._commit(batch)

    def _collect(self) -> tuple[list[_Request], bool]:
        """Wait for something worth a transaction and return all that is there with it."""
        batch: list[_Request] = []
        deadline: float | None = None
        urgent = False
        while True:
            try:
                if urgent:
                    requests = self._requests.get_nowait()
                else:
                    timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
                    requests = self._requests.get(timeout=timeout)
            except queue.Empty:
                return batch, False
            if requests is None:
                return batch, True
            batch += requests
            if not urgent and any(request.future is not None for request in requests):
                urgent = True
                if self._is_busy():
                    self._let_gather()
            deadline = deadline or time.monotonic() + _LAZY_SECONDS

    def _let_gather(self) -> None:
        """Wait for what others are about to ask for: no job of many is the sooner done alone."""
        for _ in range(_MOST_NAPS):
            time.sleep(_NAP_SECONDS)
            if self._requests.qsize() >= _ENOUGH:
                return

    def _commit(self, batch: list[_Request]) -> None:
        for attempt in Retrying(
            retry=retry_if_exception(_is_passing),
            wait=wait_random_exponential(multiplier=0.05, max=5),
            before_sleep=self._complain,
        ):
            with attempt:
                results = self._try_to_commit([request.what for request in batch])
        answers = [
            (request.future, result)
            for request, result in zip(batch, results, strict=True)
            if request.future is not None
        ]
        if answers:
            self._loop.call_soon_threadsafe(_answer, answers)

    def _complain(self, state: RetryCallState) -> None:
        self.heartbeat.beat()  # a full disk is no reason to start the daemon again
        _log.error("journal-commit-failed", path=str(self.path), error=str(_error_of(state)))

    def _try_to_commit(self, work: list[Entry | Operation]) -> list[Any]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            results = perform(connection, work)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return results


def _open_job(row: tuple[int, str, int | None, bytes | None]) -> OpenJob:
    seq, text, kept_bytes, output = row
    return OpenJob(
        seq, decode_job(text), kept_bytes, None if output is None else os.fsdecode(output)
    )


def _held_bytes(connection: sqlite3.Connection) -> int:
    """Return how large the file is without its free pages; all three are in its first page."""
    values = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_size", "page_count", "freelist_count")
    )
    page_bytes, pages, free_pages = values
    return int(page_bytes * (pages - free_pages))


def _output_bytes(package: ResultPackage) -> int:
    return sum(file.size_bytes for file in package.output.files) if package.output else 0


def _is_passing(error: BaseException) -> bool:
    # Full disks, I/O errors and locks are operational; a wrong statement is a ProgrammingError.
    return isinstance(error, sqlite3.OperationalError)


def _error_of(state: Any) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _answer(answers: "list[tuple[asyncio.Future[Any], Any]]") -> None:
    for future, result in answers:
        if not future.done():
            future.set_result(result)


def _explain(job: Job, note: str, changed_ns: int) -> Operation:
    shown = bounded_text(note)

    def write(connection: sqlite3.Connection) -> None:
        connection.execute(
            "UPDATE jobs SET note = ?, changed_ns = ? WHERE id = ? AND note IS NOT ?",
            (shown, changed_ns, job.id, shown),
        )

    return write
