"""A worker of a fleet in a process, and a daemon that a test plays: it publishes jobs by hand."""

import asyncio
import contextlib
import hashlib
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from wasmtime import wat2wasm

from tests.support.daemon import DEADLINE_SECONDS, Daemon, descendants_of
from tests.support.fleet.server import Server
from wasmdrop.fleet.bodies.chunks import get_blob, put_blob
from wasmdrop.fleet.bodies.transfers import Publication, send_call
from wasmdrop.fleet.messages import (
    Answer,
    Blob,
    JobMessage,
    Ran,
    Returned,
    Started,
    decode,
    encode,
)
from wasmdrop.fleet.names import (
    ANY_ENGINE,
    daemon_jobs_filter,
    job_stream,
    job_subject,
    module_chunk_subject,
    outcome_stream,
    outcome_subject,
    output_stream,
    started_subject,
)
from wasmdrop.fleet.transport.connection import FleetConnection, Stored
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.wire import EngineOptions

DAEMON: Final = "daemon"
POOL: Final = "default"

ADD: Final = bytes(
    wat2wasm("""(module (func (export "add") (param i64 i64) (result i64)
    (i64.add (local.get 0) (local.get 1))))""")
)
_BINARY: Final = FunctionType(("i64", "i64"), ("i64",))

#: ``spin`` runs until its timeout.
SPIN: Final = bytes(wat2wasm('(module (func (export "spin") (loop $on (br $on))))'))
SPIN_CALL: Final = Call("spin", FunctionType())


def add_call(first: int, second: int) -> Call:
    """Return the call of ``add`` with these numbers."""
    return Call("add", _BINARY, (first, second))


class Worker(Daemon):
    """``wasmdrop work`` with a state directory below ``base``, not started."""

    def __init__(self, base: Path, server: Server, **variables: str) -> None:
        super().__init__(base, **variables)
        for name in ("WASMDROP_WASM_DIR", "WASMDROP_SHARED_DIR"):
            del self.environment[name]
        for directory in (self.wasm, self.shared):
            directory.rmdir()
        self.environment = {
            "WASMDROP_FLEET": server.url,
            "WASMDROP_FLEET_NAME": base.name,
            "WASMDROP_WORKERS": "2",
        } | self.environment
        self.command = (sys.executable, "-m", "wasmdrop", "work")

    def start(self) -> "Worker":
        """Start the worker and wait until it is ready."""
        super().start()
        return self

    @contextlib.contextmanager
    def running(self) -> Iterator["Worker"]:
        """Run the worker for a block; it must stop cleanly and log no fault of its own."""
        with super().running():
            yield self

    @contextlib.contextmanager
    def launched(self) -> Iterator["Worker"]:
        """Run the worker for a block, without waiting until it is ready; it must stop cleanly."""
        self.launch()
        try:
            yield self
        finally:
            assert self.process is not None
            status = self.stop() if self.process.poll() is None else self.process.returncode
        assert status == 0, self.log_text()

    @contextlib.contextmanager
    def frozen_jobs(self) -> Iterator[list[int]]:
        """Stop all processes of jobs during the block, so that a job that begins does not end.

        They are killed if the worker is dead by then.
        """
        assert self.process is not None
        pids = descendants_of(self.process.pid)
        _signal(pids, signal.SIGSTOP)
        try:
            yield pids
        finally:
            has_ended = self.process.poll() is not None
            _signal(pids, signal.SIGKILL if has_ended else signal.SIGCONT)


