"""Health and metrics over HTTP, and systemd's watchdog."""

import contextlib
import json
import os
import re
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families
from wasmtime import wat2wasm

from tests.support.commands import run
from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import FIB
from tests.support.health import address, get
from wasmdrop.sandbox.native_program import find_native_program

SLOW: Final = '(module (func (export "run") (loop br 0)))'

#: Names that the rules of Prometheus allow, with the base units that the daemon uses.
NAME: Final = re.compile(r"(wasmdrop|process)_[a-z]+(_[a-z]+)*")
LABELS: Final = {
    "guest",
    "code",
    "stage",
    "part",
    "where",
    "le",
    "limit",
    "version",
    "wasmtime_version",
}


def serving(tmp_path: Path, module: str = FIB, **variables: str) -> Daemon:
    """Return a daemon, not started, that serves HTTP on a port that the kernel chooses."""
    daemon = Daemon(tmp_path, WASMDROP_HTTP="127.0.0.1:0", **variables)
    drop(daemon.wasm / "module.wasm", bytes(wat2wasm(module)))
    return daemon


def metrics(daemon: Daemon) -> dict[str, float]:
    """Return the value of each sample, by its name and labels."""
    status, text = get(daemon, "/metrics")
    assert status == 200
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_health_of_a_healthy_daemon_is_ok(tmp_path: Path) -> None:
    """Every part has reported, and drops are accepted."""
    with serving(tmp_path).running() as daemon:
        parts = {"event_loop", "watcher", "journal", "forking_server"}
        wait_until(
            lambda: set(json.loads(get(daemon, "/healthz")[1])["heard_seconds_ago"]) == parts,
            "every part",
        )
        assert get(daemon, "/healthz")[0] == 200
        assert get(daemon, "/readyz") == (200, '{"ok": true, "reasons": []}\n')
        assert get(daemon, "/healthz?verbose")[0] == 200
        assert get(daemon, "/../etc/passwd")[0] == 404


def test_metrics_count_jobs(tmp_path: Path) -> None:
    """By code and by stage; sizes; where modules came from."""
    with serving(tmp_path).running() as daemon:
        for number in range(3):
            daemon.submit(f"input-{number}.json", '{"entry":"fib","args":[5]}')
        daemon.submit("input-bad.json", '{"entry":"none"}')
        daemon.submit("input-worse.json", "{}}")

        # A job is counted when its delivery has ended, which a marker that is there need not wait
        # for. Another job may be open: the dropped default module's own run, without an input.
        def counted() -> dict[str, float] | None:
            now = metrics(daemon)
            is_idle = now["wasmdrop_oldest_job_age_seconds"] == 0
            is_counted = now.get("wasmdrop_job_duration_seconds_count total") == 5
            return now if is_counted and is_idle else None

        found = wait_until(counted, "five jobs to be counted, and no other to be open")
    assert found["wasmdrop_jobs_total ok"] == 3
    assert found["wasmdrop_jobs_total entry-not-found"] == 1
    assert found["wasmdrop_jobs_total invalid-input"] == 1
    assert found["wasmdrop_job_duration_seconds_count total"] == 5
    assert found["wasmdrop_job_duration_seconds_count run"] == 3
    assert found["wasmdrop_job_duration_seconds_sum run"] > 0
    assert found["wasmdrop_input_bytes_total"] == 3 * 26 + 16 + 3
    assert found["wasmdrop_result_bytes_total"] > 3 * 40
    assert found["wasmdrop_module_cache_misses_total"] == 1
    assert found["wasmdrop_module_cache_hits_total memory"] >= 2
    for gauge in ("jobs_queued", "jobs_running", "oldest_job_age_seconds", "undelivered_results"):
        assert found[f"wasmdrop_{gauge}"] == 0, gauge
    assert found["wasmdrop_ready"] == 1
    guest = "python" if find_native_program() is None else "native"
    assert daemon.events("ready")[-1]["guest"] == guest
    assert found[f"wasmdrop_guest_info {guest}"] == 1
    assert found["wasmdrop_scans_total"] >= 1
    assert found["wasmdrop_forking_server_restarts_total"] == 0


def test_metrics_follow_naming_rules_and_contain_no_file_names(tmp_path: Path) -> None:
    """Counters end in ``_total``, units are in names, labels have few values."""
    with serving(tmp_path).running() as daemon:
        daemon.submit("input-secretname.json", '{"entry":"fib","args":[5],"id":"secretname"}')
        _status, text = get(daemon, "/metrics")
        openmetrics = urllib.request.Request(  # noqa: S310 - of our own
            "http://{}:{}/metrics".format(*address(daemon)),
            headers={"Accept": "application/openmetrics-text; version=1.0.0"},
        )
        with urllib.request.urlopen(openmetrics, timeout=30) as answer:  # noqa: S310 - the same
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
            assert answer.read().endswith(b"# EOF\n")
    assert "secretname" not in text
    assert str(tmp_path) not in text
    for family in text_string_to_metric_families(text):
        assert NAME.fullmatch(family.name), family.name
        assert family.documentation
        assert not re.search(r"_(ms|milliseconds|kb|mb|count|total)$", family.name), family.name
        if "duration" in family.name or "age" in family.name:
            assert family.name.endswith("_seconds")
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name.endswith("_total")
            assert set(sample.labels) <= LABELS


