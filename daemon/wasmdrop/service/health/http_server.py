"""The HTTP endpoint: answers GET of a few fixed paths, on a thread and an event loop of its own.

Promises that a probe is answered however many clients are slow, silent or gone: each connection has
one deadline for all it does, and where all places are taken, the new connection gets that of
another. It is taken from the address that has the most of them, and there from the oldest one, so
that a crowd at one address pushes out its own. Descriptors and memory are bounded by the number of
places.

Attacks that remain: clients at the prober's own address, or at as many addresses as there are
places, push it out if they connect `_CONNECTIONS` times between its connection and the arrival of
its request, which takes a prober nearby less than a millisecond. And each connection costs some
processor time, here and in the kernel. Against both let only those reach the address who may ask:
it is meant for a pod, a host or a cluster, speaks no TLS and asks nobody who they are, and so tells
no names of files.
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

__all__ = ["Handler", "HttpResponse", "HttpServer"]

_log = structlog.get_logger()

#: Connections at a time. More than a prober and a few scrapers need: a new one, whose request is
#: still under way, is safe until as many came after it. Each takes a descriptor, of which a
#: container may have 1,024, and a few kilobytes.
_CONNECTIONS: Final = 128

#: Connections that are accepted before those of before are read again: few beside all places, as
#: what has arrived with a connection is to be read before it can be pushed out.
_ACCEPTED_TOGETHER: Final = 8

#: Connections that the kernel keeps until they are accepted. One that finds no room there comes a
#: second late.
_BACKLOG: Final = 1024

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


class HttpResponse(NamedTuple):
    """What a path answers."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


#: Gets the request's ``Accept`` header; runs on the endpoint's own event loop.
Handler = Callable[[str], Awaitable[HttpResponse]]


class HttpServer:
    """Serves ``handlers``, by path, at ``address``, a ``HOST:PORT`` as the settings allow it."""

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
        # asyncio accepts as many together as it lets the kernel keep; the latter is said anew.
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
                connection.cut_off()
            await asyncio.sleep(0)

    def _admit(self, new: "_Connection") -> None:
        """Give a connection a place, if need be that of another."""
        if len(self._open) >= _CONNECTIONS:
            (crowd, _count), *_others = Counter(one.host for one in self._open).most_common(1)
            oldest = next(one for one in self._open if one.host == crowd)
            oldest.cut_off()
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
        except Exception:  # noqa: BLE001 - one question's fault must not end the thread
            _log.exception("http-request-failed", path=path)
            return HttpResponse(500, b"the daemon could not answer; its log says why\n")


class _Connection(asyncio.Protocol):
    """One connection: a request is read and answered once, within one deadline."""

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
        """Take a place, and see to it that it is left in time."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - so typeshed has it
        self._transport = transport
        # None where it is gone already.
        self.host = (transport.get_extra_info("peername") or ("",))[0]
        self._deadline = asyncio.get_running_loop().call_later(_DEADLINE_SECONDS, self.cut_off)
        self._admit(self)

    def data_received(self, data: bytes) -> None:
        """HttpResponse when the request is there."""
        self._request += data
        if b"\r\n\r\n" in self._request[:_REQUEST_BYTES]:
            self._transport.pause_reading()
            self._answering = asyncio.get_running_loop().create_task(self._answer())
        elif len(self._request) > _REQUEST_BYTES:
            self.cut_off()

    def connection_lost(self, _error: Exception | None) -> None:
        """Leave the place."""
        self._deadline.cancel()
        if self._answering is not None:
            self._answering.cancel()
        self._forget(self)

    def cut_off(self) -> None:
        """End it at once: too slow, or its place is needed."""
        self._transport.abort()

    async def _answer(self) -> None:
        self._transport.write(await self._respond(self._request))
        self._transport.close()  # once all is written, which the deadline bounds


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
            listener.listen(_BACKLOG)
        except OSError as error:
            raise SettingsError(
                f"WASMDROP_HTTP: can't listen on {address}: {error.strerror}"
            ) from None
        undo.pop_all()
        return listener
