"""A small HTTP server on a thread and an event loop of its own.

Guarantees: a probe is answered however many clients are slow, silent or gone. Each connection has
one deadline and one request. If all connections are in use, a new one evicts another: the oldest
one of the address that has the most, so that a flood from one address evicts its own. In the same
way, responses that clients read slowly are evicted if they need too much memory together. So the
number of connections and the memory are bounded.

Remaining attacks: clients at the prober's own address, or at as many addresses as there are
connections, evict the prober if they connect `_CONNECTIONS` times between its connection and the
arrival of its request, which takes a nearby prober less than a millisecond. Each connection also
costs processor time, here and in the kernel. Against both, restrict access to the address. It is
meant for a pod, a host or a cluster, and has no TLS. The probes have no authentication, and so
reveal no file names; the control page has its own.
"""

import asyncio
import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from wasmdrop.protocol.errors import SettingsError
from wasmdrop.web.connection import Connection
from wasmdrop.web.message import Handler, HttpRequest, HttpResponse

_log = structlog.get_logger()

#: Connections at a time. More than a prober and a few scrapers need: a new one, whose request is
#: still under way, can't be evicted before as many came after it. Each takes a few kilobytes and a
#: descriptor, of which a container may have 1,024.
_CONNECTIONS: Final = 128

#: Connections that are accepted before earlier ones are read again. Few of all: a request that has
#: arrived should be read before its connection can be evicted.
_ACCEPTED_TOGETHER: Final = 8

#: Connections that the kernel queues until they are accepted. One that finds the queue full is a
#: second late.
_BACKLOG: Final = 1024

#: Limit of the responses that are being written, in bytes: a few of the largest.
_HELD_BYTES: Final = 16 << 20

_READING: Final = frozenset({"GET", "HEAD"})


class HttpServer:
    """Serves ``handlers``, by path, at ``address``, a ``HOST:PORT`` as in the settings.

    They are called for GET and HEAD only. ``other`` answers requests of all other paths, by any
    method. ``background`` runs on the server's event loop until the server is closed.
    """

    def __init__(
        self,
        address: str,
        handlers: Mapping[str, Handler],
        other: Handler | None = None,
        background: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._handlers = handlers
        self._other = other
        self._background = background
        self._socket = _listen(address)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._open: dict[Connection, int] = {}
        """The size of the response that each is writing, the oldest connection first."""
        self._held_bytes = 0
        self._beside: asyncio.Future[None] | None = None
        """Kept, because the event loop has only a weak reference to it."""
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """The address it listens on, with the real port if 0 was requested."""
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def close(self) -> None:
        """Stop listening and abort open connections."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def enter(self, connection: Connection) -> None:
        """Count a connection; evict another one if there are too many."""
        if len(self._open) >= _CONNECTIONS:
            self._evict(self._open)
        self._open[connection] = 0

    def hold(self, connection: Connection, size_bytes: int) -> None:
        """Count a response; evict others that need too much memory together with it."""
        while self._held_bytes + size_bytes > _HELD_BYTES and self._held_bytes:
            self._evict({one: size for one, size in self._open.items() if size})
        if connection in self._open:  # otherwise it was just evicted
            self._open[connection] = size_bytes
            self._held_bytes += size_bytes

    def leave(self, connection: Connection) -> None:
        """Remove a connection."""
        self._held_bytes -= self._open.pop(connection, 0)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        # asyncio accepts ``backlog`` connections at a time, and sets it as the kernel's queue, too.
        server = await self._loop.create_server(
            lambda: Connection(self, self._response),
            sock=self._socket,
            backlog=_ACCEPTED_TOGETHER,
        )
        self._socket.listen(_BACKLOG)
        if self._background is not None:
            # The runner cancels it when this coroutine is done.
            self._beside = asyncio.ensure_future(self._background())
        await self._stop.wait()
        server.close()
        while self._open:
            for connection in self._open:
                connection.abort()
            await asyncio.sleep(0)

    def _evict(self, candidates: Mapping[Connection, int]) -> None:
        (crowd, _count), *_others = Counter(one.host for one in candidates).most_common(1)
        oldest = next(one for one in candidates if one.host == crowd)
        oldest.abort()
        self.leave(oldest)

    async def _response(self, request: HttpRequest) -> HttpResponse:
        handler = self._handlers.get(request.path)
        try:
            if handler is None and self._other is not None:
                return await self._other(request)
            if request.method not in _READING:
                allowed = (("Allow", "GET, HEAD"),)
                return HttpResponse(405, b"expected GET or HEAD\n", headers=allowed)
            if handler is None:
                paths = " ".join(self._handlers)
                return HttpResponse(404, f"nothing here; try {paths}\n".encode())
            return await handler(request)
        except Exception:  # noqa: BLE001 - a fault in one request must not end the thread
            _log.exception("http-request-failed", path=request.path)
            return HttpResponse(500, b"the daemon could not answer; its log says why\n")


def _listen(address: str) -> socket.socket:
    """Return a socket that listens on ``address``. Raises ``SettingsError``."""
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