def test_metrics_count_running_and_waiting_jobs(tmp_path: Path) -> None:
    """One runs, another waits for it, and the older one's age grows."""
    with serving(tmp_path, SLOW, WASMDROP_WORKERS="1").running() as daemon:
        drop(daemon.shared / "input.json", '{"timeout_sec": 3}')
        wait_until(lambda: metrics(daemon)["wasmdrop_jobs_running"], "the job to run")
        drop(daemon.shared / "input-b.json", '{"timeout_sec": 0.1}')
        wait_until(lambda: metrics(daemon)["wasmdrop_jobs_queued"], "the other to wait")
        assert metrics(daemon)["wasmdrop_oldest_job_age_seconds"] > 0
        wait_until(lambda: daemon.marker("input-b.json"), "both")
        wait_until(lambda: metrics(daemon)["wasmdrop_jobs_total timeout"] == 2, "both counted")
        assert metrics(daemon)["wasmdrop_jobs_running"] == 0


def test_metrics_count_a_fork_server_that_died(tmp_path: Path) -> None:
    """And its successor."""
    daemon = serving(tmp_path).start()
    os.kill(daemon.fork_server(), signal.SIGKILL)
    wait_until(lambda: metrics(daemon)["wasmdrop_forking_server_restarts_total"], "the count")
    daemon.submit("input.json", '{"entry":"fib","args":[6]}')
    assert daemon.stop() == 0


def test_health_of_a_stopping_daemon_is_alive_and_not_ready(tmp_path: Path) -> None:
    """While it waits for the running job, so that it gets no traffic and is not restarted."""
    daemon = serving(tmp_path, SLOW)
    with daemon.running():
        drop(daemon.shared / "input.json", '{"timeout_sec": 3}')
        wait_until(lambda: metrics(daemon)["wasmdrop_jobs_running"], "the job to run")
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        wait_until(lambda: daemon.events("stopping"), "the stop")
        assert get(daemon, "/healthz")[0] == 200
        assert get(daemon, "/readyz") == (503, '{"ok": false, "reasons": ["stopping"]}\n')


def test_http_clients_that_send_nothing_do_not_delay_jobs(tmp_path: Path) -> None:
    """Connections are limited and time out; a job runs meanwhile, and each request is answered."""
    with serving(tmp_path).running() as daemon, contextlib.ExitStack() as stack:
        for number in range(2):  # after the second job its module has a zygote, which takes some
            daemon.submit("input.json", f'{{"entry":"fib","args":[{number}]}}')
        before = at_rest(daemon)
        for number in range(200):
            client = stack.enter_context(socket.create_connection(address(daemon)))
            if number % 2:
                client.sendall(b"GET /metrics HTTP/1.1\r\n")
        marker = daemon.submit("input.json", '{"entry":"fib","args":[6]}')
        assert marker["status"] == "succeeded"
        assert threads_and_descriptors(daemon)[0] == before[0]
        for path in ("/healthz", "/readyz", "/metrics"):
            assert get(daemon, path)[0] == 200
        wait_until(lambda: threads_and_descriptors(daemon)[1] <= before[1], "their end")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"404"),
        (b"POST /healthz HTTP/1.1\r\nHost: a\r\n\r\n", b"405"),
        (b"HEAD /healthz HTTP/1.0\r\n\r\n", b"200"),
        (b"\x16\x03\x01 what is this\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", b""),
    ],
)
def test_http_request_that_is_malformed_gets_an_answer_or_is_closed(
    tmp_path: Path, request_bytes: bytes, status: bytes
) -> None:
    """A request that is too long is cut off."""
    with serving(tmp_path).running() as daemon:
        with socket.create_connection(address(daemon), timeout=30) as client:
            client.sendall(request_bytes)
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while part := client.recv(4096):
                    received += part
        assert received[9:12] == status
        assert request_bytes.startswith(b"HEAD") == (received.endswith(b"\r\n\r\n"))


def test_http_address_that_is_taken_stops_the_start(tmp_path: Path) -> None:
    """With one line, which names the setting."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        daemon = Daemon(tmp_path, WASMDROP_HTTP=where)
        done = run(daemon, "serve")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"wasmdrop: WASMDROP_HTTP: can't listen on {where}: Address already in use"
    ]


def test_systemd_watchdog_of_a_healthy_daemon_is_notified(tmp_path: Path) -> None:
    """Ready, then one notification after another, then stopping; without any HTTP."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        daemon = Daemon(
            tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC=str(600_000)
        )
        with daemon.running():
            heard: list[Any] = []
            while heard.count(b"WATCHDOG=1") < 4:
                heard += manager.recv(1000).split(b"\n")
        while b"STOPPING=1" not in heard:
            heard += manager.recv(1000).split(b"\n")
    assert heard.count(b"READY=1") == 1
    assert not daemon.events("http-listening")


def at_rest(daemon: Daemon) -> tuple[int, int]:
    """Return the daemon's threads and descriptors when it has nothing more to open after a job.

    It opens the file by which it pings its watcher some seconds after its start.
    """
    assert daemon.process is not None
    files = Path(f"/proc/{daemon.process.pid}/fd")

    def has_asked() -> bool:
        with contextlib.suppress(FileNotFoundError):  # one that was just closed
            return any("wasmdrop-liveness" in str(path.readlink()) for path in files.iterdir())
        return False

    wait_until(has_asked, "the first question to the watcher")
    counts: list[tuple[int, int]] = []

    def is_steady() -> bool:
        counts.append(threads_and_descriptors(daemon))
        return len(counts) >= 100 and len(set(counts[-100:])) == 1

    wait_until(is_steady, "threads and descriptors to stay the same")
    return counts[-1]


def threads_and_descriptors(daemon: Daemon) -> tuple[int, int]:
    """Return how many of each the daemon's own process has."""
    assert daemon.process is not None
    process = Path(f"/proc/{daemon.process.pid}")
    return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))
