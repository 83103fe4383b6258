"""The HTTP endpoint: answers GET of a few fixed paths, on a thread and an event loop of its own.

Promises that no client costs the jobs anything: connections are few, each gets one answer within
one deadline, and whoever is slower is cut off. Assumes that it is reached from within a pod, a host
or a cluster: it speaks no TLS and asks nobody who they are, and so tells no names of files.
"""

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

import structlog

from wasmdrop.errors import SettingsError

__all__ = ["Answer", "Endpoint", "Handler"]

_log = structlog.get_logger()

#: Clients at a time: a prober, a scraper or two, and somebody with curl.
_CONNECTIONS: Final = 16

#: From a connection to its end, in seconds.
_DEADLINE_SECONDS: Final = 5.0

#: Longest request, request line and headers, in bytes.
_REQUEST_BYTES: Final = 8192

_REQUEST: Final = re.compile(rb"([A-Z]+) (/[^ ?#]*)[^ ]* HTTP/1\.[01]\r\n")
_ACCEPT: Final = re.compile(rb"\r\naccept:[ \t]*([^\r\n]*)", re.IGNORECASE)
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Answer(NamedTuple):
    """What a path answers."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


#: Gets the request's ``Accept`` header; runs on the endpoint's own event loop.
Handler = Callable[[str], Awaitable[Answer]]


class Endpoint:
    """Serves ``handlers``, by path, at ``address``, a ``HOST:PORT`` as the settings allow it."""

    def __init__(self, address: str, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._socket = _listen(address)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._open = 0
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where it listens; the port is a real one where 0 was asked for."""
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def close(self) -> None:
        """Stop listening and cut off whoever is still connected."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(
            self._converse, sock=self._socket, limit=_REQUEST_BYTES, backlog=_CONNECTIONS
        )
        await self._stop.wait()
        server.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= _CONNECTIONS:
            writer.transport.abort()
            return
        self._open += 1
        try:
            async with asyncio.timeout(_DEADLINE_SECONDS):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._response(request))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # too slow, gone, or no HTTP: nobody to tell
        finally:
            self._open -= 1
            writer.transport.abort()

    async def _response(self, request: bytes) -> bytes:
        found = _REQUEST.match(request)
        method = found[1] if found else b""
        if found is None:
            answer = Answer(400, b"expected an HTTP request\n")
        elif method not in {b"GET", b"HEAD"}:
            answer = Answer(405, b"expected GET or HEAD\n")
        else:
            answer = await self._answer(found[2].decode("latin-1"), _accept(request))
        head = (
            f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\n"
            f"Content-Type: {answer.content_type}\r\n"
            f"Content-Length: {len(answer.body)}\r\n"
            "Cache-Control: no-store\r\n"
            "Allow: GET, HEAD\r\n"
            "Connection: close\r\n"
        )
        return head.encode() + b"\r\n" + (b"" if method == b"HEAD" else answer.body)

    async def _answer(self, path: str, accept: str) -> Answer:
        handler = self._handlers.get(path)
        if handler is None:
            return Answer(404, f"nothing here; try {' '.join(self._handlers)}\n".encode())
        try:
            return await handler(accept)
        except Exception:  # noqa: BLE001 - one question's fault must not end the thread
            _log.exception("http-failed", path=path)
            return Answer(500, b"the daemon could not answer; its log says why\n")


def _accept(request: bytes) -> str:
    found = _ACCEPT.search(request)
    return found[1].decode("latin-1") if found else ""


def _listen(address: str) -> socket.socket:
    """Return a socket that is bound to ``address``. Raises ``SettingsError``."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    with contextlib.ExitStack() as undo:
        try:
            family, kind, protocol, _name, where = socket.getaddrinfo(
                host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = undo.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
        except OSError as error:
            raise SettingsError(
                f"WASMDROP_HTTP: can't listen on {address}: {error.strerror}"
            ) from None
        undo.pop_all()
        return listener
