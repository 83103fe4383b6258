"""The thread that commits: all writes that have gathered share one transaction, and so one sync.

If the disk is full or failing, the thread retries until it succeeds: callers wait, and nothing is
lost.
"""

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

from wasmdrop.jobs.journal.batch import Operation, Write, perform
from wasmdrop.system.heartbeat import Heartbeat
from wasmdrop.system.processes import use_batch_scheduling

_log = structlog.get_logger()

#: How long a lazy write waits for other writes, in seconds.
_LAZY_SECONDS: Final = 0.05

#: While many jobs wait, a transaction waits for the requests of this many turns of the event loop,
#: but for at most this many naps of this many seconds. A transaction takes the same processor time
#: whatever it writes: without naps, a burst on two cores takes a quarter longer.
_ENOUGH: Final = 16
_MOST_NAPS: Final = 5
_NAP_SECONDS: Final = 0.003

#: Pauses before a failed transaction is retried, in seconds: the first one, which doubles, and the
#: longest one.
_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 5.0


class _Request(NamedTuple):
    what: Write | Operation
    future: "asyncio.Future[Any] | None" = None


class CommitThread:
    """Owns the connection; used from one event loop.

    ``is_busy``: whether so many jobs wait that a pause for batching costs none of them time.
    """

    def __init__(
        self, connection: sqlite3.Connection, path: Path, is_busy: Callable[[], bool]
    ) -> None:
        self.heartbeat = Heartbeat()
        self._connection = connection
        self._path = path
        self._is_busy = is_busy
        self._loop = asyncio.get_running_loop()
        self.failure: asyncio.Future[str] = self._loop.create_future()
        """Done, with the reason, when the file can't be used any more."""
        self.problem = ""
        """Why writes fail now; empty if they do not. Readable from any thread."""
        self._requests: queue.SimpleQueue[list[_Request] | None] = queue.SimpleQueue()
        self._gathered: list[_Request] = []
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def submit(self, what: Write | Operation) -> "asyncio.Future[Any]":
        """Request a write, or a read; the future is done when it is durable."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._gather(_Request(what, future))
        return future

    def submit_lazily(self, what: Write | Operation) -> None:
        """Request a write that may wait a moment for another one's transaction."""
        self._gather(_Request(what))

    def hand_over(self) -> None:
        """Give all pending requests to the thread at once."""
        if self._gathered:
            self._requests.put(self._gathered)
            self._gathered = []

    def fail(self, reason: str) -> None:
        """Report, from any thread, that the file can't be used any more."""
        self._loop.call_soon_threadsafe(self._fail, reason)

    def ping(self) -> None:
        """Request a heartbeat."""
        self._requests.put([])

    async def close(self) -> None:
        """Write all pending requests and close the file."""
        self.hand_over()
        self._requests.put(None)
        await asyncio.to_thread(self._thread.join)
        self._connection.close()

    def _fail(self, reason: str) -> None:
        if not self.failure.done():
            self.failure.set_result(f"{self._path}: {reason}")

    def _gather(self, request: _Request) -> None:
        """Hand over together what two turns of the loop request.

        A drop's acceptance in the first turn and its start in the second then share a transaction.
        """
        self._gathered.append(request)
        if len(self._gathered) == 1:
            self._loop.call_soon(self._loop.call_soon, self.hand_over)

    # On the thread

    def _run(self) -> None:
        use_batch_scheduling()
        try:
            is_closing = False
            while not is_closing:
                batch, is_closing = self._collect()
                self.heartbeat.beat()
                if batch:
                    self._commit(batch)
        except Exception as error:  # noqa: BLE001 - the event loop reports it
            self.fail(str(error))

    def _collect(self) -> tuple[list[_Request], bool]:
        """Wait for something worth a transaction and return all that is there with it."""
        batch: list[_Request] = []
        deadline: float | None = None
        is_urgent = False
        while True:
            try:
                if is_urgent:
                    requests = self._requests.get_nowait()
                else:
                    timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
                    requests = self._requests.get(timeout=timeout)
            except queue.Empty:
                return batch, False
            if requests is None:
                return batch, True
            batch += requests
            if not is_urgent and any(request.future is not None for request in requests):
                is_urgent = True
                if self._is_busy():
                    self._let_gather()
            deadline = deadline or time.monotonic() + _LAZY_SECONDS

    def _let_gather(self) -> None:
        for _ in range(_MOST_NAPS):
            time.sleep(_NAP_SECONDS)
            if self._requests.qsize() >= _ENOUGH:
                return

    def _commit(self, batch: list[_Request]) -> None:
        work = [request.what for request in batch]
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            try:
                results = self._try_to_commit(work)
                break
            # Full disks, I/O errors and locks; a wrong statement is a ProgrammingError.
            except sqlite3.OperationalError as error:
                self.heartbeat.beat()  # a full disk is no reason to restart the daemon
                self.problem = str(error)
                _log.error("journal-commit-failed", path=str(self._path), error=str(error))
            time.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
        self.problem = ""
        answers = [
            (request.future, result)
            for request, result in zip(batch, results, strict=True)
            if request.future is not None
        ]
        if answers:
            self._loop.call_soon_threadsafe(_answer, answers)

    def _try_to_commit(self, work: list[Write | Operation]) -> list[Any]:
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


def _answer(answers: "list[tuple[asyncio.Future[Any], Any]]") -> None:
    for future, result in answers:
        if not future.done():
            future.set_result(result)
