"""One connection to one server, from its opening until it breaks: the only user of nats-py.

nats-py can reconnect by itself, but its client closes for good after most errors of the server,
stops reading after an unexpected one, and waits at its end for a peer that does not read. So each
connection has a client of its own, which is checked from outside and thrown away.
"""

import asyncio
import contextlib
import itertools
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from wasmdrop.fleet.errors import FleetRefusedError, FleetUnavailableError, NoAnswerError
from wasmdrop.fleet.transport.access import Access, Server
from wasmdrop.fleet.transport.refusals import (
    check_server,
    connect_failure,
    denied_right,
    reason_of,
    without_tls,
)

_CONNECT_SECONDS: Final = 5

#: A server is asked this often whether it is there, and must answer in the time below.
_PING_SECONDS: Final = 3
_PONG_SECONDS: Final = 5

#: Time for the last messages of a connection that is closed.
_FLUSH_SECONDS: Final = 2

#: Bytes that wait to be sent, beyond which a sender waits.
_PENDING_BYTES: Final = 4 * 1024 * 1024

_ACKS: Final = "$JS.ACK."

#: Called with the subject and the data of a message.
Callback = Callable[[str, bytes], None]


class Message(msgspec.Struct, frozen=True):
    """A message that answers a request."""

    subject: str
    data: bytes
    reply: str
    status: int
    """0 if the server says nothing of its own."""
    description: str
    delivery: int
    """The number of its delivery, from 1; 0 if it is not leased."""


class _Request(msgspec.Struct, frozen=True):
    subject: str
    answer: "asyncio.Future[Message | FleetUnavailableError]"


