"""Completion hooks: a webhook and a command get the marker of each finished job."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cloudevents.core.bindings.http import HTTPMessage, from_binary_event
from cloudevents.core.formats.json import JSONFormat
from standardwebhooks import Webhook

from tests.support.certificates import server_certificate
from tests.support.daemon import wait_until
from tests.support.fib import GOOD, with_fib
from tests.support.receiver import TAKEN, Received, Receiver

SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - of this test alone

#: Writes what the command got to a file in its directory, and fails as often as another file says.
COMMAND: Final = """#!/bin/sh
cd "$(dirname "$0")" || exit 9
if [ -s fail ]; then : > fail; echo "out of order" >&2; exit 7; fi
env -0 > "$WASMDROP_JOB.env"
cat > "$WASMDROP_JOB.new"
mv "$WASMDROP_JOB.new" "$WASMDROP_JOB.marker"
"""


def attributes_of(request: Received) -> Mapping[str, Any]:
    """Return the attributes of an event, as the library of CloudEvents reads them."""
    message = HTTPMessage(dict(request.headers), request.body)
    event = from_binary_event(message, JSONFormat())
    assert event.get_data() == json.loads(request.body)
    return event.get_attributes()


def test_webhook_gets_each_marker_as_a_signed_cloud_event(tmp_path: Path) -> None:
    """Over TLS, also with names that are no header; failed jobs, too."""
    tls, authority = server_certificate(tmp_path, "127.0.0.1")
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    secret = keys / "secret"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    receiver = Receiver()
    with receiver.running(tls):
        daemon = with_fib(
            tmp_path / "base",
            WASMDROP_ON_FINISHED=receiver.url,
            WASMDROP_ON_FINISHED_SECRET_FILE=str(secret),
            WASMDROP_FLEET_NAME="here",
            SSL_CERT_FILE=str(authority),
        )
        odd = os.fsdecode(b'bytes-\xff "%7e /input-x.json')
        inputs = {"input.json": GOOD, "input-b.json": "{}", odd: GOOD, "lang/ö/input.json": GOOD}
        with daemon.running():
            markers = {name: daemon.submit(name, content) for name, content in inputs.items()}
            wait_until(lambda: len(receiver.requests) >= len(inputs), "all events")
        assert daemon.events("hook-used")[0]["target"] == f"https://127.0.0.1:{receiver.port}"
    assert len(receiver.requests) == len(inputs)
    for name, marker in markers.items():
        (request,) = [one for one in receiver.requests if one.job_id == marker["job"]]
        assert request.target == "/finished?a=b"
        assert request.body == daemon.result_path(name, ".done").read_bytes()
        assert Webhook(SECRET).verify(request.body, dict(request.headers)) == marker
        attributes = attributes_of(request)
        assert attributes["source"] == "/wasmdrop/here"
        assert attributes["type"] == "wasmdrop.job.finished.v1"
        assert attributes["subject"] == marker["slot"]
        assert attributes["time"].isoformat()[:19] == marker["finished_at"][:19]
        assert attributes["datacontenttype"] == "application/json"


def test_event_that_is_refused_is_sent_again_by_the_next_daemon(tmp_path: Path) -> None:
    """Jobs do not wait for the receiver; the journal and the metrics have the backlog."""
    receiver = Receiver(lambda _request: (503, {"Retry-After": "0"}))
    with receiver.running():
        daemon = with_fib(tmp_path, WASMDROP_ON_FINISHED=receiver.url)
        with daemon.running():
            ids = {daemon.submit(f"input-{name}.json", GOOD)["job"] for name in "abc"}
            wait_until(lambda: ids <= set(receiver.job_ids()), "an attempt of each event")
            failed = daemon.until_logged("hook-failed")[0]
            assert failed["error"] == (
                f"127.0.0.1:{receiver.port}: answered 503 Service Unavailable"
            )
        receiver.requests.clear()
        receiver.answer = lambda _request: TAKEN
        with daemon.running():
            wait_until(lambda: ids <= set(receiver.job_ids()), "all events")
            last = daemon.submit("input-d.json", GOOD)["job"]
            wait_until(lambda: last in receiver.job_ids(), "the event of a new job")
        count = len(receiver.requests)
        with daemon.running():
            pass
        assert daemon.events("hook-used")[-1]["pending"] == 0
        assert len(receiver.requests) == count
