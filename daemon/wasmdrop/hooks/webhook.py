"""A hook that sends each event to a URL.

Each request runs on a thread of its own: a look-up of an address can't be interrupted, and must not
hold up the threads that jobs use.
"""

import asyncio
import contextlib
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from wasmdrop.hooks.cloud_event import headers_of
from wasmdrop.hooks.hook import HookFailedError
from wasmdrop.hooks.signature import sign
from wasmdrop.jobs.journal.events import Event
from wasmdrop.protocol.errors import FetchError
from wasmdrop.protocol.text import one_line
from wasmdrop.web.client import HttpAnswer, HttpClient
from wasmdrop.web.deadline import Deadline
from wasmdrop.web.url import HttpUrl

_AT_ONCE: Final = 8

#: How long a request may take in all, in seconds.
_TIMEOUT_SECONDS: Final = 15.0

_MAX_REASON_CHARACTERS: Final = 80


class Webhook:
    """Sends events to a URL; ``key`` signs the requests, None: they are not signed."""

    at_once = _AT_ONCE

    def __init__(self, url: HttpUrl, source: str, key: bytes | None) -> None:
        self._url = url
        self._source = source
        self._key = key
        self._tls: ssl.SSLContext | None = None

    async def send(self, event: Event) -> None:
        """Send an event; an answer 2xx means that the receiver has taken it."""
        headers = headers_of(event, self._source) | {
            "Connection": "close",
            "User-Agent": "wasmdrop",
        }
        if self._key is not None:
            timestamp = int(time.time())
            headers["webhook-id"] = event.job_id
            headers["webhook-timestamp"] = str(timestamp)
            headers["webhook-signature"] = sign(self._key, event.job_id, timestamp, event.marker)
        origin = self._url.origin
        try:
            answer = await _on_thread(lambda: self._post(headers, event.marker))
        except FetchError as error:
            self._tls = None  # the certificates of the system may have changed
            raise HookFailedError(f"{origin.host}:{origin.port}: {error}") from None
        if answer.status not in range(200, 300):
            reason = one_line(answer.reason, _MAX_REASON_CHARACTERS)
            raise HookFailedError(
                f"{origin.host}:{origin.port}: answered {answer.status} {reason}".rstrip(),
                _seconds(answer.retry_after),
            )

    def _post(self, headers: dict[str, str], body: bytes) -> HttpAnswer:
        tls = self._tls
        if tls is None and self._url.origin.is_encrypted:
            # Reads all certificates of the system, so not for each request.
            tls = self._tls = ssl.create_default_context()
        client = HttpClient(self._url.origin, Deadline(_TIMEOUT_SECONDS), tls)
        with contextlib.closing(client):
            return client.post(self._url.target, headers, body)


async def _on_thread(call: Callable[[], HttpAnswer]) -> HttpAnswer:
    """Return what ``call`` returns on a thread that does not keep the process from exiting."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[HttpAnswer] = loop.create_future()

    def settle(answer: HttpAnswer | None, error: BaseException | None) -> None:
        if result.done():
            return  # the sender has stopped
        if answer is not None:
            result.set_result(answer)
        elif error is not None:
            result.set_exception(error)

    def run() -> None:
        answer, failure = None, None
        try:
            answer = call()
        except BaseException as error:  # noqa: BLE001 - raised in the coroutine that waits
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(settle, answer, failure)

    threading.Thread(target=run, name="webhook", daemon=True).start()
    return await result


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