class _Client(Client):
    """A client that does not introduce itself to a server without TLS, if TLS is required."""

    def __init__(self, is_tls_required: bool) -> None:
        super().__init__()
        self._is_tls_required = is_tls_required
        self.subscriptions: list[Subscription] = []
        """All that were made: the client forgets them when it closes."""

    def _connect_command(self) -> bytes:
        # A server that is between here and the right one could have this signature for itself.
        if self._is_tls_required and self._stream("ssl_object") is None:
            raise nats.errors.SecureConnWantedError
        return super()._connect_command()

    def abort(self) -> None:
        """Close the socket and drop the data that a peer did not read."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    async def end_tasks(self) -> None:
        """End the tasks that the client leaves behind if the server closed the connection."""
        tasks = {self._reading_task, self._ping_interval_task, self._flusher_task}
        tasks |= {each._wait_for_msgs_task for each in self.subscriptions}  # noqa: SLF001
        left = {task for task in tasks if task is not None and not task.done()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_FLUSH_SECONDS)

    def _stream(self, name: str) -> Any:
        return getattr(self._transport, "_io_writer").get_extra_info(name)  # noqa: B009


class _Puller:
    """A subscription for the answers to one pull after the other.

    Leased messages come with their own subjects, so that only the subscription tells for which
    pull one is.
    """

    def __init__(self, client: "NatsClient", inbox: str) -> None:
        self._client = client
        self.inbox = inbox
        self.request: _Request | None = None

    async def receive(self, message: Msg) -> None:
        """Give a message to the pull that waits, or back to the server if it has ended."""
        if self.request is not None and not self.request.answer.done():
            self.request.answer.set_result(_message(message))
        elif message.reply.startswith(_ACKS):
            with contextlib.suppress(FleetUnavailableError):
                await self._client.publish(message.reply, b"-NAK")


class NatsClient:
    """One connection to one server."""

    def __init__(
        self, server: Server, access: Access, on_refused: Callable[[FleetRefusedError], None]
    ) -> None:
        self.server = server
        self._access = access
        self._on_refused = on_refused
        self._client = _Client(server.is_tls_required)
        self._inbox = f"{access.inbox}.{secrets.token_hex(8)}"
        self._tokens = itertools.count()
        self._requests: dict[str, _Request] = {}
        self._pullers: list[_Puller] = []
        self._lost = asyncio.Event()
        self._error = ""
        self.version = ""
        self.heard_at = 0.0
        """When the server last answered, by the monotonic clock."""

    async def start(self) -> None:
        """Connect. Raises ``FleetUnavailableError``."""
        logging.getLogger("nats").setLevel(logging.CRITICAL + 1)  # all it says comes here, too
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await self._client.connect(
                    [self.server.url],
                    name=self._access.name,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=_CONNECT_SECONDS,
                    nkeys_seed_str=self._access.seed or None,
                    tls=self._access.tls,
                    inbox_prefix=self._access.inbox,
                    pending_size=_PENDING_BYTES,
                    error_cb=self._hear_error,
                    closed_cb=self._hear_close,
                )
            self.version = str(self._client._server_info.get("version", ""))  # noqa: SLF001
            check_server(self.server.url, self.version, self._client.max_payload)
            self.heard_at = time.monotonic()
            await self._subscribe(f"{self._inbox}.*", self._hear_answer)
        except nats.errors.SecureConnWantedError:
            raise without_tls(self.server.url) from None
        except (OSError, nats.errors.Error, TimeoutError) as error:
            said = self._error or reason_of(error)
            raise connect_failure(self.server.url, self._access, error, said) from None

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return not self._lost.is_set() and self._client.is_connected

    async def wait_until_lost(self) -> str:
        """Ask the server again and again whether it is there; return why it is not."""
        while not self._lost.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PING_SECONDS):
                    await self._lost.wait()
            if self._lost.is_set():
                break
            try:
                async with asyncio.timeout(_PONG_SECONDS):
                    await self._client.rtt(_PONG_SECONDS)
                self.heard_at = time.monotonic()
            except (OSError, nats.errors.Error, TimeoutError) as error:
                self._lose(reason_of(error))
        return self._error or "the server closed the connection"

    def leave(self, reason: str) -> None:
        """Have the connection count as lost."""
        self._lose(reason)

    async def close(self) -> None:
        """Send the rest, and end the connection."""
        try:
            with contextlib.suppress(OSError, nats.errors.Error, TimeoutError):
                if self.is_open:
                    async with asyncio.timeout(_FLUSH_SECONDS):
                        await self._client.flush(_FLUSH_SECONDS)  # may overtake queued messages
                        await self._client.flush(_FLUSH_SECONDS)
        finally:
            self._lose("it was closed")
            self._client.abort()
        with contextlib.suppress(OSError, nats.errors.Error, TimeoutError):
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self._client.close()
        await self._client.end_tasks()

    async def publish(
        self, subject: str, data: bytes, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Send a message. Raises ``FleetUnavailableError``."""
        task = asyncio.current_task()
        before = task.cancelling() if task is not None else 0
        try:
            await self._client.publish(subject, data, reply, headers)
        except (OSError, nats.errors.Error, AttributeError) as error:
            raise FleetUnavailableError(reason_of(error)) from None
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError  # the client forgets one that comes while it waits

    async def request(
        self, subject: str, data: bytes, seconds: float, headers: dict[str, str] | None = None
    ) -> Message:
        """Send a message and return the answer, also one of the server itself.

        Raises ``FleetUnavailableError``.
        """
        token = str(next(self._tokens))
        answer: asyncio.Future[Message | FleetUnavailableError] = asyncio.Future()
        request = self._requests[token] = _Request(subject, answer)
        try:
            return await self._exchange(request, data, f"{self._inbox}.{token}", seconds, headers)
        finally:
            del self._requests[token]

    async def _exchange(
        self,
        request: _Request,
        data: bytes,
        reply: str,
        seconds: float,
        headers: dict[str, str] | None,
    ) -> Message:
        try:
            async with asyncio.timeout(seconds):
                await self.publish(request.subject, data, reply, headers)
                if not self.is_open:
                    raise FleetUnavailableError(self._error or "the connection is lost")
                got = await request.answer
        except TimeoutError:
            raise NoAnswerError(f"no answer within {seconds:g} s") from None
        if isinstance(got, FleetUnavailableError):
            raise got
        return got

    async def pull(self, subject: str, data: bytes, seconds: float) -> Message:
        """Ask a consumer for one message, and return it or the server's answer.

        Raises ``FleetUnavailableError``.
        """
        puller = self._pullers.pop() if self._pullers else await self._new_puller()
        answer: asyncio.Future[Message | FleetUnavailableError] = asyncio.Future()
        puller.request = _Request(subject, answer)
        token = puller.inbox
        self._requests[token] = puller.request
        try:
            got = await self._exchange(puller.request, data, puller.inbox, seconds, None)
        finally:
            del self._requests[token]
            puller.request = None
        self._pullers.append(puller)  # its answer has come: the next one is that of the next pull
        return got

    async def _new_puller(self) -> "_Puller":
        puller = _Puller(self, f"{self._inbox}.pull.{next(self._tokens)}")
        try:
            await self._subscribe(puller.inbox, puller.receive)
        except (OSError, nats.errors.Error) as error:
            raise FleetUnavailableError(reason_of(error)) from None
        return puller

    async def subscribe(self, subject: str, callback: Callback) -> None:
        """Call ``callback`` with each message on a subject. Raises ``FleetUnavailableError``."""

        async def receive(message: Msg) -> None:
            callback(message.subject, message.data)

        try:
            await self._subscribe(subject, receive)
        except (OSError, nats.errors.Error) as error:
            raise FleetUnavailableError(reason_of(error)) from None

    async def _subscribe(self, subject: str, receive: Callable[[Msg], Awaitable[None]]) -> None:
        self._client.subscriptions.append(await self._client.subscribe(subject, cb=receive))

    async def _hear_answer(self, message: Msg) -> None:
        self.heard_at = time.monotonic()
        request = self._requests.get(message.subject.rpartition(".")[2])
        if request is not None and not request.answer.done():
            request.answer.set_result(_message(message))

    async def _hear_error(self, error: Exception) -> None:
        denied = denied_right(str(error))
        if denied is None:
            self._error = self._error or reason_of(error)
            return
        subject, refusal = denied
        waiting = [
            request.answer
            for request in self._requests.values()
            if request.subject.lower() == subject and not request.answer.done()
        ]
        for answer in waiting:
            answer.set_result(refusal)
        if not waiting:
            self._on_refused(refusal)

    async def _hear_close(self) -> None:
        self._lose("the server closed the connection")

    def _lose(self, reason: str) -> None:
        self._error = self._error or reason
        self._lost.set()
        for request in self._requests.values():
            if not request.answer.done():
                request.answer.set_result(FleetUnavailableError(self._error))


def _message(message: Msg) -> Message:
    headers = message.headers or {}
    status = headers.get("Status", "")
    delivery = 0
    if message.reply.startswith(_ACKS):
        delivery = message.metadata.num_delivered
    return Message(
        message.subject,
        message.data,
        message.reply,
        int(status) if status.isdigit() else 0,
        headers.get("Description", ""),
        delivery,
    )
