"""POST requests, one after the other, over a connection to one server that stays open.

This client knows the part of HTTP/1.1 (RFC 9112) that an answer to a POST needs: it follows no
redirect, returns no body, and reads a bounded number of bytes. http.client takes several times the
processor time for a request.
"""

import re
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from wasmdrop.protocol.errors import FetchError
from wasmdrop.protocol.text import describe_value
from wasmdrop.web.client import connect, explained
from wasmdrop.web.deadline import Deadline
from wasmdrop.web.url import Origin

#: Most bytes of an answer that are read: its head, provisional answers before it, and its body. The
#: connection is closed after an answer with a longer body.
_MAX_BYTES: Final = 64 * 1024

_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_LINE_END: Final = re.compile(rb"\r?\n")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: (.*))?")

_SWITCHING_PROTOCOLS: Final = 101
_LAST_PROVISIONAL: Final = 199
_NO_CONTENT: Final = 204


class HttpAnswer(msgspec.Struct, frozen=True):
    """The head of an answer."""

    status: int
    reason: str
    """As the server sent it."""
    retry_after: str | None


class _ClosedError(Exception):
    """The server closed the connection before it began to answer."""


class PostClient:
    """Sends requests to one server; used by one thread at a time.

    ``tls``: returns how a server with https is verified; called for each new connection.
    """

    def __init__(self, origin: Origin, tls: Callable[[], ssl.SSLContext]) -> None:
        self._origin = origin
        self._tls = tls
        self._socket: socket.socket | None = None
        host = f"[{origin.host}]" if ":" in origin.host else origin.host.encode("idna").decode()
        default_port = 443 if origin.is_encrypted else 80
        self._host = host if origin.port == default_port else f"{host}:{origin.port}"

    @property
    def is_open(self) -> bool:
        """Whether there is a connection that the next request would use."""
        return self._socket is not None

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def post(
        self, target: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> HttpAnswer:
        """Send ``POST target`` and return the head of the answer.

        The request is sent twice if the server closed the connection that was kept: the server may
        have processed it. Raises `FetchError` if there is no answer.
        """
        deadline = Deadline(timeout_seconds)
        try:
            with explained(deadline):
                request = self._encode(target, headers, body)
                if self._socket is not None:
                    try:
                        return self._exchange(self._socket, request, deadline)
                    except (ConnectionError, _ClosedError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
                        self.close()
                self._socket = self._connect(deadline)
                return self._exchange(self._socket, request, deadline)
        except _ClosedError:
            self.close()
            raise FetchError("closed the connection without an answer") from None
        except BaseException:
            self.close()
            raise

    def _encode(self, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
        lines = [f"POST {target} HTTP/1.1", f"Host: {self._host}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join(lines)
        if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
            raise ValueError("a header with a line break")
        return f"{head}\r\n\r\n".encode("ascii") + body

    def _connect(self, deadline: Deadline) -> socket.socket:
        connected = connect(self._origin.host, self._origin.port, deadline)
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._origin.is_encrypted:
                return self._tls().wrap_socket(connected, server_hostname=self._origin.host)
        except BaseException:
            connected.close()
            raise
        return connected

    def _exchange(self, connected: socket.socket, request: bytes, deadline: Deadline) -> HttpAnswer:
        connected.settimeout(deadline.next_wait_seconds())
        connected.sendall(request)
        received = bytearray()
        start = 0
        while True:
            searched = start
            while (end := _HEAD_END.search(received, searched)) is None:
                searched = max(start, len(received) - 3)  # a part of the end may have arrived
                _receive(connected, received, deadline)
            version, answer, fields = _parse(bytes(received[start : end.start()]))
            start = end.end()
            if answer.status > _LAST_PROVISIONAL or answer.status == _SWITCHING_PROTOCOLS:
                break
        body_bytes = _body_bytes(answer.status, fields)
        tokens = fields.get(b"connection", b"").lower()
        is_kept = version == b"1" and b"close" not in tokens and body_bytes is not None
        if not is_kept or not _discard(connected, received, start + (body_bytes or 0), deadline):
            self.close()
        return answer


def _receive(connected: socket.socket, received: bytearray, deadline: Deadline) -> None:
    """Append some bytes to ``received``."""
    if len(received) > _MAX_BYTES:
        raise FetchError("sends header lines without end")
    connected.settimeout(deadline.next_wait_seconds())
    data = connected.recv(_MAX_BYTES)
    if not data:
        raise FetchError("ended in the middle of the answer") if received else _ClosedError
    received += data


def _parse(head: bytes) -> tuple[bytes, HttpAnswer, dict[bytes, bytes]]:
    """Return the minor version, the answer, and its header fields by name in lower case."""
    first, *lines = _LINE_END.split(head)
    found = _STATUS_LINE.fullmatch(first)
    if found is None:
        raise FetchError(f"not HTTP: {describe_value(first.decode('latin-1'))}")
    fields = {}
    for line in lines:
        name, _colon, value = line.partition(b":")
        fields[name.lower()] = value.strip()
    retry_after = fields.get(b"retry-after")
    answer = HttpAnswer(
        int(found[2]),
        (found[3] or b"").decode("latin-1"),
        None if retry_after is None else retry_after.decode("latin-1"),
    )
    return found[1], answer, fields


def _body_bytes(status: int, fields: Mapping[bytes, bytes]) -> int | None:
    """Return the size of a body; None if only the end of the connection would tell, or a parser."""
    if b"transfer-encoding" in fields:
        return None
    if status == _NO_CONTENT:
        return 0
    length = fields.get(b"content-length", b"")
    return int(length) if re.fullmatch(rb"[0-9]{1,9}", length) else None


def _discard(connected: socket.socket, received: bytearray, end: int, deadline: Deadline) -> bool:
    """Read to the end of an answer; return whether the next one would begin there."""
    try:
        while len(received) < end <= _MAX_BYTES:
            _receive(connected, received, deadline)
    except (OSError, FetchError):  # the answer itself has arrived
        return False
    return len(received) == end
