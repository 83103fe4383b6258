"""A connection and leases whose server is the test."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable
from typing import cast

from wasmdrop.fleet.errors import FleetUnavailableError
from wasmdrop.fleet.transport.connection import FleetConnection, Lease, Stored
from wasmdrop.fleet.transport.nats_client import Callback


class Clock:
    """A clock that a test sets, in seconds."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.seconds


class FakeLease:
    """A lease that counts what is said about it."""

    def __init__(self, data: bytes = b"", subject: str = "", delivery: int = 1) -> None:
        self.data = data
        self.subject = subject
        self.delivery = delivery
        self.acks = 0
        self.extensions = 0

    async def ack(self) -> None:
        """Count an acknowledgement."""
        self.acks += 1

    async def extend(self) -> None:
        """Count an extension."""
        self.extensions += 1

    def as_lease(self) -> Lease:
        """Return this as the type of a real one."""
        return cast(Lease, self)


class FakeConnection:
    """Answers pull requests from ``jobs``, and stores by ``on_store``."""

    def __init__(self) -> None:
        self.is_connected = True
        self.jobs: dict[str, deque[FakeLease]] = defaultdict(deque)
        """By consumer."""
        self.errors: dict[str, FleetUnavailableError] = {}
        """Pull requests of these consumers fail."""
        self.pulls: list[tuple[str, float]] = []
        """Consumer and time of each pull request."""
        self.waiting: dict[str, int] = defaultdict(int)
        """Pull requests that wait, by consumer."""
        self.published: list[tuple[str, bytes]] = []
        self.subscriptions: dict[str, Callback] = {}
        self.stored: dict[str, bytes] = {}
        self.store_replies: deque[Stored | FleetUnavailableError] = deque()
        """What the next stores come to; they succeed if it is empty."""
        self.stores = 0
        self._news = asyncio.Event()

    def as_connection(self) -> FleetConnection:
        """Return this as the type of a real one."""
        return cast(FleetConnection, self)

    def put(self, consumer: str, lease: FakeLease) -> FakeLease:
        """Put a job where pull requests find it."""
        self.jobs[consumer].append(lease)
        self._news.set()
        self._news = asyncio.Event()
        return lease

    async def fetch(self, _stream: str, consumer: str, seconds: float) -> Lease | None:
        """Answer a pull request; one that waits does so until there is a job."""
        self.pulls.append((consumer, seconds))
        await asyncio.sleep(0)
        if consumer in self.errors:
            raise self.errors[consumer]
        if not self.jobs[consumer] and seconds:
            self.waiting[consumer] += 1
            try:
                async with asyncio.timeout(seconds):
                    while not self.jobs[consumer]:
                        await self._news.wait()
            except TimeoutError:
                return None
            finally:
                self.waiting[consumer] -= 1
        return self.jobs[consumer].popleft().as_lease() if self.jobs[consumer] else None

    async def subscribe(self, subject: str, callback: Callback) -> None:
        """Keep the callback."""
        self.subscriptions[subject] = callback

    async def publish(self, subject: str, data: bytes) -> None:
        """Keep a message."""
        self.published.append((subject, data))

    async def store(self, subject: str, data: bytes, *, seconds: float = 1) -> Stored:
        """Keep a message, unless the test wants it otherwise."""
        assert seconds
        self.stores += 1
        await asyncio.sleep(0)
        reply = self.store_replies.popleft() if self.store_replies else Stored.STORED
        if isinstance(reply, FleetUnavailableError):
            raise reply
        if reply is Stored.STORED:
            self.stored[subject] = data
        return reply


class FakeCheck:
    """A sandbox that a test breaks."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.checks = 0

    async def problem(self) -> str:
        """Return the answer of the test."""
        self.checks += 1
        return self.answer


async def until(condition: Callable[[], object]) -> None:
    """Let other tasks run until a condition holds."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - tasks, not an event, make it true
            await asyncio.sleep(0)


async def settled(rounds: int = 20) -> None:
    """Let other tasks run as far as they can without time."""
    for _ in range(rounds):
        await asyncio.sleep(0)
