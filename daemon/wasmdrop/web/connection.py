"""One connection of the HTTP server: reads one request and writes the response.

h11 parses the request, as HTTP/1.1 requires it (RFC 9112). One deadline bounds the life of the
connection. The response is written in parts as the client reads them, so that
asyncio holds only one of them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import h11

from wasmdrop.web.message import HttpRequest, HttpResponse

#: The longest life of a connection, in seconds.
_DEADLINE_SECONDS: Final = 5.0

#: Longest request line with headers, and longest body, in bytes.
_REQUEST_BYTES: Final = 8192
_BODY_BYTES: Final = 8192

#: Bytes of a response that are given to asyncio at a time.
_PART_BYTES: Final = 64 * 1024

#: The status that h11 gives requests whose headers are too long.
_TOO_LONG: Final = 431


_REASONS: Final = {
    200: "OK",
    303: "See Other",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    413: "Content Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Crowd(Protocol):
    """The connections of a server, which evicts some of them."""

    def enter(self, connection: "Connection") -> None:
        """Add a new connection."""

    def hold(self, connection: "Connection", size_bytes: int) -> None:
        """Count the response that a connection is about to write."""

    def leave(self, connection: "Connection") -> None:
        """Remove a connection, which may have been removed before."""


class Connection(asyncio.Protocol):
    """One connection; ``respond`` answers its request."""

    def __init__(
        self, crowd: Crowd, respond: Callable[[HttpRequest], Awaitable[HttpResponse]]
    ) -> None:
        self._crowd = crowd
        self._respond = respond
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_REQUEST_BYTES)
        self._request: h11.Request | None = None
        self._received_bytes = 0
        self._body = b""
        self._answering: asyncio.Task[None] | None = None
        self._may_write = asyncio.Event()
        self._may_write.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection and start its deadline."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - narrows typeshed's type
        self._transport = transport
        # None if the client is gone already.
        self.host = (transport.get_extra_info("peername") or ("",))[0]
        self._deadline = asyncio.get_running_loop().call_later(_DEADLINE_SECONDS, self.abort)
        self._crowd.enter(self)

    def data_received(self, data: bytes) -> None:
        """Answer when the request is complete."""
        self._received_bytes += len(data)
        self._http.receive_data(data)
        try:
            self._read()
        except h11.RemoteProtocolError as error:
            is_long = self._request is None and self._received_bytes > _REQUEST_BYTES
            if is_long or error.error_status_hint == _TOO_LONG:
                self.abort()
            else:
                self._begin(HttpResponse(400, b"expected an HTTP request\n"))

    def pause_writing(self) -> None:
        """Stop to write: the client reads slowly."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self._may_write.set()

    def connection_lost(self, _error: Exception | None) -> None:
        """Unregister the connection."""
        self._deadline.cancel()
        if self._answering is not None:
            self._answering.cancel()
        self._crowd.leave(self)

    def abort(self) -> None:
        """Abort the connection: it is too slow, or evicted."""
        self._transport.abort()

    def _read(self) -> None:
        """Parse the received bytes of the request. Raises ``h11.RemoteProtocolError``."""
        while self._answering is None:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._request = event
                if self._received_bytes - len(self._http.trailing_data[0]) > _REQUEST_BYTES:
                    self.abort()  # h11 bounds it only if it arrives in parts
                    return
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > _BODY_BYTES:
                    text = f"expected a body of at most {_BODY_BYTES} bytes\n"
                    self._begin(HttpResponse(413, text.encode()))
            elif isinstance(event, h11.EndOfMessage) and self._request is not None:
                self._begin(_decoded(self._request, self._body))
            else:
                return  # not complete yet, or the client has closed its side

    def _begin(self, message: HttpRequest | HttpResponse) -> None:
        """Answer a request, or refuse it with a response."""
        self._transport.pause_reading()
        self._answering = asyncio.get_running_loop().create_task(self._answer(message))

    async def _answer(self, message: HttpRequest | HttpResponse) -> None:
        if isinstance(message, HttpRequest):
            message = await self._respond(message)
        head = h11.Response(
            status_code=message.status,
            headers=[
                ("Content-Type", message.content_type),
                ("Content-Length", str(len(message.body))),
                ("Cache-Control", "no-store"),
                ("Connection", "close"),
                *message.headers,
            ],
            reason=_REASONS[message.status],
        )
        self._write(head)
        if self._request is None or self._request.method != b"HEAD":
            self._crowd.hold(self, len(message.body))
            body = memoryview(message.body)
            for start in range(0, len(body), _PART_BYTES):
                await self._may_write.wait()
                self._write(h11.Data(data=bytes(body[start : start + _PART_BYTES])))
        self._transport.close()  # after all is written; the deadline bounds that

    def _write(self, event: h11.Response | h11.Data) -> None:
        data = self._http.send(event)
        if data:
            self._transport.write(data)


def _decoded(request: h11.Request, body: bytes) -> HttpRequest | HttpResponse:
    target = request.target.decode("ascii")
    if not target.startswith("/"):
        return HttpResponse(400, b"expected a path that begins with a slash\n")
    path, _, query = target.partition("#")[0].partition("?")
    headers: dict[str, str] = {}
    for name, value in request.headers:
        key, text = name.decode("ascii"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return HttpRequest(request.method.decode("ascii"), path, query, headers, body)
