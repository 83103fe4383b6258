"""A daemon with the control page, and a client of it that is no browser."""

import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until

#: Returns its argument, runs for ever, or traps.
MODULE: Final = """
(module
  (func (export "run") (param i32) (result i32) local.get 0)
  (func (export "spin") (loop br 0))
  (func (export "fail") unreachable))
"""

CHANGE: Final = {"X-Wasmdrop": "1"}


class Answer(NamedTuple):
    """A response of the page."""

    status: int
    headers: Mapping[str, str]
    """By name in lower case; of a repeated one, the last value."""
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        assert self.headers["content-type"] == "application/json", self
        return json.loads(self.body)


def with_page(base: Path, **variables: str) -> Daemon:
    """Return a daemon, not started, with the page at a port that the kernel chooses."""
    known = {
        "WASMDROP_HTTP": "127.0.0.1:0",
        "WASMDROP_PAGE": "on",
        "WASMDROP_WORKERS": "2",
        # A job that runs for ever is to be cancelled, also on a slow machine.
        "TIMEOUT_SEC": "600",
    }
    daemon = Daemon(base, **known | variables)
    drop(daemon.wasm / "module.wasm", bytes(wat2wasm(MODULE)))
    return daemon


def address_of(daemon: Daemon) -> tuple[str, int]:
    """Return the address of the page."""
    host, _, port = daemon.until_logged("http-listening")[-1]["address"].rpartition(":")
    return host, int(port)


def ask(
    daemon: Daemon,
    path: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    """Send a request to the page and return its response."""
    client = http.client.HTTPConnection(*address_of(daemon), timeout=60)
    try:
        client.request(method, path, body, dict(headers or {}))
        response = client.getresponse()
        got = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, got, response.read())
    finally:
        client.close()


def overview(daemon: Daemon) -> Any:
    """Return the overview; it may be a second old."""
    answer = ask(daemon, "/api/v1/overview")
    assert answer.status == 200, answer
    return answer.json


def until_running(daemon: Daemon, slot: str) -> Any:
    """Wait until the page shows that the job of a slot runs; return that entry."""

    def look() -> Any:
        jobs = overview(daemon)["running"]
        return next((job for job in jobs if (job["slot"], job["state"]) == (slot, "running")), None)

    return wait_until(look, f"the job of {slot} to run")
