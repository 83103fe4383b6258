"""A receiver of webhooks on loopback that keeps all requests and answers as a test wants."""

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, TypeAlias


@dataclass(frozen=True)
class Received:
    """One request."""

    target: str
    headers: Mapping[str, str]
    """By name in lower case."""
    body: bytes

    @property
    def job_id(self) -> str:
        """The id of the job that has finished."""
        return self.headers["ce-id"]


#: The status of an answer and its headers.
Answer: TypeAlias = tuple[int, Mapping[str, str]]

TAKEN: Final[Answer] = (204, {})


def take(_request: Received) -> Answer:
    """Take every event."""
    return TAKEN


@dataclass
class Receiver:
    """A running receiver; a test may replace ``answer`` at any time."""

    answer: Callable[[Received], Answer] = take
    url: str = ""
    port: int = 0
    requests: list[Received] = field(default_factory=list)

    def job_ids(self) -> list[str]:
        """Return the jobs of all requests so far."""
        return [request.job_id for request in list(self.requests)]

    @contextlib.contextmanager
    def running(self, tls: ssl.SSLContext | None = None, port: int = 0) -> Iterator["Receiver"]:
        """Serve for a block, with each connection on a thread."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size_bytes = int(self.headers["Content-Length"])
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Received(self.path, headers, self.rfile.read(size_bytes))
                receiver.requests.append(request)
                status, lines = receiver.answer(request)
                self.send_response(status)
                for name, value in lines.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_args: object) -> None:
                pass  # the client may have been killed

        with Server(("127.0.0.1", port), Handler) as server:
            if tls is not None:
                server.socket = tls.wrap_socket(server.socket, server_side=True)
            self.port = server.server_address[1]
            self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}/finished?a=b"
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()
