"""Something that greets like a NATS server, with any version and limits, and answers pings."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

GOOD_INFO: dict[str, Any] = {"server_id": "x", "version": "2.15.1", "max_payload": 1_048_576}


class FakeServer:
    """Where it listens, and what its clients sent."""

    def __init__(self, info: dict[str, Any]) -> None:
        self.info = info
        self.port = 0
        self.connections = 0
        self.received = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk to one client."""
        self.connections += 1
        writer.write(b"INFO " + json.dumps(self.info).encode() + b"\r\n")
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                self.received += line
                if line.startswith(b"PING"):
                    writer.write(b"PONG\r\n")
        writer.close()


@contextlib.asynccontextmanager
async def fake_server(**info: object) -> AsyncIterator[FakeServer]:
    """Give a server on the loopback interface that says this of itself."""
    fake = FakeServer({**GOOD_INFO, **info})
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        server.close()
