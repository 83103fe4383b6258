"""A server on loopback that sends exactly the bytes that a test wants, at the pace it wants."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from wasmdrop.unixfs.cid import Cid
from wasmdrop.unixfs.files import FileImporter
from wasmdrop.unixfs.profiles import DEFAULT_PROFILE, Profile

_HEAD_END: Final = b"\r\n\r\n"


@dataclass(frozen=True)
class Request:
    """The head of a request."""

    target: str
    headers: Mapping[str, str]
    """By name in lower case."""


#: Answers a request on its connection. The connection stays open unless this closes it.
Answer: TypeAlias = Callable[[Request, socket.socket], None]


@dataclass
class RawServer:
    """A running server."""

    port: int
    scheme: str
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"{self.scheme}://127.0.0.1:{self.port}"


@contextlib.contextmanager
def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[RawServer]:
    """Run a server for a block. Each connection has a thread, which ends with it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = RawServer(listener.getsockname()[1], "http" if tls is None else "https")
        threads: list[threading.Thread] = []
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    connection, _address = listener.accept()
                except OSError:  # the block has ended
                    return
                server.connections += 1
                held.append(connection)
                thread = threading.Thread(target=_serve, args=(server, answer, tls, connection))
                threads.append(thread)
                thread.start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for connection in held:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


def _serve(
    server: RawServer, answer: Answer, tls: ssl.SSLContext | None, connection: socket.socket
) -> None:
    # The client may break off at any time, and a hostile answer makes it.
    with connection, contextlib.suppress(OSError):
        served = connection if tls is None else tls.wrap_socket(connection, server_side=True)
        with served:
            received = b""
            while data := served.recv(65536):
                received += data
                while _HEAD_END in received:
                    head, _, received = received.partition(_HEAD_END)
                    request = _parse(head.decode("ascii"))
                    server.requests.append(request)
                    answer(request, served)


def _parse(head: str) -> Request:
    first, *lines = head.split("\r\n")
    method, target, version = first.split(" ")
    assert (method, version) == ("GET", "HTTP/1.1")
    pairs = (line.split(": ", 1) for line in lines)
    return Request(target, {name.lower(): value for name, value in pairs})


def head(status: str = "200 OK", *lines: str) -> bytes:
    """Return the head of an answer."""
    return "\r\n".join((f"HTTP/1.1 {status}", *lines, "", "")).encode("ascii")


def body(content: bytes, status: str = "200 OK", *lines: str) -> bytes:
    """Return a whole answer with its length."""
    return head(status, f"Content-Length: {len(content)}", *lines) + content


def blocks_of(data: bytes, profile: Profile = DEFAULT_PROFILE) -> tuple[Cid, dict[str, bytes]]:
    """Return the CID of a file and all its blocks, by the texts of their CIDs."""
    blocks: dict[str, bytes] = {}
    importer = FileImporter(profile, lambda cid, block: blocks.__setitem__(cid.text, block))
    importer.update(data)
    return importer.finish().cid, blocks


def gateway(blocks: Mapping[str, bytes], path: str = "") -> Answer:
    """Return the answers of an honest gateway below ``path`` that has these blocks."""

    def answer(request: Request, connection: socket.socket) -> None:
        cid = request.target.removeprefix(f"{path}/ipfs/").removesuffix("?format=raw")
        block = blocks.get(cid)
        if block is None:
            connection.sendall(body(b"no such block\n", "404 Not Found"))
        else:
            connection.sendall(body(block, "200 OK", "Content-Type: application/vnd.ipld.raw"))

    return answer
