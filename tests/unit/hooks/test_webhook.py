"""The webhook: which answers take an event, and bounds on the server."""

import asyncio
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from tests.support.events import an_event
from tests.support.receiver import Received, Receiver
from wasmdrop.hooks import webhook
from wasmdrop.hooks.hook import HookFailedError, Sent
from wasmdrop.hooks.webhook import Webhook
from wasmdrop.web.url import HttpUrl, Origin


def hook_of(port: int) -> Webhook:
    """Return a webhook to a port of this host."""
    return Webhook(HttpUrl(Origin(False, "127.0.0.1", port), "/", ""), "/wasmdrop/here", None)


def failure_of(port: int) -> HookFailedError:
    """Return the error of one attempt."""
    sent = send(hook_of(port), "job-1")
    assert sent.taken == 0
    assert sent.failure is not None
    assert "\n" not in str(sent.failure)
    return sent.failure


def send(hook: Webhook, *job_ids: str) -> Sent:
    """Send events of these jobs with one call."""
    return asyncio.run(hook.send([an_event(job_id) for job_id in job_ids], lambda: True))


@pytest.mark.parametrize("status", [200, 202, 204, 299])
def test_webhook_answer_of_success_takes_the_event(status: int) -> None:
    """Its body does not matter."""
    with Receiver(lambda _request: (status, {})).running() as receiver:
        assert send(hook_of(receiver.port), "job-1", "job-2") == Sent(2)
    assert receiver.job_ids() == ["job-1", "job-2"]
    assert "webhook-signature" not in receiver.requests[0].headers


@pytest.mark.parametrize("status", [301, 307, 400, 404, 410, 429, 500, 503])
def test_webhook_other_answer_is_a_failure_and_no_redirect_is_followed(status: int) -> None:
    """Wrong settings are corrected, so all of them are tried again."""

    def answer(request: Received) -> tuple[int, dict[str, str]]:
        return (status if request.target == "/" else 200), {"Location": "/elsewhere"}

    with Receiver(answer).running() as receiver:
        error = failure_of(receiver.port)
    assert str(error).startswith(f"127.0.0.1:{receiver.port}: answered {status} ")
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", (7, 7)),
        ("9" * 400, (1e8, 1e9)),
        # Its own id: the workers of xdist compare the names of tests.
        pytest.param(
            format_datetime(datetime.now(UTC) + timedelta(hours=2)), (6000, 7200), id="date"
        ),
        ("Fri, 31 Dec 1999 23:59:59 GMT", (0, 0)),
        ("soon", None),
        ("-1", None),
        ("²", None),
        (f"Fri, 31 Dec {20 * '9'} 23:59:59 GMT", None),
        (f"Fri, 31 Dec 1999 23:59:59 +{16 * '9'}", None),
    ],
)
def test_webhook_retry_after_is_read_in_both_forms(
    value: str, seconds: tuple[float, float] | None
) -> None:
    """The sender bounds it; one that is not valid is ignored."""
    found = webhook._seconds(value)
    if seconds is None:
        assert found is None
    else:
        assert found is not None
        assert seconds[0] <= found <= seconds[1]


def flood(connection: socket.socket) -> None:
    """Send provisional answers without end."""
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def garble(connection: socket.socket) -> None:
    """Send an answer that is not HTTP, with an escape sequence."""
    connection.sendall(b"\x1b[2J\xff\r\n\r\n")


def hang_up(_connection: socket.socket) -> None:
    """Send nothing."""


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (flood, "without end"),
        (garble, "not HTTP"),
        (hang_up, "closed the connection without an answer"),
    ],
)
def test_webhook_hostile_server_is_a_failure_in_one_line(
    answer: Callable[[socket.socket], None], reason: str
) -> None:
    """Its answer is bounded."""

    def serve(listener: socket.socket) -> None:
        connection, _address = listener.accept()
        with connection:
            connection.recv(65536)
            try:
                answer(connection)
            except OSError:
                return  # the client has had enough

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        error = failure_of(listener.getsockname()[1])
        thread.join()
    assert reason in str(error)
    assert str(error).isprintable()


def test_webhook_server_that_is_down_is_a_failure() -> None:
    """The port is closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "Connection refused" in str(failure_of(port))


def test_webhook_server_that_is_silent_holds_up_no_thread_of_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The event loop's threads are for jobs."""
    monkeypatch.setattr(webhook, "_TIMEOUT_SECONDS", 60)

    async def use(port: int) -> None:
        sends = [
            asyncio.create_task(hook_of(port).send([an_event()], lambda: True)) for _ in range(40)
        ]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: 1), 30) == 1
        for send in sends:
            send.cancel()
        await asyncio.gather(*sends, return_exceptions=True)

    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        asyncio.run(use(listener.getsockname()[1]))
