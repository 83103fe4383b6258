"""Doubles of a connection, a lease and a local executor, for faults that can't be caused."""

import asyncio
import contextlib
import hashlib
import os
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from wasmdrop.fleet.bodies.modules import ModuleUploads
from wasmdrop.fleet.bodies.transfers import Publication, send_results
from wasmdrop.fleet.daemon.answers import Answers
from wasmdrop.fleet.daemon.availability import Availability
from wasmdrop.fleet.daemon.cleanup import Cleanup
from wasmdrop.fleet.daemon.metrics import FleetMetrics
from wasmdrop.fleet.daemon.publications import Publications, PublishedJob
from wasmdrop.fleet.daemon.reconciler import Reconciler
from wasmdrop.fleet.daemon.remote_executor import RemoteExecutor
from wasmdrop.fleet.daemon.remote_job import Fleet
from wasmdrop.fleet.daemon.revocations import Revocations
from wasmdrop.fleet.daemon.tickets import Tickets
from wasmdrop.fleet.errors import FleetUnavailableError
from wasmdrop.fleet.messages import (
    Answer,
    GivenUp,
    JobMessage,
    Ran,
    Returned,
    Started,
    decode,
    encode,
)
from wasmdrop.fleet.names import (
    ANY_ENGINE,
    engine_class,
    job_stream,
    outcome_consumer,
    outcome_subject,
)
from wasmdrop.fleet.transport.connection import FleetConnection, Lease, Stored
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.runtime_versions import own_versions
from wasmdrop.sandbox.host.attempt import Attempt
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule
from wasmdrop.sandbox.wire import EngineOptions

DAEMON = "d"
POOL = "p"
CALL = Call("run", FunctionType((), ()))
MODULE = b"\0asm\1\0\0\0"


class FakeLease(Lease):
    """A lease that notes whether it was acknowledged."""

    def __init__(self, subject: str, data: bytes) -> None:
        self.subject = subject
        self.data = data
        self.delivery = 1
        self.is_acknowledged = False

    async def ack(self) -> None:
        """Note it."""
        self.is_acknowledged = True


class FakeConnection:
    """A connection that keeps what is stored, and fails as it is told."""

    def __init__(self) -> None:
        self.is_connected = True
        self.away_seconds = 0.0
        self.problem = ""
        self.failure: FleetUnavailableError | None = None
        """Raised by all requests."""
        self.replies: deque[Stored] = deque()
        """What becomes of the next jobs."""
        self.jobs: list[JobMessage] = []
        self.ids: list[str | None] = []
        self.there: set[str] = set()
        """The subjects of jobs in their stream."""
        self.messages: dict[str, bytes] = {}
        """All others, by subject."""
        self.purged: list[str] = []
        names = (ANY_ENGINE, engine_class(own_versions()), outcome_consumer(DAEMON))
        self.consumers = {name: {"num_waiting": 1, "num_ack_pending": 0} for name in names}
        self.subscriptions: dict[str, Any] = {}
        self.leases: deque[Lease | FleetUnavailableError | ValueError] = deque()
        """What the next pulls give."""
        self.fetched = 0

    async def store(
        self, subject: str, data: bytes, *, message_id: str | None = None, seconds: float = 15
    ) -> Stored:
        """Keep a message."""
        assert seconds > 0
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        if not subject.startswith("wd1.job."):
            self.messages[subject] = data
            return Stored.STORED
        reply = self.replies.popleft() if self.replies else Stored.STORED
        if reply is not Stored.FULL:
            self.jobs.append(decode(data, JobMessage))
            self.ids.append(message_id)
            self.there.add(subject)
        return reply

    async def get(self, _stream: str, subject: str) -> bytes | None:
        """Return a message."""
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        return self.messages.get(subject)

    async def fetch(self, _stream: str, _consumer: str, seconds: float) -> Lease | None:
        """Give a lease, or fail, or wait for ever."""
        assert seconds > 0
        self.fetched += 1
        if not self.leases:
            await asyncio.Event().wait()
        found = self.leases.popleft()
        if isinstance(found, Exception):
            raise found
        return found

    async def subscribe(self, subject: str, callback: Any) -> None:
        """Keep the callback."""
        self.subscriptions[subject] = callback

    async def publish(self, subject: str, data: bytes) -> None:
        """Keep a message."""
        self.messages[subject] = data

    async def wait_connected(self, _seconds: float) -> None:
        """Do nothing."""

    async def has_consumer(self, _stream: str, consumer: str) -> bool:
        """Whether there is a consumer."""
        return consumer in self.consumers

    async def can_fetch(self, _stream: str, consumer: str, *, seconds: float) -> bool:
        """Whether there is a consumer."""
        assert seconds > 0
        return consumer in self.consumers

    async def subjects(self, stream: str, _subjects_filter: str) -> set[str]:
        """Return those of the jobs."""
        assert stream == job_stream(POOL)
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        return set(self.there)

    async def api(self, name: str) -> dict[str, Any]:
        """Return what is known of a consumer, or of a stream, which is empty."""
        await asyncio.sleep(0)
        if name.startswith("STREAM.INFO."):
            return {"state": {"bytes": 0}, "config": {"max_bytes": 1}}
        return self.consumers[name.rpartition(".")[2]]

    async def purge(self, _stream: str, subjects_filter: str) -> None:
        """Note it."""
        self.purged.append(subjects_filter)


