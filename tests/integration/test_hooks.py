"""Completion hooks: a webhook and a command get the marker of each finished job."""

import json
import os
import threading
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cloudevents.core.bindings.http import HTTPMessage, from_binary_event
from cloudevents.core.formats.json import JSONFormat
from standardwebhooks import Webhook

from tests.support.certificates import server_certificate
from tests.support.daemon import DEADLINE_SECONDS, wait_until
from tests.support.fib import GOOD, with_fib
from tests.support.receiver import TAKEN, Answer, Received, Receiver

SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - of this test alone

#: Writes its input and its variables to its directory; fails once if another file is not empty.
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


def test_command_gets_the_marker_and_names_of_any_bytes(tmp_path: Path) -> None:
    """It is run again after a failure; `WASMDROP_MARKER` names the marker."""
    directory = tmp_path / "hook"
    directory.mkdir()
    program = directory / "finished"
    program.write_text(COMMAND)
    program.chmod(0o755)
    (directory / "fail").write_text("once")
    name = os.fsdecode(b"$(reboot) \xff `x`/input-\xc3\xb6.json")
    daemon = with_fib(tmp_path, WASMDROP_ON_FINISHED=f"{program} --verbose 'two words'")
    with daemon.running():
        marker = daemon.submit(name, GOOD)
        taken = directory / f"{marker['job']}.marker"
        wait_until(taken.exists, "the command to succeed")
        assert taken.read_bytes() == daemon.result_path(name, ".done").read_bytes()
        (failed,) = daemon.events("hook-failed")
        assert failed["error"] == f"{program}: exited with 7: out of order"
    pairs = (directory / f"{marker['job']}.env").read_bytes().rstrip(b"\0").split(b"\0")
    found = dict(pair.split(b"=", 1) for pair in pairs)
    assert found[b"WASMDROP_SLOT"] == os.fsencode(name)
    assert found[b"WASMDROP_MARKER"] == os.fsencode(daemon.result_path(name, ".done"))
    assert not any(key.startswith(b"WASMDROP_ON") for key in found)


def test_daemon_with_a_hook_that_can_not_be_used_does_not_start(tmp_path: Path) -> None:
    """With one line that says why."""
    daemon = with_fib(tmp_path, WASMDROP_ON_FINISHED="/nowhere/it")
    daemon.launch()
    assert daemon.process is not None
    assert daemon.process.wait() == 2
    assert "WASMDROP_ON_FINISHED: /nowhere/it: No such file or directory" in daemon.log_text()


def test_hook_that_hangs_holds_up_no_job(tmp_path: Path) -> None:
    """The metrics say how much waits, and for how long."""
    hung = threading.Event()

    def hang(_request: Received) -> Answer:
        hung.wait(DEADLINE_SECONDS)
        return TAKEN

    receiver = Receiver(hang)
    with receiver.running():
        daemon = with_fib(tmp_path, WASMDROP_ON_FINISHED=receiver.url, WASMDROP_HTTP="127.0.0.1:0")
        with daemon.running():
            for number in range(10):
                daemon.submit(f"input-{number}.json", GOOD)
            address = daemon.events("http-listening")[-1]["address"]

            def text() -> str:
                with urllib.request.urlopen(f"http://{address}/metrics") as answer:
                    assert isinstance(answer.status, int)
                    shown: str = answer.read().decode()
                return shown

            wait_until(lambda: "wasmdrop_hook_pending_events 10.0" in text(), "all in the metrics")
            assert 'wasmdrop_hook_events_total{result="delivered"} 0.0' in text()
            hung.set()
            wait_until(lambda: "wasmdrop_hook_pending_events 0.0" in text(), "all to be taken")
    assert len(set(receiver.job_ids())) == 10
