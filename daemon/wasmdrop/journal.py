"""The journal: every accepted job and its state, in SQLite, and the only one that moves a job.

Writes are handed to one thread, which puts all that has gathered into one transaction: jobs that
come together share a sync. A future returned here is done when its write is durable. Moves that
only inform (``lazy``) wait a moment for a transaction to ride in.

Where the disk is full or failing, the thread tries again until it succeeds: callers wait, nothing
is lost, and nothing that is not durable is ever published.
"""

import asyncio
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from wasmdrop.entries import Accepted, Entry, Moved, Operation, Remembered, perform
from wasmdrop.errors import WasmdropError
from wasmdrop.job import MOVES, Job, JobState
from wasmdrop.metrics import Pulse
from wasmdrop.outcome import Code, bounded_text
from wasmdrop.report import Package
from wasmdrop.scheduling import wait_for_turn
from wasmdrop.schema import FINAL, decode_job, input_path_of, open_for_writing

__all__ = ["IllegalMoveError", "Journal"]

_log = structlog.get_logger()

#: How long a move that only informs waits for company, in seconds.
_LAZY_SECONDS: Final = 0.05

#: While many jobs wait, a transaction waits for what is asked for in so many turns of the loop, but
#: for so many naps of so many seconds at most. It takes a core for as long whatever it writes.
_ENOUGH: Final = 16
_MOST_NAPS: Final = 5
_NAP_SECONDS: Final = 0.003

#: Rows and pages that one step of housekeeping takes: some milliseconds, then others have a turn.
_ROWS_AT_ONCE: Final = 500
_PAGES_AT_ONCE: Final = 256

#: Free pages that stay in the file, to be written again: this many, or a quarter of all.
_SPARE_PAGES: Final = 1024


class IllegalMoveError(WasmdropError):
    """A move that the table does not know: a fault in the program."""


class _Request(NamedTuple):
    what: Entry | Operation
    future: "asyncio.Future[Any] | None" = None


class Journal:
    """The journal in ``path``. Opened once, by one daemon; used from its event loop.

    ``is_busy`` says whether so many jobs wait that a moment more makes no difference to them.
    """

    def __init__(self, path: Path, is_busy: Callable[[], bool] = lambda: False) -> None:
        self.pulse = Pulse()
        self.path = path
        self._is_busy = is_busy
        self._connection = open_for_writing(path)
        self._connection.create_function("input_path_of", 1, input_path_of, deterministic=True)
        found = self._connection.execute("SELECT max(changed_ns) FROM jobs").fetchone()
        self._changed_ns: int = found[0] or 0
        self._loop = asyncio.get_running_loop()
        self.failure: asyncio.Future[str] = self._loop.create_future()
        """Done, with the reason, where the file can't be used any more: it was damaged."""
        self._requests: queue.SimpleQueue[list[_Request] | None] = queue.SimpleQueue()
        self._gathered: list[_Request] = []
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def open_jobs(self) -> list[Job]:
        """Return the jobs that are not final, in the order of their drops. Only at the start."""
        rows = self._connection.execute(
            f"SELECT job FROM jobs WHERE state NOT IN {FINAL} ORDER BY seq"  # noqa: S608 - a constant
        )
        return [decode_job(text) for (text,) in rows]

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
        self._submit_lazily(
            lambda connection: connection.execute("DELETE FROM taken WHERE path = ?", row)
        )

    def move(self, job: Job, state: JobState, **changes: Any) -> "tuple[Job, asyncio.Future[None]]":
        """Move ``job`` to ``state``; return the moved job and when that is durable.

        Raises ``IllegalMoveError``.
        """
        moved = self._moved(job, state, changes)
        return moved, self._submit(Moved(moved, self._tick()))

    def move_lazily(self, job: Job, state: JobState, **changes: Any) -> Job:
        """Move ``job`` where nothing is lost if the daemon ends before that is written."""
        moved = self._moved(job, state, changes)
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

    def keep_package(self, job: Job, package: Package, note: str) -> "asyncio.Future[None]":
        """Record results that can't be delivered now, and in ``note`` why."""
        data = msgspec.msgpack.encode(package)
        explain = _explain(job, note, self._tick())

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE jobs SET package = ? WHERE id = ?", (data, job.id))
            explain(connection)

        return self._submit(write)

    def load_package(self, job: Job) -> "asyncio.Future[Package | None]":
        """Return the results that were kept for ``job``, if any were."""

        def read(connection: sqlite3.Connection) -> Package | None:
            query = "SELECT package FROM jobs WHERE id = ?"
            found = connection.execute(query, (job.id,)).fetchone()
            if found is None or found[0] is None:
                return None
            return msgspec.msgpack.decode(found[0], type=Package)

        return self._submit(read)

    def load_input(self, job: Job) -> "asyncio.Future[bytes | None]":
        """Return the input of ``job`` as it was read."""

        def read(connection: sqlite3.Connection) -> bytes | None:
            found = connection.execute("SELECT input FROM jobs WHERE id = ?", (job.id,)).fetchone()
            return None if found is None else found[0]

        return self._submit(read)

    def latest_failed_by_module(self) -> "asyncio.Future[list[Job]]":
        """Return each slot's latest job where that failed for its module's sake."""
        codes = [code for code in Code if code.of_the_module]

        def read(connection: sqlite3.Connection) -> list[Job]:
            rows = connection.execute(
                f"SELECT job FROM jobs AS j WHERE code IN ({','.join('?' * len(codes))})"  # noqa: S608 - only marks
                " AND seq = (SELECT max(seq) FROM jobs WHERE slot = j.slot)",
                codes,
            )
            return [decode_job(text) for (text,) in rows]

        return self._submit(read)

    def prune(self, before_ns: int) -> "asyncio.Future[int]":
        """Remove final jobs that changed last before that time; return how many went.

        Removes some hundred at a time, the oldest first: call it again until none went. Keeps the
        latest job of a slot that failed for its module's sake while its input is there, as that
        runs again when the module changes.
        """
        codes = [code for code in Code if code.of_the_module]
        query = f"""
            DELETE FROM jobs WHERE seq IN (
                SELECT seq FROM jobs AS j WHERE state IN {FINAL} AND changed_ns < ?
                AND NOT (
                    coalesce(code, '') IN ({",".join("?" * len(codes))})
                    AND seq = (SELECT max(seq) FROM jobs WHERE slot = j.slot)
                    AND EXISTS (SELECT 1 FROM taken WHERE path = input_path_of(j.job))
                )
                ORDER BY changed_ns LIMIT ?
            )"""  # noqa: S608 - constants and marks
        values = (before_ns, *codes, _ROWS_AT_ONCE)

        def remove(connection: sqlite3.Connection) -> int:
            return connection.execute(query, values).rowcount

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

    def _moved(self, job: Job, state: JobState, changes: dict[str, Any]) -> Job:
        if state not in MOVES[job.state]:
            raise IllegalMoveError(f"job {job.id}: {job.state} to {state} is no legal move")
        return msgspec.structs.replace(job, state=state, **changes)

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
        wait_for_turn()
        try:
            self._write_until_closed()
        except Exception as error:  # noqa: BLE001 - else nobody would hear of it
            self.fail(str(error))

    def _write_until_closed(self) -> None:
        ending = False
        while not ending:
            batch, ending = self._collect()
            self.pulse.beat()
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
        self.pulse.beat()  # a full disk is no reason to start the daemon again
        _log.error("journal-stuck", path=str(self.path), error=str(_error_of(state)))

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
