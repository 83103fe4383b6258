"""A store of chunks in memory, in place of a connection."""

import asyncio

from wasmdrop.fleet.transport.connection import Stored


class ChunkMemory:
    """Keeps messages by subject, and counts what is asked of it."""

    def __init__(self) -> None:
        self.messages: dict[str, bytes] = {}
        self.stored = 0
        """Messages that were stored, also again."""
        self.most_at_once = 0
        """The largest number of messages that were stored or fetched at a time."""
        self.is_full = False
        self.reached = asyncio.Event()
        """Set when the first message was stored or asked for."""
        self._running = 0

    async def store(self, subject: str, data: bytes) -> Stored:
        """Store a message, unless the store is full."""
        await self._pass()
        if self.is_full:
            return Stored.FULL
        self.stored += 1
        self.messages[subject] = data
        return Stored.STORED

    async def get(self, stream: str, subject: str) -> bytes | None:
        """Return a message; streams are told apart by the subjects alone."""
        assert stream
        await self._pass()
        return self.messages.get(subject)

    async def _pass(self) -> None:
        self._running += 1
        self.most_at_once = max(self.most_at_once, self._running)
        await asyncio.sleep(0)
        self._running -= 1
        self.reached.set()
