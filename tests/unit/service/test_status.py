"""The status of a daemon in one line, and where its threads are."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from structlog.testing import capture_logs

from tests.support.daemon import DEADLINE_SECONDS
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.service.health.probes import Health
from wasmdrop.service.status import DaemonStatus, keep_systemd_informed, log_status


def status_of(metrics: Metrics, **health: str | None) -> DaemonStatus:
    """Return the status of a daemon with these counters; only its line can be asked for."""
    known = {"why_not_ready": None, "why_paused": "", "why_no_results": lambda: ""} | health
    status = DaemonStatus(
        metrics,
        *(None, None, None, None),  # type: ignore[arg-type]
        cast("Health", SimpleNamespace(**known)),
        *([], lambda: 60.0, None, None),
    )
    status.has_recovered = True
    return status


def test_line_of_a_daemon_tells_jobs_and_undelivered_results_with_the_reason() -> None:
    """The reason of an earlier failure is not told when all results are delivered."""
    metrics = Metrics()
    metrics.open_since_ns.update({str(number): 0 for number in range(1203)})
    metrics.running, metrics.delivery_error = 2, "No space left on device"
    status = status_of(metrics)
    assert status.line() == "1,201 jobs waiting, 2 running"
    metrics.undelivered = 1
    assert status.line() == (
        "1,200 jobs waiting, 2 running; 1 undelivered: No space left on device"
    )


def test_line_of_a_daemon_is_one_safe_line() -> None:
    """Reasons have names of files, which others choose."""
    status = status_of(Metrics(), why_paused="/srv/a\n\x1b[2J" + "x" * 500)
    line = status.line()
    assert line.isprintable()
    assert len(line) < 300


def test_line_of_a_daemon_tells_the_start_and_the_stop() -> None:
    """How many jobs are recovered so far, and how many a shutdown waits for."""
    metrics = Metrics()
    status = status_of(metrics, why_not_ready="starting")
    assert status.line() == "starting"
    metrics.open_since_ns["a"] = 0
    status.has_recovered = False
    assert status.line() == "recovering 1 job"
    status = status_of(metrics, why_not_ready="stopping")
    metrics.running = 2
    assert status.line() == "stopping, 2 jobs running"


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[socket.socket]:
    """Give a socket that stands for systemd's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.bind(str(tmp_path / "notify"))
        link.settimeout(DEADLINE_SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield link


def test_systemd_is_told_only_what_has_changed(
    monkeypatch: pytest.MonkeyPatch, manager: socket.socket
) -> None:
    """An idle daemon sends nothing; a start that makes progress asks for time."""
    monkeypatch.setattr("wasmdrop.service.status._PERIOD_SECONDS", 0)
    lines = iter(["recovering 1 job", "recovering 2 jobs", "ready", "ready", "ready", "end"])
    told: list[str] = []

    def line() -> str:
        told.append(next(lines))
        return told[-1]

    async def informed() -> None:
        task = asyncio.create_task(
            keep_systemd_informed(line, lambda: told[-1].startswith("recovering"))
        )
        while told[-1:] != ["end"]:  # noqa: ASYNC110
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(informed())
    received = [manager.recv(1000).decode() for _ in range(6)]
    assert [one for one in received if one.startswith("STATUS=")] == [
        "STATUS=recovering 1 job",
        "STATUS=recovering 2 jobs",
        "STATUS=ready",
        "STATUS=end",
    ]
    assert sum(one.startswith("EXTEND_TIMEOUT_USEC=") for one in received) == 2


def test_logged_status_has_the_stack_of_each_thread() -> None:
    """The innermost call first, without the functions that look."""
    go_on, waits = threading.Event(), threading.Event()

    def wait_for_the_test() -> None:
        waits.set()
        go_on.wait()

    thread = threading.Thread(target=wait_for_the_test, name="patient")
    thread.start()
    waits.wait()
    try:
        with capture_logs() as logs:
            log_status({"state": "ready"})
    finally:
        go_on.set()
        thread.join()
    (event,) = logs
    assert (event["event"], event["state"]) == ("status", "ready")
    stacks = {name.rpartition(" ")[0]: stack for name, stack in event["stacks"].items()}
    assert "wait_for_the_test" in stacks["patient"]
    assert stacks["MainThread"].startswith("test_logged_status_has_the_stack_of_each_thread")


def test_logged_status_has_the_main_thread_if_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It runs the event loop; it is the oldest one."""
    monkeypatch.setattr("wasmdrop.service.status._MAX_THREADS", 1)
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait)
    thread.start()
    try:
        with capture_logs() as logs:
            log_status({})
    finally:
        go_on.set()
        thread.join()
    assert [name.partition(" ")[0] for name in logs[0]["stacks"]] == ["MainThread"]
