"""The connection to a fleet: it comes back by itself, and speaks to JetStream.

No request waits longer than its time, and none is sent again after its time: a caller knows what
may have happened.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from enum import Enum
from typing import Any, Final

import msgspec

from wasmdrop.fleet.errors import (
    FleetApiError,
    FleetRefusedError,
    FleetUnavailableError,
    NoAnswerError,
)
from wasmdrop.fleet.names import API, MEMBER_API, MODULES
from wasmdrop.fleet.transport.access import Access
from wasmdrop.fleet.transport.link import Link
from wasmdrop.fleet.transport.nats_client import Callback, Message, NatsClient
from wasmdrop.protocol.text import one_line

#: Time for a request with all its repetitions: a cluster may need 4 to 8 s for a new leader.
ANSWER_SECONDS: Final = 15.0

#: Time for an answer, after which the request is sent again.
_TRY_SECONDS: Final = 5.0

#: Time for a refusal of a message that is not answered otherwise.
_REFUSAL_SECONDS: Final = 2.0

#: A server answers a pull after its time; the answer needs some, too.
_PULL_MARGIN_SECONDS: Final = 3.0

_POLL_SECONDS: Final = 0.02

#: How long the end of the connection takes at most before it is asked for again.
_CANCEL_SECONDS: Final = 1.0

#: Statuses of JetStream and of the server itself; they are like those of HTTP.
_NOT_FOUND: Final = 404
_PULL_ENDED: Final = 408
_PULL_REFUSED: Final = 409
_NO_RESPONDERS: Final = 503
_SERVER_FAULT: Final = 500

#: The first try of a message is still on its way: it is not known yet whether it is stored.
_IN_PROCESS: Final = 10158

#: JetStream's error 10077 is both of these, told apart by its text only.
_OCCUPIED: Final = "maximum messages per subject exceeded"
_FULL: Final = ("maximum bytes exceeded", "maximum messages exceeded")

#: JetStream's errors of a server whose disk, or account whose share of it, has too little room.
NO_ROOM: Final = frozenset({10002, 10023, 10047})


class Stored(Enum):
    """What became of a message that was to be stored."""

    STORED = "stored"
    OCCUPIED = "occupied"
    """Its subject has a message."""
    FULL = "full"
    """Its stream has no room."""


class Lease:
    """A message that was leased from a work queue."""

    def __init__(self, client: NatsClient, message: Message) -> None:
        self._client = client
        self._reply = message.reply
        self.subject = message.subject
        self.data = message.data
        self.delivery = message.delivery
        """The number of this delivery, from 1."""

    async def ack(self) -> None:
        """Remove the message from its queue. Best effort: it is delivered again if this is lost."""
        await self._say(b"+ACK")

    async def extend(self) -> None:
        """Begin the time of the lease anew. Best effort."""
        await self._say(b"+WPI")

    async def _say(self, word: bytes) -> None:
        with contextlib.suppress(FleetUnavailableError):
            await self._client.publish(self._reply, word)


class FleetConnection:
    """A connection to one server of the fleet at a time. Made by :func:`connect`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._api: str | None = None

    @property
    def is_connected(self) -> bool:
        """Whether a server is reached now, as far as is known."""
        return self._link.is_connected

    @property
    def away_seconds(self) -> float:
        """For how long no server was reached; 0 while one is."""
        return self._link.away_seconds

    @property
    def problem(self) -> str:
        """Why there is no connection, in one line; empty while there is one."""
        return self._link.problem

    @property
    def server_version(self) -> str:
        """The version of the last server that was reached."""
        return self._link.server_version

    @property
    def server_url(self) -> str:
        """The address of the last server that was reached."""
        return self._link.server_url

    async def wait_connected(self, seconds: float) -> None:
        """Wait until a server is reached.

        Raises ``FleetUnavailableError`` after ``seconds``, or as soon as all servers refuse.
        """
        deadline = time.monotonic() + seconds
        while not self.is_connected:
            if self._link.is_refused:
                raise FleetRefusedError(self.problem)
            if time.monotonic() > deadline:
                raise FleetUnavailableError(self.problem)
            await asyncio.sleep(_POLL_SECONDS)

    async def publish(self, subject: str, data: bytes) -> None:
        """Send a message that no stream stores. It is lost while there is no server."""
        await self._link.publish(subject, data)

    async def subscribe(self, subject: str, callback: Callback) -> None:
        """Call ``callback(subject, data)`` with each message that is sent on a subject."""
        await self._link.subscribe(subject, callback)

    async def may_publish(self, subject: str, data: bytes) -> bool:
        """Send a message as :meth:`publish` does; return whether the server allows it.

        Raises ``FleetUnavailableError`` if there is no connection.
        """
        client = await self._link.client(_TRY_SECONDS)
        try:
            await client.request(subject, data, _REFUSAL_SECONDS)
        except FleetRefusedError:
            return False
        except NoAnswerError:
            pass  # a receiver does not answer, and neither does a server that allows it
        return True

    async def store(
        self,
        subject: str,
        data: bytes,
        *,
        message_id: str | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> Stored:
        """Store a message in the stream of its subject.

        Raises ``FleetUnavailableError`` if that is not confirmed within ``seconds``; it may be
        stored nevertheless.
        """
        headers = {"Nats-Msg-Id": message_id} if message_id is not None else None
        try:
            await self._call(subject, data, seconds, headers)
        except FleetApiError as error:
            if _OCCUPIED in str(error):
                return Stored.OCCUPIED
            if _is_about_room(error):
                return Stored.FULL
            raise
        return Stored.STORED

    async def purge(self, stream: str, subjects_filter: str) -> None:
        """Remove the messages of some subjects. Raises ``FleetUnavailableError``."""
        await self.api(f"STREAM.PURGE.{stream}", {"filter": subjects_filter})

    async def get(
        self, stream: str, subject: str, *, seconds: float = ANSWER_SECONDS
    ) -> bytes | None:
        """Return the last message of a subject, or None if there is none.

        A replica that is behind may not have it yet. Raises ``FleetUnavailableError``.
        """
        name = f"{API}.DIRECT.GET.{stream}.{subject}"
        reply = await self._ask(name, b"", seconds)
        self._link.note_answer()
        if reply.status == _NOT_FOUND:
            return None
        if reply.status:
            raise FleetUnavailableError(f"{stream}: {one_line(reply.description, 200)}")
        return reply.data

    async def fetch(self, stream: str, consumer: str, seconds: float) -> Lease | None:
        """Lease the next message; None if none came within ``seconds``, which may be 0.

        Raises ``FleetUnavailableError`` if the server does not answer.
        """
        client = await self._link.client(seconds)
        bound = {"expires": int(seconds * 1e9)} if seconds else {"no_wait": True}
        request = msgspec.json.encode({"batch": 1, **bound})
        name = f"{API}.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        try:
            reply = await client.pull(name, request, seconds + _PULL_MARGIN_SECONDS)
        except NoAnswerError:
            self._link.note_silence()
            raise
        if reply.status == _NO_RESPONDERS:
            self._link.note_silence()
        else:
            self._link.note_answer()
        if reply.delivery:
            return Lease(client, reply)
        if reply.status in {_NOT_FOUND, _PULL_ENDED}:
            return None
        # A queue whose waiting requests are too many says so at once.
        await asyncio.sleep(random.uniform(0.5, 1.0) * min(seconds, 1.0))  # noqa: S311
        if reply.status == _PULL_REFUSED and "exceeded" in reply.description.lower():
            return None
        reason = one_line(reply.description, 200)
        if reply.status == _NO_RESPONDERS:
            reason = "it does not exist, or no server leads it now"
        raise FleetUnavailableError(f"consumer {consumer} of {stream}: {reason}")

    async def subjects(self, stream: str, subjects_filter: str) -> set[str]:
        """Return the subjects that have a message. Raises ``FleetUnavailableError``."""
        found: set[str] = set()
        while True:
            request = {"subjects_filter": subjects_filter, "offset": len(found)}
            answer = await self.api(f"STREAM.INFO.{stream}", request)
            page = set(answer.get("state", {}).get("subjects") or ())
            found |= page
            if not page or len(found) >= int(answer.get("total", 0)):
                return found

    async def has_consumer(self, stream: str, consumer: str) -> bool:
        """Whether there is such a consumer. Raises ``FleetUnavailableError``."""
        try:
            await self.api(f"CONSUMER.INFO.{stream}.{consumer}")
        except FleetApiError as error:
            if error.status == _NOT_FOUND:
                return False
            raise
        return True

    async def can_fetch(
        self, stream: str, consumer: str, *, seconds: float = ANSWER_SECONDS
    ) -> bool:
        """Whether there is such a consumer that this user may lease messages from.

        It takes no right but that. Raises ``FleetUnavailableError``.
        """
        name = f"{API}.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        deadline = time.monotonic() + seconds
        while True:
            client = await self._link.client(deadline - time.monotonic())
            # A consumer refuses this request; what does not exist does not answer.
            reply = await client.request(name, b"{", _TRY_SECONDS)
            if reply.status != _NO_RESPONDERS:
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.2)

    async def api(
        self, name: str, request: object = None, *, seconds: float = ANSWER_SECONDS
    ) -> dict[str, Any]:
        """Call JetStream and return its answer.

        Raises ``FleetApiError`` if it refuses, else ``FleetUnavailableError``.
        """
        data = b"" if request is None else msgspec.json.encode(request)
        if self._api is None:
            self._api = await self._find_api(seconds)
        try:
            return await self._call(f"{self._api}.{name}", data, seconds, None)
        except FleetRefusedError as error:
            if not isinstance(error, FleetApiError):
                self._api = None  # perhaps the other one was not there yet
            raise

    async def _find_api(self, seconds: float) -> str:
        """Return the prefix of JetStream's functions in this user's account."""
        client = await self._link.client(seconds)
        reply = await client.request(f"{MEMBER_API}.STREAM.INFO.{MODULES}", b"", _TRY_SECONDS)
        return API if reply.status == _NO_RESPONDERS else MEMBER_API

    async def _call(
        self, subject: str, data: bytes, seconds: float, headers: dict[str, str] | None
    ) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while True:
            reply = await self._ask(subject, data, deadline - time.monotonic(), headers)
            try:
                answer = msgspec.json.decode(reply.data, type=dict[str, Any])
            except msgspec.DecodeError as fault:
                raise FleetUnavailableError(f"{subject}: {fault}") from None
            refusal = answer.get("error")
            if refusal is None:
                self._link.note_answer()
                return answer
            error = FleetApiError(
                int(refusal.get("code", 0)),
                int(refusal.get("err_code", 0)),
                one_line(str(refusal.get("description", "")), 300),
            )
            is_passing = error.number == _IN_PROCESS or (
                error.status >= _SERVER_FAULT and not _is_about_room(error)
            )
            if not is_passing:
                self._link.note_answer()
                raise error
            self._link.note_silence()
            if time.monotonic() > deadline:
                raise error
            await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311

    async def _ask(
        self,
        subject: str,
        data: bytes,
        seconds: float,
        headers: dict[str, str] | None = None,
    ) -> Message:
        """Ask until there is an answer: leaders change, and servers come back."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            client = await self._link.client(left)
            try:
                reply = await client.request(
                    subject, data, max(min(left, _TRY_SECONDS), 0.1), headers
                )
            except FleetRefusedError:
                raise
            except FleetUnavailableError as error:
                failure = error
                if isinstance(error, NoAnswerError):
                    self._link.note_silence()
            else:
                if reply.status != _NO_RESPONDERS:
                    return reply
                self._link.note_silence()
                failure = FleetUnavailableError(
                    "JetStream is off, the stream does not exist, or none leads it now"
                )
            if time.monotonic() > deadline:
                raise FleetUnavailableError(f"{subject}: {failure}")
            await asyncio.sleep(random.uniform(0.05, 0.5))  # noqa: S311


@contextlib.asynccontextmanager
async def connect(access: Access) -> AsyncIterator[FleetConnection]:
    """Give a connection, which is there as soon as a server is reached."""
    link = Link(access)
    task = asyncio.create_task(link.run())
    try:
        yield FleetConnection(link)
    finally:
        while not task.done():  # the library forgets cancellations that come while it waits
            task.cancel()
            await asyncio.wait([task], timeout=_CANCEL_SECONDS)


def _is_about_room(error: FleetApiError) -> bool:
    texts = (_OCCUPIED, *_FULL)
    return error.number in NO_ROOM or any(text in str(error) for text in texts)