class FakeLocal:
    """An executor whose runs end when the test says so."""

    def __init__(self) -> None:
        self.capacity = 2
        self.directories = None
        self.begun = 0
        self.cancelled = 0
        self.end: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.is_remote = False

    @contextlib.asynccontextmanager
    async def slot(self, *_arguments: Any) -> AsyncIterator["FakeLocal"]:
        """Give itself."""
        yield self

    async def run(self, *_arguments: Any) -> Outcome:
        """Run until the test ends it."""
        self.begun += 1
        try:
            return await asyncio.shield(self.end)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


class FakeFleet:
    """All of a daemon's side with a fake connection, a fake local executor and a clock."""

    def __init__(self, directory: Path, *, runs_here: bool = True, window: int = 4) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []
        self.notes: list[str] = []
        self.open: set[str] = {"job"}
        self.connection = FakeConnection()
        connection = cast("FleetConnection", self.connection)
        self.local = FakeLocal()
        self.tickets = Tickets(b"secret")
        self.metrics = FleetMetrics()
        self.publications = Publications()
        self.cleanup = Cleanup(connection, DAEMON)
        self.answers = Answers(
            *(connection, DAEMON, self.tickets, self.publications, self.cleanup, self.metrics),
            self.clock,
        )
        self.answers.is_open = self.open.__contains__
        path = directory / "module"
        path.write_bytes(MODULE)
        uploads = ModuleUploads(connection, POOL, lambda _: os.open(path, os.O_RDONLY))
        self.revocations = Revocations(
            *(connection, POOL, DAEMON, self.tickets, self.cleanup, self.clock)
        )
        self.availability = Availability(connection, self.metrics, self.clock)
        fleet = Fleet(
            connection=connection,
            pool=POOL,
            daemon=DAEMON,
            tickets=self.tickets,
            publications=self.publications,
            answers=self.answers,
            uploads=uploads,
            cleanup=self.cleanup,
            revocations=self.revocations,
            availability=self.availability,
            metrics=self.metrics,
            local=cast("LocalExecutor", self.local),
            runs_here=runs_here,
            slack_seconds=180.0,
            clock=self.clock,
            sleep=self.sleep,
        )
        self.room = fleet.room
        self.fleet = fleet
        self.executor = RemoteExecutor(fleet, window, 3)
        self.reconciler = Reconciler(
            *(connection, POOL, DAEMON, self.publications, self.answers, uploads),
            *(self.revocations, self.clock),
        )

    def clock(self) -> float:
        """Return the time that the test sets."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Note a pause, and make none."""
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    def begin(
        self,
        job_id: str = "job",
        number: int = 1,
        *,
        is_resumed: bool = False,
        call: Call = CALL,
        options: EngineOptions | None = None,
    ) -> asyncio.Task[Outcome]:
        """Run an attempt of a job in a task."""
        module = cast(
            "CompiledModule",
            SimpleNamespace(
                sha256=hashlib.sha256(MODULE).hexdigest(),
                options=options or EngineOptions(),
                summary=SimpleNamespace(wants_wasi=False, wants_files=False),
            ),
        )
        attempt = Attempt(job_id, number, is_resumed)

        async def run() -> Outcome:
            async with self.executor.slot(module, call, attempt, self.notes.append) as slot:
                return await slot.run(module, call, Limits())

        return asyncio.create_task(run())

    def job(self) -> PublishedJob:
        """Return what is known of the job."""
        found = self.publications.of_job("job")
        assert found is not None
        return found

    async def purged(self) -> list[str]:
        """Return the filters of what the cleanup removed so far."""
        cleaning = asyncio.create_task(self.cleanup.keep_purging())
        await settle()
        cleaning.cancel()
        return self.connection.purged

    async def published(self, count: int = 1) -> JobMessage:
        """Wait until so many publications were made; return the last one."""
        await self.until(lambda: len(self.connection.jobs) >= count)
        await settle()
        return self.connection.jobs[count - 1]

    async def until(self, condition: Any) -> None:
        """Wait for a condition."""
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - the modules take time on threads
                await asyncio.sleep(0.001)

    async def ran(self, message: JobMessage, message_text: str = "") -> Ran:
        """Return the answer of a worker that ran a job."""
        connection = cast("FleetConnection", self.connection)
        names = Publication(POOL, message.daemon, message.ticket)
        return await send_results(
            connection, names, Outcome(code=Code.OK, message=message_text), CALL
        )

    def answer(
        self, message: JobMessage, content: Ran | Returned | GivenUp, **changes: Any
    ) -> FakeLease:
        """Deliver an answer to the daemon; return its lease."""
        return self.deliver(message.ticket, self.answer_data(message, content, **changes))

    def answer_data(
        self, message: JobMessage, content: Ran | Returned | GivenUp, **changes: Any
    ) -> bytes:
        """Return an answer as bytes."""
        fields = {
            "job": message.job,
            "attempt": message.attempt,
            "generation": message.generation,
            "worker": "w1",
            "content": content,
            **changes,
        }
        return encode(Answer(**fields))

    def deliver(self, ticket: str, data: bytes) -> FakeLease:
        """Deliver bytes as the answer under a ticket."""
        lease = FakeLease(outcome_subject(DAEMON, ticket), data)
        self.answers.take(lease)
        return lease

    @staticmethod
    def digest(data: bytes) -> str:
        """Return a digest as messages have it."""
        return hashlib.sha256(data).hexdigest()

    def started(self, message: JobMessage, delivery: int = 1) -> None:
        """Tell the daemon that a worker begins a job."""
        self.answers.take_started(encode(Started(message.ticket, "w1", delivery)))


async def settle() -> None:
    """Let all tasks go as far as they can."""
    for _ in range(20):
        await asyncio.sleep(0)
