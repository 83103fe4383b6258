"""A hook that sends each event to a URL.

Requests run on threads of their own, each with a connection that it keeps for a while: a look-up of
an address can't be interrupted, and must not hold up the threads that jobs use. A thread sends many
events before it wakes the event loop, which has jobs to run.
"""

import asyncio
import contextlib
import queue
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from wasmdrop.hooks.cloud_event import headers_of
from wasmdrop.hooks.hook import HookFailedError, Sent
from wasmdrop.hooks.signature import sign
from wasmdrop.jobs.journal.events import Event
from wasmdrop.protocol.errors import FetchError
from wasmdrop.protocol.text import one_line
from wasmdrop.system.processes import use_batch_scheduling
from wasmdrop.web.posting import PostClient
from wasmdrop.web.url import HttpUrl

_AT_ONCE: Final = 8
_MOST_EVENTS: Final = 256

#: How long a request may take in all, in seconds.
_TIMEOUT_SECONDS: Final = 15.0

#: How long a connection without a request is kept, in seconds: a receiver that serves one
#: connection at a time is blocked meanwhile.
_KEPT_SECONDS: Final = 2.0

_MAX_REASON_CHARACTERS: Final = 80


class Webhook:
    """Sends events to a URL; ``key`` signs the requests, None: they are not signed."""

    at_once = _AT_ONCE
    most_events = _MOST_EVENTS

    def __init__(self, url: HttpUrl, source: str, key: bytes | None) -> None:
        self._url = url
        self._source = source
        self.key = key
        self._tls: ssl.SSLContext | None = None
        self._free: list[_Poster] = []
        """The posters that send nothing now; the one that sent last is the next to send."""

    async def send(self, events: Sequence[Event], may_go_on: Callable[[], bool]) -> Sent:
        """Send events; an answer 2xx means that the receiver has taken one."""
        poster = self._free.pop() if self._free else _Poster(self._new_client())
        try:
            sent = await poster.run(lambda client: self._send(client, events, may_go_on))
        except BaseException:
            poster.end()  # it may be busy
            raise
        self._free.append(poster)
        return sent

    def _new_client(self) -> PostClient:
        return PostClient(self._url.origin, self._new_tls)

    def _new_tls(self) -> ssl.SSLContext:
        # Reads all certificates of the system, so not for each connection.
        tls = self._tls or ssl.create_default_context()
        self._tls = tls
        return tls

    def _send(
        self, client: PostClient, events: Sequence[Event], may_go_on: Callable[[], bool]
    ) -> Sent:
        for taken, event in enumerate(events):
            if taken and not may_go_on():
                return Sent(taken)
            try:
                self._post(client, event)
            except HookFailedError as error:
                return Sent(taken, error)
        return Sent(len(events))

    def _post(self, client: PostClient, event: Event) -> None:
        headers = headers_of(event, self._source) | {"User-Agent": "wasmdrop"}
        if self.key is not None:
            timestamp = int(time.time())
            headers["webhook-id"] = event.job_id
            headers["webhook-timestamp"] = str(timestamp)
            headers["webhook-signature"] = sign(self.key, event.job_id, timestamp, event.marker)
        origin = self._url.origin
        try:
            answer = client.post(self._url.target, headers, event.marker, _TIMEOUT_SECONDS)
        except FetchError as error:
            self._tls = None  # the certificates of the system may have changed
            raise HookFailedError(f"{origin.host}:{origin.port}: {error}") from None
        if answer.status not in range(200, 300):
            reason = one_line(answer.reason, _MAX_REASON_CHARACTERS)
            raise HookFailedError(
                f"{origin.host}:{origin.port}: answered {answer.status} {reason}".rstrip(),
                _seconds(answer.retry_after),
            )


class _Poster:
    """A thread with a client. It does not keep the process from exiting."""

    def __init__(self, client: PostClient) -> None:
        self._client = client
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="webhook", daemon=True).start()

    async def run(self, call: Callable[[PostClient], Sent]) -> Sent:
        """Return what ``call`` returns on the thread."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Sent] = loop.create_future()

        def settle(sent: Sent | None, error: BaseException | None) -> None:
            if result.done():
                return  # the sender has stopped
            if sent is not None:
                result.set_result(sent)
            elif error is not None:
                result.set_exception(error)

        def run() -> None:
            sent, failure = None, None
            try:
                sent = call(self._client)
            except BaseException as error:  # noqa: BLE001 - raised in the coroutine that waits
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(settle, sent, failure)

        self._calls.put(run)
        return await result

    def end(self) -> None:
        """End the thread after the call that it runs."""
        self._calls.put(None)

    def _serve(self) -> None:
        use_batch_scheduling()
        with contextlib.closing(self._client):
            while True:
                try:
                    call = self._calls.get(timeout=_KEPT_SECONDS if self._client.is_open else None)
                except queue.Empty:
                    self._client.close()
                    continue
                if call is None:
                    return
                call()


def _seconds(retry_after: str | None) -> float | None:
    """Return the seconds of a header ``Retry-After`` (RFC 9110); None if there is no valid one."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
