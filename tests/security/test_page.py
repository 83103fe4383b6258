"""Hostile clients and hostile names at the control page of a running daemon."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.page import CHANGE, address_of, ask, overview, until_running, with_page

KNOWN: Final = "0123456789abcdef0123456789abcdef"

#: File names that producers may choose.
HOSTILE_NAMES: Final = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "__proto__",
    "\x1b[2J\x07\r\nX: y",
    "\u202egnp.exe\u2066",
    os.fsdecode(b"\xff\xfe\xc0\xaf"),
    "\u2028\u2029\ufeff\x00"[:3],
    "n" * 255,
)


def exchange(daemon: Daemon, request: bytes) -> bytes:
    """Send bytes and return all that comes back."""
    with socket.create_connection(address_of(daemon), timeout=60) as client:
        client.sendall(request)
        received = b""
        with contextlib.suppress(ConnectionError):
            while part := client.recv(65536):
                received += part
        return received


def texts_in(value: object) -> Iterator[str]:
    """Yield each text of a JSON value, also keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from texts_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts_in(item)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run a daemon without a token; it must take jobs to the end."""
    with with_page(tmp_path_factory.mktemp("page")).running() as one:
        yield one
        assert one.submit("input-last.json", {"entry": "run", "args": [1]})["code"] == "ok"


def test_page_hostile_names_are_harmless_text(daemon: Daemon) -> None:
    """Valid UTF-8 without characters that act, of a bounded length."""
    for number, name in enumerate(HOSTILE_NAMES):
        directory = daemon.shared / name.replace("/", "|")
        content = {"entry": "fail", "id": f"{number}-{name}"[:60]}
        drop(directory / "input.json", json.dumps(content))
    seen = wait_until(
        lambda: one if len((one := overview(daemon))["ended"]) >= len(HOSTILE_NAMES) else None,
        "all jobs",
    )
    for path in ("/api/v1/overview", "/api/v1/jobs?limit=200"):
        answer = ask(daemon, path)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.body.decode("utf-8").isprintable()
        assert all(text.replace("\n", "").isprintable() for text in texts_in(answer.json))
    slots = {job["slot"] for job in seen["ended"]}
    assert "\\udcff\\udcfe\\udcc0\\udcaf/input.json" in slots
    assert all(len(slot) <= 300 and slot.isprintable() for slot in slots)


@pytest.mark.parametrize(
    "path",
    [
        *("/static/../page.py", "/static/..%2fpage.py", "/static/%2e%2e/routes.py"),
        *("/static//etc/passwd", "/static/", "/static/index.html/", "/static/index.html%00.css"),
        *("//etc/passwd", "/..", "/static/__init__.py", "/static/index.html\\..\\routes.py"),
    ],
)
def test_page_path_out_of_its_files_is_not_found(daemon: Daemon, path: str) -> None:
    """Names are looked up among the files that were read at start; no path is opened."""
    response = exchange(daemon, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert response.startswith(b"HTTP/1.1 404 ")
    assert b"import" not in response
    assert b"root:" not in response


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.0.0.1"]
)
def test_page_by_a_rebound_name_is_refused(daemon: Daemon, host: str) -> None:
    """The probes are not."""
    for path in ("/", "/api/v1/overview", "/api/v1/jobs"):
        assert ask(daemon, path, headers={"Host": host}).status == 403
    assert ask(daemon, "/healthz", headers={"Host": host}).status == 200


def test_page_job_is_not_cancelled_by_other_sites(daemon: Daemon) -> None:
    """By forms, links and scripts of sites that the operator visits."""
    drop(daemon.shared / "input-victim.json", {"entry": "spin"})
    job = until_running(daemon, "input-victim.json")
    path = f"/api/v1/jobs/{job['job']}/cancel"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for method, headers in (
        ("GET", CHANGE),
        ("POST", form),
        ("POST", {**form, "Origin": "http://evil.example"}),
        ("POST", {**CHANGE, "Origin": "http://evil.example"}),
        ("POST", {**CHANGE, "Origin": "null"}),
        ("POST", {**CHANGE, "Sec-Fetch-Site": "cross-site"}),
        ("POST", {**CHANGE, "Host": "evil.example", "Origin": "http://evil.example"}),
        ("OPTIONS", {"Access-Control-Request-Headers": "x-wasmdrop", "Origin": "http://a"}),
    ):
        answer = ask(daemon, path, method, headers)
        assert answer.status in {403, 405}, headers
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert daemon.marker("input-victim.json") is None
    assert ask(daemon, path, "POST", CHANGE).status == 200
    wait_until(lambda: daemon.marker("input-victim.json"), "its end")


#: Ends the head of a request.
HOST: Final = b" HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /api/v1/jobs/a/cancel" + HOST + b"Content-Length: 99999999\r\n\r\n",
        b"POST /" + HOST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /" + HOST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"GET /api/v1/jobs?" + b"slot=a&" * 500 + HOST + b"\r\n",
        b"GET /api/v1/jobs?state=" + b"%00%FF" * 900 + HOST + b"\r\n",
        b"GET /api/v1/history?after=" + b"9" * 5000 + HOST + b"\r\n",
        b"GET /api/v1/jobs?limit=" + b"9" * 5000 + HOST + b"\r\n",
        b"GET /" + HOST + b"Host: evil\r\n\r\n",
        b"GET /" + HOST + b"a: b\r\n" * 2000 + b"\r\n",
        b"\x00" * 5000,
        b"\r\n" * 5000,
    ],
)
def test_page_hostile_request_gets_an_error_or_is_cut_off(
    daemon: Daemon, request_bytes: bytes
) -> None:
    """None is a fault of the daemon, and the next request is answered."""
    response = exchange(daemon, request_bytes)
    assert not response or response.split()[1] in {b"400", b"404", b"405", b"413"}
    assert ask(daemon, "/healthz").status == 200


def test_page_flood_of_slow_readers_leaves_memory_and_probes(daemon: Daemon) -> None:
    """Each asks for much and reads nothing."""
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status")

    def resident_kib() -> int:
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1])

    request = b"GET /api/v1/jobs?limit=200 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    before = resident_kib()
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stack.enter_context(client)
            client.connect(address_of(daemon))
            with contextlib.suppress(ConnectionError):
                client.sendall(request)
        for _ in range(10):
            assert ask(daemon, "/healthz").status == 200
        assert resident_kib() - before < 64 * 1024


def test_page_with_a_token_gives_nothing_without_it(tmp_path: Path) -> None:
    """Neither in an error nor in the log."""
    token = tmp_path / "keys" / "token"
    token.parent.mkdir(mode=0o700)
    token.write_text(KNOWN)
    token.chmod(0o600)
    base = tmp_path / "daemon"
    with with_page(base, WASMDROP_PAGE_TOKEN_FILE=str(token)).running() as daemon:
        for headers in ({}, {"Authorization": "Bearer x"}, {"Cookie": "wasmdrop_session_0=x"}):
            assert ask(daemon, "/api/v1/overview", headers=headers).status == 401
            assert ask(daemon, "/", headers=headers).status == 303
        body = f"token={KNOWN}".encode()
        answer = ask(daemon, "/login", "POST", body=body)
        cookie = answer.headers["set-cookie"].partition(";")[0]
        assert ask(daemon, "/api/v1/overview", headers={"Cookie": cookie}).status == 200
        bearer = {"Authorization": f"Bearer {KNOWN}", "Host": "page.example"}
        assert ask(daemon, "/api/v1/overview", headers=bearer).status == 200
        daemon.until_logged("page-login")
        assert KNOWN not in daemon.log_text()
