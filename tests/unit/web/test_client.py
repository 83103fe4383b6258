"""HTTP requests with bounds: sizes, times, and reuse of the connection."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.certificates import server_certificate
from tests.support.raw_server import Answer, RawServer, Request, body, head, serving
from wasmdrop.protocol.errors import FetchError
from wasmdrop.web.client import HttpClient
from wasmdrop.web.deadline import Deadline
from wasmdrop.web.url import Origin

LIMIT: Final = 100_000


@contextlib.contextmanager
def client_of(answer: Answer) -> Iterator[tuple[HttpClient, RawServer]]:
    """Give a client of a server with these answers."""
    with serving(answer) as server:
        origin = Origin(False, "127.0.0.1", server.port)
        with contextlib.closing(HttpClient(origin, Deadline(600))) as client:
            yield client, server


def say_hi(_request: Request, connection: socket.socket) -> None:
    """Answer with two bytes."""
    connection.sendall(body(b"hi"))


def get(client: HttpClient, target: str = "/") -> bytes:
    """Return a body."""
    return b"".join(client.get(target, "application/vnd.ipld.raw", LIMIT))


def test_http_request_asks_for_the_plain_content() -> None:
    """Target and headers as given; no compression."""
    with client_of(say_hi) as (
        client,
        server,
    ):
        assert get(client, "/a?b=c") == b"hi"
    assert server.requests[0].target == "/a?b=c"
    assert dict(server.requests[0].headers) == {
        "host": f"127.0.0.1:{server.port}",
        "accept": "application/vnd.ipld.raw",
        "accept-encoding": "identity",
        "user-agent": "wasmdrop",
    }


def chunked(content: bytes, size: int) -> bytes:
    """Return an answer in chunks of ``size``."""
    parts = (content[at : at + size] for at in range(0, len(content), size))
    framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return head("200 OK", "Transfer-Encoding: chunked") + framed + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [0, 1, LIMIT])
def test_http_body_up_to_the_limit_is_read_and_the_connection_kept(size: int) -> None:
    """With a length and in chunks."""
    content = b"x" * size
    answers = [body(content), chunked(content, 8192), body(content)]
    with client_of(lambda _request, connection: connection.sendall(answers.pop(0))) as (
        client,
        server,
    ):
        assert [get(client) for _ in range(3)] == [content] * 3
    assert server.connections == 1


def test_http_body_without_a_length_ends_with_the_connection() -> None:
    """The next request opens another one."""

    def answer(_request: Request, connection: socket.socket) -> None:
        connection.sendall(head() + b"hi")
        connection.shutdown(socket.SHUT_RDWR)

    with client_of(answer) as (client, server):
        assert (get(client), get(client)) == (b"hi", b"hi")
    assert server.connections == 2


def test_http_connection_that_the_server_closed_meanwhile_is_opened_again() -> None:
    """A server may end a connection at any time between two requests."""

    def answer(request: Request, connection: socket.socket) -> None:
        connection.sendall(body(request.target.encode()))
        connection.shutdown(socket.SHUT_WR)

    with client_of(answer) as (client, server):
        assert (get(client, "/1"), get(client, "/2")) == (b"/1", b"/2")
    assert server.connections == 2


def test_http_request_that_can_not_be_sent_on_a_kept_connection_is_sent_on_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As above, if the end of the connection is seen earlier."""

    def fail(_data: bytes) -> None:
        raise BrokenPipeError

    with client_of(say_hi) as (client, server):
        assert get(client) == b"hi"
        monkeypatch.setattr(client._connection.sock, "sendall", fail)
        assert get(client) == b"hi"
    assert server.connections == 2


def test_http_server_that_never_answers_is_asked_once() -> None:
    """A new connection that ends without an answer is an error."""
    with client_of(lambda _request, connection: connection.shutdown(socket.SHUT_RDWR)) as (
        client,
        server,
    ):
        with pytest.raises(FetchError, match="closed the connection without an answer"):
            get(client)
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        body(b"", "404 \x1b]0;owned\x07"),
        body(b"", "301 Found", "Location: \x1b]0;owned\x07"),
        body(b"", "200 OK", "Content-Encoding: \x1b]0;owned\x07"),
        b"\x1b]0;owned\x07\n",
    ],
)
def test_http_error_with_escape_sequences_is_one_line(answer: bytes) -> None:
    """All that the server says is escaped."""
    with client_of(lambda _request, connection: connection.sendall(answer)) as (client, _server):
        with pytest.raises(FetchError, match="owned") as caught:
            get(client)
        assert str(caught.value).isprintable()


def test_http_second_address_is_tried_if_the_first_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A host may have an IPv6 address at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        refusing = unused.getsockname()[1]
    with client_of(say_hi) as (
        client,
        server,
    ):
        kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
        addresses = [(*kind, ("127.0.0.1", port)) for port in (refusing, server.port)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_flags: addresses)
        assert get(client) == b"hi"


def test_http_host_without_an_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the reason of the system."""

    def fail(*_args: object, **_flags: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    client = HttpClient(Origin(False, "nowhere.invalid", 80), Deadline(600))
    with pytest.raises(FetchError, match="connection failed: Name or service not known"):
        get(client)


@pytest.mark.parametrize("allowed_waits", range(2, 12))
def test_http_deadline_ends_a_request_at_each_step(allowed_waits: int) -> None:
    """Connecting, sending, and each read: here after so many waits, by a clock of the test."""
    readings = 0

    def clock() -> float:
        nonlocal readings
        readings += 1
        return float(readings > allowed_waits) * 600

    def drip(_request: Request, connection: socket.socket) -> None:
        for byte in head("200 OK", "Content-Length: 1000000"):
            connection.sendall(bytes((byte,)))
        while True:
            connection.sendall(b"x")

    with serving(drip) as server:
        origin = Origin(False, "127.0.0.1", server.port)
        with (
            contextlib.closing(HttpClient(origin, Deadline(600, clock))) as client,
            pytest.raises(FetchError, match="not complete after 600 s"),
        ):
            list(client.get("/", "*/*", 10_000_000))


@pytest.mark.parametrize(
    ("is_trusted", "address"), [(True, "127.0.0.1"), (False, "127.0.0.1"), (True, "127.0.0.2")]
)
def test_http_certificate_must_be_trusted_and_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, *, is_trusted: bool
) -> None:
    """By the authorities of the system, or those of SSL_CERT_FILE."""
    context, authority = server_certificate(tmp_path, address)
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with serving(say_hi, context) as server:
        origin = Origin(True, "127.0.0.1", server.port)
        with contextlib.closing(HttpClient(origin, Deadline(600))) as client:
            if is_trusted and address == "127.0.0.1":
                assert (get(client), get(client)) == (b"hi", b"hi")
                assert server.connections == 1
                assert server.requests[0].headers["host"] == f"127.0.0.1:{server.port}"
            else:
                with pytest.raises(
                    FetchError, match=r"no encrypted connection: .*(issuer|mismatch)"
                ):
                    get(client)
                assert server.requests == []
