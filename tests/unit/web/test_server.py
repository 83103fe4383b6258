"""The HTTP server: a prober among slow clients is always answered, at a bounded cost."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from wasmdrop.service.health import writability
from wasmdrop.service.health.writability import WritabilityProbe
from wasmdrop.web import server as http_server
from wasmdrop.web.server import HttpResponse, HttpServer

#: More than there are places.
CROWD = 300

#: Larger than what two sockets buffer unread, with the small buffers of these clients.
LARGE = bytes(1 << 18)


async def small(_accept: str) -> HttpResponse:
    """Answer a probe."""
    return HttpResponse(200, b"well\n")


async def large(_accept: str) -> HttpResponse:
    """Answer with more than the buffers of a client that does not read."""
    return HttpResponse(200, LARGE)


async def never(_accept: str) -> HttpResponse:
    """Never answer."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError


@pytest.fixture
def served() -> Iterator[HttpServer]:
    """Start a server on a port of the kernel's choice."""
    it = HttpServer("127.0.0.1:0", {"/small": small, "/large": large, "/never": never})
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
        client.sendall(b"GET /small HTTP/1.1\r\n\r\n")
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
        (b"GET /large HTTP/1.1\r\n\r\n", b"x"),
        (b"GET /never HTTP/1.1\r\n\r\n", b"x"),
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
        prober.sendall(b"GET /small HTTP/1.1\r\n\r\n")
        assert answered(prober).endswith(b"well\n")


def test_http_server_flood_from_one_address_evicts_its_own(served: HttpServer) -> None:
    """A slow request from another address survives."""
    with connect(served) as prober, contextlib.ExitStack() as stack:
        for _ in range(CROWD):
            stack.enter_context(connect(served, "127.0.0.2"))
        prober.sendall(b"GET /small HTTP/1.1\r\n\r\n")
        assert answered(prober).endswith(b"well\n")


def test_http_server_slow_client_is_aborted(
    served: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if no other client waits."""
    monkeypatch.setattr(http_server, "_DEADLINE_SECONDS", 0.05)
    with connect(served) as client:
        client.sendall(b"GET /never HTTP/1.1\r\n\r\n")
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

    async def ready(_accept: str) -> HttpResponse:
        return HttpResponse(200, ";".join(await looked_at.problems()).encode())

    it = HttpServer("127.0.0.1:0", {"/small": small, "/ready": ready})
    try:
        with contextlib.ExitStack() as stack:
            asking = [stack.enter_context(connect(it)) for _ in range(50)]
            for client in asking:
                client.sendall(b"GET /ready HTTP/1.1\r\n\r\n")
            assert probe(it).endswith(b"well\n")
            problem = b"the shared directory can't be written to: no answer for 2 s"
            assert all(answered(client).endswith(problem) for client in asking)
        # From now on nobody waits: without that, a hundred questions would take 200 s.
        for _ in range(100):
            with connect(it) as client:
                client.sendall(b"GET /ready HTTP/1.1\r\n\r\n")
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
