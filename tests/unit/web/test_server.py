"""The HTTP server: a prober among slow clients is always answered, at a bounded cost."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.daemon import wait_until
from wasmdrop.service.health import writability
from wasmdrop.service.health.writability import WritabilityProbe
from wasmdrop.web import connection as http_connection
from wasmdrop.web import server as http_server
from wasmdrop.web.message import HttpRequest, HttpResponse
from wasmdrop.web.server import HttpServer

#: More than there are places.
CROWD = 300

#: Larger than what two sockets buffer unread, with the small buffers of these clients.
LARGE = bytes(1 << 17)


async def small(_request: HttpRequest) -> HttpResponse:
    """Answer a probe."""
    return HttpResponse(200, b"well\n")


async def large(_request: HttpRequest) -> HttpResponse:
    """Answer with more than the buffers of a client that does not read."""
    return HttpResponse(200, LARGE)


async def echo(request: HttpRequest) -> HttpResponse:
    """Answer with the request."""
    shown = f"{request.method} {request.path} {request.query} {request.header('x-a')}\n"
    return HttpResponse(200, shown.encode() + request.body, headers=(("X-B", "c"),))


async def never(_request: HttpRequest) -> HttpResponse:
    """Never answer."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError


@pytest.fixture
def served() -> Iterator[HttpServer]:
    """Start a server on a port of the kernel's choice."""
    it = HttpServer("127.0.0.1:0", {"/small": small, "/large": large, "/never": never}, echo)
    it._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # of connections, too
    yield it
    probe(it)  # after it none is just being accepted, which asyncio would leave unclosed
    it.close()


def connect(served: HttpServer, source: str = "127.0.0.1", **options: int) -> socket.socket:
    """Return a connection from that address."""
    host, _, port = served.address.rpartition(":")
    client = socket.socket()
    for name, value in options.items():
        client.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    client.settimeout(60)
    client.bind((source, 0))
    client.connect((host, int(port)))
    return client


def answered(client: socket.socket) -> bytes:
    """Return the response; empty if the server aborted the connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := client.recv(65536):
            received += part
    return received


def probe(served: HttpServer) -> bytes:
    """Send a request and return the response."""
    with connect(served) as client:
        client.sendall(b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n")
        return answered(client)


class Crowd:
    """Slow clients; an aborted one reconnects before the next probe."""

    def __init__(self, served: HttpServer, first: bytes, then: bytes) -> None:
        self._served = served
        self._first = first
        self._then = then
        self._clients = [self._new() for _ in range(CROWD)]

    def _new(self) -> socket.socket:
        client = connect(self._served, SO_RCVBUF=4096)
        client.sendall(self._first)
        return client

    def press(self) -> None:
        """Let each send a little more, or reconnect."""
        for number, client in enumerate(self._clients):
            try:
                client.sendall(self._then)
            except ConnectionError:
                client.close()
                self._clients[number] = self._new()

    def leave(self) -> None:
        """Close all."""
        for client in self._clients:
            client.close()


@contextlib.contextmanager
def crowded(served: HttpServer, first: bytes, then: bytes) -> Iterator[Crowd]:
    """Keep hundreds of slow clients connected while the block runs."""
    crowd = Crowd(served, first, then)
    try:
        yield crowd
    finally:
        crowd.leave()


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"", b""),
        (b"GET /small HTT", b"P"),
        (b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n", b"x"),
        (b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n", b"x"),
    ],
    ids=["silent", "trickling", "not reading", "awaiting"],
)
def test_http_server_prober_among_slow_clients_is_answered(
    served: HttpServer, first: bytes, then: bytes
) -> None:
    """In whatever they are slow; the number of connections is bounded."""
    with crowded(served, first, then) as crowd:
        for _ in range(20):
            crowd.press()
            assert probe(served).endswith(b"well\n")
            assert len(served._open) <= http_server._CONNECTIONS


def test_http_server_descriptors_are_bounded_and_released(served: HttpServer) -> None:
    """Also with far more clients than connections allowed."""
    with contextlib.ExitStack() as stack:
        own = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(CROWD):
            stack.enter_context(connect(served))
        probe(served)
        # Those that were cut off were so before the prober had its answer.
        held = len(list(Path("/proc/self/fd").iterdir())) - own - CROWD
        assert held <= http_server._CONNECTIONS


def test_http_server_request_under_way_survives_new_connections(served: HttpServer) -> None:
    """As many as there are other connections."""
    with connect(served) as prober, contextlib.ExitStack() as stack:
        for _ in range(http_server._CONNECTIONS - 1):
            stack.enter_context(connect(served))
        prober.sendall(b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answered(prober).endswith(b"well\n")


def test_http_server_flood_from_one_address_evicts_its_own(served: HttpServer) -> None:
    """A slow request from another address survives."""
    with connect(served) as prober, contextlib.ExitStack() as stack:
        for _ in range(CROWD):
            stack.enter_context(connect(served, "127.0.0.2"))
        prober.sendall(b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answered(prober).endswith(b"well\n")


CHUNKED: Final = (
    b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\nxy\r\n1\r\nz\r\n0\r\n\r\n"
)


def exchange(served: HttpServer, request: bytes) -> bytes:
    """Send bytes and return the response."""
    with connect(served) as client:
        client.sendall(request)
        return answered(client)


@pytest.mark.parametrize(
    ("request_bytes", "status", "body"),
    [
        (
            b"GET /a?b=%20 HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-a: 2\r\n\r\n",
            200,
            b"GET /a b=%20 1, 2\n",
        ),
        (b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n", 200, b""),
        (b"GET /a HTTP/1.0\r\n\r\n", 200, b"GET /a  \n"),
        (b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxyz", 200, b"POST /a  \nxyz"),
        (
            CHUNKED,
            *(200, b"POST /a  \nxyz"),
        ),
        (b"POST /small HTTP/1.1\r\nHost: a\r\n\r\n", 405, b"expected GET or HEAD\n"),
        (b"GET /a HTTP/1.1\r\n\r\n", 400, b"expected an HTTP request\n"),
        (b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, None),
        (b"\x16\x03\x01 what\r\n\r\n", 400, b"expected an HTTP request\n"),
        (
            b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            400,
            None,
        ),
        (b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400, None),
        (b"GET /a HTTP/1.1\r\nHost: a\r\n X: folded\r\n\r\n", 200, b"GET /a  \n"),
        (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400, None),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400, None),
    ],
)
def test_http_server_request_gets_the_status_that_the_protocol_demands(
    served: HttpServer, request_bytes: bytes, status: int, body: bytes | None
) -> None:
    """Each connection answers one request, and closes."""
    response = exchange(served, request_bytes)
    head, _, received = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in head.lower()
    assert body is None or received == body


def test_http_server_body_beyond_its_limit_is_refused(served: HttpServer) -> None:
    """However it is sent; it is not kept."""
    most = http_connection._BODY_BYTES
    head = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
    assert exchange(served, head % most + b"x" * most).startswith(b"HTTP/1.1 200 ")
    assert exchange(served, head % (most + 1) + b"x" * (most + 1)).startswith(b"HTTP/1.1 413 ")


def test_http_server_headers_beyond_their_limit_are_cut_off(served: HttpServer) -> None:
    """Complete or not."""
    for end in (b"", b"\r\n\r\n"):
        request = b"GET /a HTTP/1.1\r\nHost: a\r\nX-A: " + b"x" * 9000 + end
        assert exchange(served, request) == b""


def test_http_server_large_response_is_complete(served: HttpServer) -> None:
    """It is written in parts, as the client reads them."""
    response = exchange(served, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
    assert response.partition(b"\r\n\r\n")[2] == LARGE


def test_http_server_slow_readers_hold_a_bounded_amount(
    served: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first ones are evicted; a client that reads gets all of its response."""
    monkeypatch.setattr(http_server, "_HELD_BYTES", 10 * len(LARGE))
    request = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n"
    with crowded(served, request, b"x"), connect(served) as reader:
        probe(served)
        held = dict(served._open)
        assert 0 < sum(held.values()) <= http_server._HELD_BYTES
        for connection in held:
            buffered = connection._transport.get_write_buffer_size()
            assert buffered <= 2 * http_connection._PART_BYTES
        reader.sendall(request)
        assert answered(reader).endswith(LARGE)
    wait_until(lambda: not served._open, "the end of all")
    assert served._held_bytes == 0


