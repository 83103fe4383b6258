"""A small HTTP server for GET of a few fixed paths, on a thread and an event loop of its own.

Guarantees: a probe is answered however many clients are slow, silent or gone. Each connection has
one deadline. If all connections are in use, a new one evicts another: the oldest one of the address
that has the most, so that a flood from one address evicts its own. The number of connections bounds
descriptors and memory.

Remaining attacks: clients at the prober's own address, or at as many addresses as there are
connections, evict the prober if they connect `_CONNECTIONS` times between its connection and the
arrival of its request, which takes a nearby prober less than a millisecond. Each connection also
costs processor time, here and in the kernel. Against both, restrict access to the address. It is
meant for a pod, a host or a cluster, has neither TLS nor authentication, and so reveals no file
names.
"""

import asyncio
import contextlib
import re
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

import structlog

from wasmdrop.protocol.errors import SettingsError

_log = structlog.get_logger()

#: Connections at a time. More than a prober and a few scrapers need: a new one, whose request is
#: still under way, can't be evicted before as many came after it. Each takes a few kilobytes and a
#: descriptor, of which a container may have 1,024.
_CONNECTIONS: Final = 128

#: Connections that are accepted before earlier ones are read again. Few of all: a request that has
#: arrived should be read before its connection can be evicted.
_ACCEPTED_TOGETHER: Final = 8

#: Connections that the kernel queues until they are accepted. One that finds the queue full is a
#: second late.
_BACKLOG: Final = 1024

#: The longest life of a connection, in seconds.
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


class HttpResponse(NamedTuple):
    """The response to a request."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


#: Called with the request's ``Accept`` header, on the server's own event loop.
Handler = Callable[[str], Awaitable[HttpResponse]]


class HttpServer:
    """Serves ``handlers``, by path, at ``address``, a ``HOST:PORT`` as in the settings."""

    def __init__(self, address: str, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._socket = _listen(address)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._open: dict[_Connection, None] = {}
        """The oldest first."""
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """The address it listens on, with the real port if 0 was requested."""
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def close(self) -> None:
        """Stop listening and abort open connections."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        # asyncio accepts ``backlog`` connections at a time, and sets it as the kernel's queue, too.
        server = await self._loop.create_server(
            lambda: _Connection(self._admit, self._forget, self._response),
            sock=self._socket,
            backlog=_ACCEPTED_TOGETHER,
        )
        self._socket.listen(_BACKLOG)
        await self._stop.wait()
        server.close()
        while self._open:
            for connection in self._open:
                connection.abort()
            await asyncio.sleep(0)

    def _admit(self, new: "_Connection") -> None:
        """Count a connection; evict another one if there are too many."""
        if len(self._open) >= _CONNECTIONS:
            (crowd, _count), *_others = Counter(one.host for one in self._open).most_common(1)
            oldest = next(one for one in self._open if one.host == crowd)
            oldest.abort()
            self._forget(oldest)
        self._open[new] = None

    def _forget(self, connection: "_Connection") -> None:
        self._open.pop(connection, None)

    async def _response(self, request: bytes) -> bytes:
        found = _REQUEST.match(request)
        method = found[1] if found else b""
        if found is None:
            answer = HttpResponse(400, b"expected an HTTP request\n")
        elif method not in {b"GET", b"HEAD"}:
            answer = HttpResponse(405, b"expected GET or HEAD\n")
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

    async def _answer(self, path: str, accept: str) -> HttpResponse:
        handler = self._handlers.get(path)
        if handler is None:
            return HttpResponse(404, f"nothing here; try {' '.join(self._handlers)}\n".encode())
        try:
            return await handler(accept)
        except Exception:  # noqa: BLE001 - a fault in one request must not end the thread
            _log.exception("http-request-failed", path=path)
            return HttpResponse(500, b"the daemon could not answer; its log says why\n")


class _Connection(asyncio.Protocol):
    """One connection: reads and answers one request within one deadline."""

    def __init__(
        self,
        admit: Callable[["_Connection"], None],
        forget: Callable[["_Connection"], None],
        respond: Callable[[bytes], Awaitable[bytes]],
    ) -> None:
        self._admit = admit
        self._forget = forget
        self._respond = respond
        self._request = b""
        self._answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection and start its deadline."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - narrows typeshed's type
        self._transport = transport
        # None if the client is gone already.
        self.host = (transport.get_extra_info("peername") or ("",))[0]
        self._deadline = asyncio.get_running_loop().call_later(_DEADLINE_SECONDS, self.abort)
        self._admit(self)

    def data_received(self, data: bytes) -> None:
        """Answer when the request is complete."""
        self._request += data
        if b"\r\n\r\n" in self._request[:_REQUEST_BYTES]:
            self._transport.pause_reading()
            self._answering = asyncio.get_running_loop().create_task(self._answer())
        elif len(self._request) > _REQUEST_BYTES:
            self.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        """Unregister the connection."""
        self._deadline.cancel()
        if self._answering is not None:
            self._answering.cancel()
        self._forget(self)

    def abort(self) -> None:
        """Abort the connection: it is too slow, or evicted."""
        self._transport.abort()

    async def _answer(self) -> None:
        self._transport.write(await self._respond(self._request))
        self._transport.close()  # after all is written; the deadline bounds that


def _accept(request: bytes) -> str:
    found = _ACCEPT.search(request)
    return found[1].decode("latin-1") if found else ""


def _listen(address: str) -> socket.socket:
    """Return a socket that listens on ``address``. Raises ``SettingsError``."""
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
            listener.listen(_BACKLOG)
        except OSError as error:
            raise SettingsError(
                f"WASMDROP_HTTP: can't listen on {address}: {error.strerror}"
            ) from None
        undo.pop_all()
        return listener
