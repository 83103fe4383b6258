"""HTTP requests to one server, with bounds on everything that the server sends.

http.client follows no redirect, decompresses nothing and ignores the proxies of the environment. It
bounds neither the time nor the size of an answer: header lines, trailers and answers ``100
Continue`` may come forever, each within a socket's timeout. So all that it reads comes from
:class:`_Reader`, which counts bytes and time.
"""

import contextlib
import http.client
import io
import socket
import ssl
from collections.abc import Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Literal, cast

from wasmdrop.protocol.errors import FetchError
from wasmdrop.protocol.text import describe_value, one_line
from wasmdrop.web.deadline import Deadline
from wasmdrop.web.url import Origin

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

#: Most bytes of an answer's head, and of what a chunked body needs besides the data.
_HEAD_BYTES: Final = 64 * 1024
#: Each chunk of a chunked body has some bytes besides the data: no more than one for eight, as long
#: as chunks are not tiny on purpose.
_CHUNKING_RATIO: Final = 8

_READ_BYTES: Final = 64 * 1024
_BUFFER_BYTES: Final = 8 * 1024
_MAX_REASON_CHARACTERS: Final = 80


class HttpClient:
    """Sends requests to one server over a connection that it keeps."""

    def __init__(self, origin: Origin, deadline: Deadline) -> None:
        self._connection = _Connection(origin, deadline)
        self._deadline = deadline

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def get(self, target: str, accept: str, max_bytes: int) -> Iterator[bytes]:
        """Yield the body of the answer to ``GET target``, at most ``max_bytes``.

        Raises `FetchError`, which describes the answer. The caller must read to the end.
        """
        with explained(self._deadline):
            headers = {"Accept": accept, "Accept-Encoding": "identity", "User-Agent": "wasmdrop"}
            response = self._answer(target, headers)
            declared_bytes = _check_head(response, max_bytes)
            self._connection.allow(max_bytes + max_bytes // _CHUNKING_RATIO + _HEAD_BYTES)
            size_bytes = 0
            while chunk := response.read(_READ_BYTES):
                size_bytes += len(chunk)
                if size_bytes > max_bytes:
                    raise FetchError(f"more than {max_bytes} bytes")
                yield chunk
            if declared_bytes is not None and size_bytes < declared_bytes:
                raise FetchError(f"ended after {size_bytes} of {declared_bytes} bytes")

    def _answer(self, target: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        is_new = self._connection.sock is None
        try:
            return self._answer_once(target, headers)
        except ConnectionError:
            # A server may close a connection that it kept, at any time between two requests.
            if is_new:
                raise
        self._connection.close()
        return self._answer_once(target, headers)

    def _answer_once(self, target: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        self._connection.request("GET", target, headers=headers)
        self._connection.allow(_HEAD_BYTES)
        return self._connection.getresponse()


@contextlib.contextmanager
def explained(deadline: Deadline) -> Iterator[None]:
    """Raise `FetchError` instead of the errors of sockets and of http.client."""
    try:
        yield
    except TimeoutError:
        raise deadline.error() from None
    except http.client.RemoteDisconnected:
        raise FetchError("closed the connection without an answer") from None
    except http.client.IncompleteRead:
        raise FetchError("ended in the middle of the answer") from None
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or str(error)
        raise FetchError(f"no encrypted connection: {one_line(str(reason))}") from None
    except OSError as error:
        raise FetchError(f"connection failed: {error.strerror or error}") from None
    except (http.client.HTTPException, ValueError) as error:
        detail = describe_value(str(error))
        raise FetchError(f"not HTTP: {type(error).__name__} {detail}") from None


def _check_head(response: http.client.HTTPResponse, max_bytes: int) -> int | None:
    """Return the declared size of a body, which may be missing; refuse all but a plain one."""
    status = response.status
    location = response.headers.get("Location")
    if location is not None and HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        raise FetchError(
            f"answered {status} with a redirect to {describe_value(location)}, and redirects are"
            " not followed"
        )
    if status != HTTPStatus.OK:
        raise FetchError(f"answered {status} {one_line(response.reason, _MAX_REASON_CHARACTERS)}")
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise FetchError(
            f"answered with Content-Encoding {describe_value(encoding)}, and identity was asked for"
        )
    if response.length is not None and response.length > max_bytes:
        raise FetchError(f"declares {response.length} bytes, more than {max_bytes}")
    return response.length


class _Connection(http.client.HTTPConnection):
    """A connection whose every wait and every read is bounded."""

    def __init__(self, origin: Origin, deadline: Deadline) -> None:
        super().__init__(origin.host, origin.port)
        self.default_port = http.client.HTTPS_PORT if origin.is_encrypted else http.client.HTTP_PORT
        self._tls = ssl.create_default_context() if origin.is_encrypted else None
        self._deadline = deadline
        self._socket: _Socket | None = None

    def connect(self) -> None:
        """Connect; called by http.client."""
        connected = connect(self.host, self.port, self._deadline)
        if self._tls is not None:
            connected = self._tls.wrap_socket(connected, server_hostname=self.host)
        self._socket = _Socket(connected, self._deadline)
        self.sock = cast("socket.socket", self._socket)

    def allow(self, count: int) -> None:
        """Let the server send ``count`` bytes from now on."""
        if self._socket is not None:
            self._socket.allowed_bytes = count


def connect(host: str, port: int, deadline: Deadline) -> socket.socket:
    """Connect to the first address of ``host`` that answers."""
    failure: OSError | None = None
    for family, kind, protocol, _name, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        with contextlib.ExitStack() as closed_on_error:
            connecting = closed_on_error.enter_context(socket.socket(family, kind, protocol))
            connecting.settimeout(deadline.next_wait_seconds())
            try:
                connecting.connect(address)
            except OSError as error:
                failure = error
                continue
            closed_on_error.pop_all()
            return connecting
    raise failure or OSError("the host has no address")


class _Socket:
    """The part of a socket that http.client uses."""

    def __init__(self, connected: socket.socket, deadline: Deadline) -> None:
        self.allowed_bytes = 0
        self._connected = connected
        self._deadline = deadline

    def sendall(self, data: "ReadableBuffer") -> None:
        """Send ``data``."""
        self._connected.settimeout(self._deadline.next_wait_seconds())
        self._connected.sendall(data)

    def makefile(self, mode: Literal["rb"]) -> io.BufferedReader:
        """Return a file to read from. The connection stays open until it is closed, too."""
        raw = _Reader(self, self._connected.makefile(mode, buffering=0))
        # Much less than the head may have: the start of the body is read with it.
        return io.BufferedReader(raw, _BUFFER_BYTES)

    def receive(self, raw: socket.SocketIO, buffer: "WriteableBuffer") -> int:
        """Read what there is of ``raw`` into ``buffer``; return the number of bytes."""
        self._connected.settimeout(self._deadline.next_wait_seconds())
        count = raw.readinto(buffer) or 0
        self.allowed_bytes -= count
        if self.allowed_bytes < 0:
            raise FetchError("sends header lines or chunks without end")
        return count

    def close(self) -> None:
        """Close the connection as soon as nothing reads from it."""
        self._connected.close()


class _Reader(io.RawIOBase):
    """Reads an answer from a `_Socket`."""

    def __init__(self, source: _Socket, raw: socket.SocketIO) -> None:
        super().__init__()
        self._source = source
        self._raw = raw

    def readable(self) -> bool:
        """Return true."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read some bytes into ``buffer``; return their number."""
        return self._source.receive(self._raw, buffer)

    def close(self) -> None:
        """Close the connection if the socket is closed, too."""
        self._raw.close()
        super().close()