def test_http_server_background_runs_until_the_server_is_closed() -> None:
    """On the loop of the server."""
    ran = threading.Event()
    ended = threading.Event()

    async def background() -> None:
        ran.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    it = HttpServer("127.0.0.1:0", {"/small": small}, background=background)
    assert ran.wait(30)
    it.close()
    assert ended.is_set()


def test_http_server_slow_client_is_aborted(
    served: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if no other client waits."""
    monkeypatch.setattr(http_connection, "_DEADLINE_SECONDS", 0.05)
    with connect(served) as client:
        client.sendall(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answered(client) == b""


def test_http_server_closes_with_connected_clients() -> None:
    """It aborts their connections."""
    it = HttpServer("127.0.0.1:0", {"/small": small})
    with connect(it) as client:
        probe(it)  # so the other has been accepted
        it.close()
        assert answered(client) == b""


def test_http_server_hanging_mount_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It delays no other path, no later request and not the end of the server."""
    hung, release = [], threading.Event()

    def hang(directory: Path) -> str | None:
        hung.append(directory)
        release.wait(600)
        return None

    monkeypatch.setattr(writability, "_why_not_writable", hang)
    looked_at = WritabilityProbe({"shared": tmp_path})

    async def ready(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, ";".join(await looked_at.problems()).encode())

    it = HttpServer("127.0.0.1:0", {"/small": small, "/ready": ready})
    try:
        with contextlib.ExitStack() as stack:
            asking = [stack.enter_context(connect(it)) for _ in range(50)]
            for client in asking:
                client.sendall(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
            assert probe(it).endswith(b"well\n")
            problem = b"the shared directory can't be written to: no answer for 2 s"
            assert all(answered(client).endswith(problem) for client in asking)
        # From now on nobody waits: without that, a hundred questions would take 200 s.
        for _ in range(100):
            with connect(it) as client:
                client.sendall(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
                assert answered(client).endswith(problem)
        assert hung == [tmp_path]
    finally:
        it.close()
        release.set()


def test_http_server_many_requests_are_few_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finding is reused for a while, then checked again."""
    looks: list[Path] = []
    monkeypatch.setattr(writability, "_why_not_writable", looks.append)
    monkeypatch.setattr(writability, "_FRESH_SECONDS", 600)

    async def ask() -> None:
        looked_at = WritabilityProbe({"shared": tmp_path})
        for _ in range(1000):
            assert await looked_at.problems() == []
        assert len(looks) == 1
        monkeypatch.setattr(writability, "_FRESH_SECONDS", -1)
        await looked_at.problems()
        assert len(looks) == 2

    asyncio.run(ask())
