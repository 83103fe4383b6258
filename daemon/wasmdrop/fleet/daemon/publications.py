"""The jobs that a daemon has in the fleet, and the state of each.

A publication belongs to one attempt of a job. It is published under one generation after the other,
each with a ticket and a subject of its own, until an answer is accepted. What happens to it arrives
in its inbox, from which the job's own task takes it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from wasmdrop.fleet.bodies.invalid_answers import Flaw
from wasmdrop.fleet.daemon.metrics import Reason
from wasmdrop.fleet.messages import Answer
from wasmdrop.fleet.transport.connection import Lease


class Answered(msgspec.Struct, frozen=True):
    """An answer arrived."""

    ticket: str
    answer: Answer
    lease: Lease | None = None
    """None if it was found in its stream, and not delivered."""


class Invalid(msgspec.Struct, frozen=True):
    """An answer arrived under a ticket of the job, and does not belong to it."""

    ticket: str
    flaw: Flaw
    why: str
    lease: Lease


class Lost(msgspec.Struct, frozen=True):
    """Publish the job again, as the next generation."""

    generation: int
    reason: Reason


class Away(msgspec.Struct, frozen=True):
    """The fleet does not answer, so that the job is to run here, too."""


class RanHere(msgspec.Struct, frozen=True):
    """The run on this machine ended."""


Event = Answered | Invalid | Lost | Away | RanHere


@dataclass(slots=True, eq=False)
class PublishedJob:
    """One attempt of a job in the fleet."""

    job_id: str
    attempt: int
    engine: str
    """The class of its workers."""
    explain: Callable[[str], None]
    """Called with the reason why the job waits."""
    generation: int = 0
    subject: str = ""
    """That of the current generation; empty before it was published."""
    sent_at: float = 0.0
    """When the servers took the current generation, in seconds of the monotonic clock."""
    is_unserved: bool = False
    """Whether the job was said to wait for a worker."""
    published_at: float | None = None
    """When this daemon first began to publish it, by that clock; None if an earlier daemon did."""
    answer_seconds: float = 0.0
    """How long a worker that began it may take to answer."""
    begun_at: float | None = None
    """When a worker said that it begins the current generation, by that clock."""
    delivered_at: float | None = None
    """When the current generation was known to be with a worker, though none said so."""
    begun: int = 0
    """How many deliveries of all generations were begun."""
    missed: int = 0
    """How often in a row its subject was missing in the stream."""
    accepted: str = ""
    """The ticket of the answer that ended the attempt."""
    is_over: bool = False
    """Whether the attempt has an outcome, or was left to the next daemon."""
    is_cancelled: bool = False
    """Whether the job is to end without an answer."""
    tickets: list[str] = field(default_factory=list)
    """Those of all generations; the last one is current."""
    judged: set[str] = field(default_factory=set)
    """The tickets whose answer was judged."""
    lease: Lease | None = None
    """The lease on that answer, which is acknowledged when the results are safe."""
    has_large_call: bool = False
    """Whether its call travels in chunks."""
    has_large_answer: bool = False
    """Whether an answer came in chunks."""
    room: contextlib.ExitStack | None = None
    """That of a large answer, until the publication is removed."""
    _inbox: deque[Event] = field(default_factory=deque)
    _waiter: "asyncio.Future[None] | None" = None

    def next_generation(self) -> None:
        """Begin the next generation."""
        self.generation += 1
        self.subject = ""
        self.begun_at = self.delivered_at = None
        self.missed = 0

    def accept(self, event: Answered | Invalid) -> None:
        """Accept the answer that ends the attempt."""
        self.accepted = event.ticket
        self.lease = event.lease

    def put(self, event: Event) -> None:
        """Put something that happened into the inbox."""
        self._inbox.append(event)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def has_event(self) -> bool:
        """Whether the inbox has an event."""
        return bool(self._inbox)

    def take_events(self) -> list[Event]:
        """Return all events of the inbox."""
        events = list(self._inbox)
        self._inbox.clear()
        return events

    async def next_event(self) -> Event:
        """Return the next event of the inbox; used by one task."""
        if not self._inbox:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._inbox.popleft()


class Publications:
    """All publications, by job and by ticket; one for each job. Used from one event loop."""

    def __init__(self) -> None:
        self._by_job: dict[str, PublishedJob] = {}
        self._by_ticket: dict[str, PublishedJob] = {}

    def unanswered(self) -> list[PublishedJob]:
        """Return the publications whose attempt has no outcome yet."""
        return [one for one in self._by_job.values() if not one.is_over]

    def of_job(self, job_id: str) -> PublishedJob | None:
        """Return the publication of a job's last attempt."""
        return self._by_job.get(job_id)

    def of_ticket(self, ticket: str) -> PublishedJob | None:
        """Return the publication that has this ticket."""
        return self._by_ticket.get(ticket)

    def add(self, publication: PublishedJob) -> None:
        """Add the publication of an attempt; that of the attempt before it must be removed."""
        self._by_job[publication.job_id] = publication

    def add_ticket(self, publication: PublishedJob, ticket: str) -> None:
        """Add the ticket of a generation, whose answer may still come when it is not the last."""
        publication.tickets.append(ticket)
        self._by_ticket[ticket] = publication

    def remove(self, job_id: str) -> PublishedJob | None:
        """Remove and return the publication of a job."""
        publication = self._by_job.pop(job_id, None)
        if publication is not None:
            for ticket in publication.tickets:
                self._by_ticket.pop(ticket, None)
            if publication.room is not None:
                publication.room.close()
        return publication
