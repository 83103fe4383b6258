"""POST requests over a kept connection: when it is used again, and bounds on the server."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.certificates import server_certificate
from wasmdrop.protocol.errors import FetchError
from wasmdrop.web.posting import HttpAnswer, PostClient
from wasmdrop.web.url import Origin

OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Server:
    """Answers the requests of each connection with the next bytes of a script, then closes it."""

    def __init__(self, connections: list[list[bytes]], tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[int, bytes]] = []
        """The connection and the content of each request."""
        self._connections = connections
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._tls = tls
        self.port: int = self._listener.getsockname()[1]

    @contextlib.contextmanager
    def running(self) -> Iterator["Server"]:
        """Serve for a block, one connection after the other."""
        thread = threading.Thread(target=self._serve)
        thread.start()
        try:
            yield self
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            self._listener.close()

    def _serve(self) -> None:
        for number, answers in enumerate(self._connections):
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return  # the test is over
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection:
                for answer in answers:
                    if not (request := _read(connection)):
                        break
                    self.requests.append((number, request))
                    for part in answer.split(b"|"):
                        connection.sendall(part)


def _read(connection: socket.socket) -> bytes:
    """Return a request, whose body is ``body``."""
    request = b""
    while not request.endswith(b"\r\n\r\nbody"):
        if not (data := connection.recv(65536)):
            return b""
        request += data
    return request


@contextlib.contextmanager
def client_of(server: Server, authority: Path | None = None) -> Iterator[PostClient]:
    """Give a client, which is closed at the end."""
    origin = Origin(authority is not None, "127.0.0.1", server.port)
    with contextlib.closing(
        PostClient(origin, lambda: ssl.create_default_context(cafile=authority))
    ) as client:
        yield client


def post(client: PostClient) -> HttpAnswer:
    """Send a request."""
    return client.post("/path", {"X-One": "1"}, b"body", 60)


def test_post_client_uses_its_connection_again() -> None:
    """Provisional answers and bodies are skipped, in whatever parts they come."""
    answers = [
        OK,
        b"HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2|02 Taken\r\nCONTENT-LENGTH: 4\r|\n\r\nbo|dy",
        b"HTTP/1.1 503 Busy\nRetry-After: 7\nContent-Length:0\n\n",
    ]
    with Server([answers]).running() as server, client_of(server) as client:
        found = [post(client) for _ in answers]
    assert [answer.status for answer in found] == [200, 204, 202, 503]
    assert found[3] == HttpAnswer(503, "Busy", "7")
    host = f"Host: 127.0.0.1:{server.port}".encode()
    lines = [b"POST /path HTTP/1.1", host, b"Content-Length: 4", b"X-One: 1", b"", b"body"]
    assert server.requests == [(0, b"\r\n".join(lines))] * len(answers)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nto the end",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 500 Not asked for\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
    ],
)
def test_post_client_opens_another_connection_if_the_end_of_an_answer_is_unclear(
    answer: bytes,
) -> None:
    """No answer is taken for that of the next request."""
    with Server([[answer], [OK]]).running() as server, client_of(server) as client:
        assert post(client).status in {200, 101}
        assert not client.is_open
        assert post(client).status == 200
    assert [number for number, _request in server.requests] == [0, 1]


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_post_client_repeats_a_request_if_the_kept_connection_was_closed(
    tmp_path: Path, is_encrypted: bool
) -> None:
    """Before the request or after it, without an answer."""
    tls, authority = server_certificate(tmp_path, "127.0.0.1") if is_encrypted else (None, None)
    connections = [[OK], [OK, b""], [OK]]
    with Server(connections, tls).running() as server, client_of(server, authority) as client:
        assert [post(client).status for _ in range(3)] == [200] * 3
    assert [number for number, _request in server.requests] == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed the connection without an answer"),
        (b"HTTP/1.1 200", "ended in the middle of the answer"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "not HTTP"),
        (b"HTTP/2 200\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 30_000, "header lines without end"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, "header lines without end"),
    ],
)
def test_post_client_answer_that_is_not_whole_is_an_error(answer: bytes, reason: str) -> None:
    """On a new connection nothing is repeated."""

    class Hostile(Server):
        def _serve(self) -> None:
            with contextlib.suppress(ConnectionError):  # the client has had enough
                super()._serve()

    with Hostile([[answer], [OK]]).running() as server, client_of(server) as client:
        with pytest.raises(FetchError, match=reason):
            post(client)
        assert not client.is_open
    assert len(server.requests) == 1


def test_post_client_sends_no_header_with_a_line_break() -> None:
    """It would be another header."""
    with Server([]).running() as server, client_of(server) as client:
        for value in ("a\r\nb", "a\nb", "a\rb"):
            with pytest.raises(FetchError, match="line break"):
                client.post("/", {"X-One": value}, b"body", 60)


def test_post_client_server_that_is_silent_is_an_error_after_the_timeout() -> None:
    """In all, not for each read."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        origin = Origin(False, "127.0.0.1", listener.getsockname()[1])
        client = PostClient(origin, ssl.create_default_context)
        with pytest.raises(FetchError, match=r"not complete after 0\.1 s"):
            client.post("/", {}, b"body", 0.1)