class HandmadeDaemon:
    """Publishes jobs and reads their answers, as a daemon does; each job has one attempt."""

    def __init__(self, connection: FleetConnection) -> None:
        self.started: list[str] = []
        """The tickets of jobs that workers began, after :meth:`listen`."""
        self._connection = connection
        self._prefix = os.urandom(4).hex()
        self._serial = itertools.count()

    async def listen(self) -> None:
        """Hear of jobs that workers begin."""
        await self._connection.subscribe(
            started_subject(DAEMON),
            lambda _subject, data: self.started.append(decode(data, Started).ticket),
        )

    async def until_started(self, *messages: JobMessage) -> None:
        """Wait until workers have begun these jobs."""
        tickets = {message.ticket for message in messages}

        async def have_started() -> bool:
            return tickets <= set(self.started)

        await until(have_started, "the jobs to start")

    async def upload(self, module: bytes) -> Blob:
        """Store the chunks of a module."""
        sha256 = hashlib.sha256(module).hexdigest()
        return await put_blob(
            self._connection, lambda number: module_chunk_subject(POOL, sha256, number), [module]
        )

    async def prepare(
        self,
        module: Blob,
        call: Call,
        limits: Limits = Limits(timeout_sec=60),  # noqa: B008 - it is frozen
        *,
        engine: str = ANY_ENGINE,
        attempts: int = 3,
    ) -> JobMessage:
        """Return the message of a job, with a large call stored."""
        ticket = os.urandom(16).hex()
        publication = Publication(POOL, DAEMON, ticket)
        return JobMessage(
            daemon=DAEMON,
            job=f"{self._prefix}-{next(self._serial)}",
            attempt=1,
            generation=0,
            ticket=ticket,
            module=module,
            options=EngineOptions(deterministic=engine != ANY_ENGINE),
            limits=limits,
            call=await send_call(self._connection, publication, call),
            attempts=attempts,
        )

    async def publish(
        self,
        module: Blob,
        call: Call,
        limits: Limits = Limits(timeout_sec=60),  # noqa: B008 - it is frozen
        *,
        engine: str = ANY_ENGINE,
        attempts: int = 3,
    ) -> JobMessage:
        """Publish a job."""
        message = await self.prepare(module, call, limits, engine=engine, attempts=attempts)
        await self.send(message, engine)
        return message

    async def send(self, message: JobMessage, engine: str = ANY_ENGINE) -> None:
        """Store a job in its stream."""
        subject = subject_of(message, engine)
        assert await self._connection.store(subject, encode(message)) is Stored.STORED

    async def answer(self, message: JobMessage) -> Answer:
        """Wait for the answer to a job, which stays where it is."""
        subject = outcome_subject(message.daemon, message.ticket)
        data = await until(
            lambda: self._connection.get(outcome_stream(message.daemon), subject), "an answer"
        )
        return decode(data, Answer)

    async def ran(self, message: JobMessage) -> Ran:
        """Wait for the answer to a job, which must have run."""
        content = (await self.answer(message)).content
        assert isinstance(content, Ran), content
        return content

    async def returned(self, message: JobMessage) -> Returned:
        """Wait for the answer to a job, which must have been returned."""
        content = (await self.answer(message)).content
        assert isinstance(content, Returned), content
        return content

    async def body(self, message: JobMessage, body: bytes | Blob) -> bytes:
        """Return an outcome or output files, large ones from their chunks."""
        if isinstance(body, bytes):
            return body
        chunks = Publication(POOL, DAEMON, message.ticket).output_chunks(body.upload)
        stream = output_stream(DAEMON)
        return bytes(await get_blob(self._connection, stream, chunks, body, body.size_bytes))

    async def withdraw(self, message: JobMessage) -> None:
        """Check that no worker has a job, and remove it."""
        lease = await self._connection.fetch(job_stream(POOL), ANY_ENGINE, 5)
        assert lease is not None
        assert lease.subject == subject_of(message)
        await lease.ack()

    async def until_done(self, *messages: JobMessage, engine: str = ANY_ENGINE) -> None:
        """Wait until these jobs are acknowledged."""
        subjects = {subject_of(message, engine) for message in messages}

        async def are_gone() -> bool:
            filter_ = daemon_jobs_filter(POOL, DAEMON)
            queued = await self._connection.subjects(job_stream(POOL), filter_)
            return not subjects & queued

        await until(are_gone, "the jobs to be acknowledged")


def subject_of(message: JobMessage, engine: str = ANY_ENGINE) -> str:
    """Return the subject of a job."""
    return job_subject(
        POOL, engine, message.daemon, message.job, message.attempt, message.generation
    )


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


async def until(look: Callable[[], Any], what: str) -> Any:
    """Return the first true value that the coroutine function ``look`` returns."""
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not (found := await look()):  # noqa: ASYNC110 - it is far away
                await asyncio.sleep(0.01)
            return found
    except TimeoutError:
        raise AssertionError(f"waited in vain for {what}") from None
