"""Health: every part answers pings on the path of real work; directories are writable."""

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client.core import Metric
from structlog.testing import capture_logs

from tests.support.require import require_root
from wasmdrop.intake.watcher import Watcher
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.sandbox.host.fork_server import ForkServer
from wasmdrop.service.health import prometheus
from wasmdrop.service.health.liveness import SILENT_SECONDS, Liveness, Part
from wasmdrop.service.health.prometheus import PrometheusCollector
from wasmdrop.service.health.writability import WritabilityProbe
from wasmdrop.system.heartbeat import Heartbeat
from wasmdrop.web.message import HttpRequest

ANY: Final = HttpRequest("GET", "/metrics", "", {}, b"")
OPEN_METRICS: Final = "application/openmetrics-text; version=1.0.0"


class Clock:
    """The monotonic clock, which a test can advance."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return time.monotonic() + self.ahead_seconds


async def until(condition: Callable[[], object]) -> None:
    """Wait for other threads."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - they set no event
            await asyncio.sleep(0.01)


async def answers(liveness: Liveness, expected: set[str]) -> None:
    """Wait until all ``expected`` parts have answered recently."""
    await until(
        lambda: all(liveness.ages_seconds().get(name, 99) < SILENT_SECONDS for name in expected)
    )


async def rounds(liveness: Liveness, count: int = 3) -> None:
    """Wait until all parts were pinged this often."""
    heard = {liveness._loop.heard_at}

    def has_heard() -> bool:
        heard.add(liveness._loop.heard_at)
        return len(heard) > count

    await until(has_heard)


def is_stopped(pid: int) -> bool:
    """Return whether SIGSTOP has reached a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def asking(parts: dict[str, Part], clock: Clock, told: list[None]) -> Liveness:
    """Return the liveness of ``parts``, pinged a hundred times a second."""
    return Liveness(parts, lambda: told.append(None), 0.03, clock)


def test_liveness_parts_answer_and_a_stopped_fork_server_does_not(tmp_path: Path) -> None:
    """It is reported as silent, the others are not, and the watchdog is no longer fed."""

    async def scene() -> None:
        clock, told = Clock(), list[None]()
        journal = Journal(tmp_path / "journal.sqlite")
        watcher = Watcher(
            bool,
            lambda: False,
            bool,
            lambda _path: None,
            lambda _path, _is_directory: None,
            lambda _path: None,
            lambda _reason: None,
        )
        watcher.start()
        async with ForkServer(1) as pool:
            parts: dict[str, Part] = {"journal": journal, "watcher": watcher, "server": pool}
            liveness = asking(parts, clock, told)
            task = asyncio.create_task(liveness.keep_pinging())
            await answers(liveness, {*parts, "event_loop"})
            assert liveness.silent() == []
            await until(lambda: told)
            assert pool._process is not None
            pid = pool._process.pid
            os.kill(pid, signal.SIGSTOP)
            await until(lambda: is_stopped(pid))
            await rounds(liveness)  # any answer on its way has arrived
            assert pool.heartbeat.heard_at is not None
            pool.heartbeat.heard_at -= SILENT_SECONDS + 1
            await rounds(liveness)
            assert liveness.silent() == ["server"]
            told.clear()
            await rounds(liveness)
            assert told == []
            os.kill(pool._process.pid, signal.SIGCONT)
            await answers(liveness, {"server"})
            task.cancel()
        watcher.stop()
        await journal.close()

    asyncio.run(scene())


def test_liveness_stuck_journal_thread_is_silent(tmp_path: Path) -> None:
    """A write that does not end."""

    async def scene() -> None:
        clock = Clock()
        journal = Journal(tmp_path / "journal.sqlite")
        liveness = asking({"journal": journal}, clock, [])
        task = asyncio.create_task(liveness.keep_pinging())
        await answers(liveness, {"journal"})
        lock_r, lock_w = os.pipe()
        is_stuck = threading.Event()

        def wait_for_byte(_connection: sqlite3.Connection) -> bytes:
            is_stuck.set()
            return os.read(lock_r, 1)

        stuck = journal._thread.submit(wait_for_byte)
        await until(is_stuck.is_set)
        before = journal.heartbeat.heard_at
        await rounds(liveness)
        assert journal.heartbeat.heard_at == before
        clock.ahead_seconds = SILENT_SECONDS + 1
        assert "journal" in liveness.silent()
        os.write(lock_w, b".")
        await stuck
        clock.ahead_seconds = 0.0
        await answers(liveness, {"journal"})
        task.cancel()
        await journal.close()

    asyncio.run(scene())


def test_liveness_paused_process_judges_no_part_by_the_pause() -> None:
    """No part was pinged meanwhile."""

    class Answering:
        heartbeat = Heartbeat()

        def ping(self) -> None:
            self.heartbeat.beat()

    async def scene() -> None:
        clock, told = Clock(), list[None]()
        liveness = asking({"part": Answering()}, clock, told)
        task = asyncio.create_task(liveness.keep_pinging())
        await answers(liveness, {"part", "event_loop"})
        clock.ahead_seconds = SILENT_SECONDS + 1
        told.clear()
        await until(lambda: told)
        task.cancel()

    with capture_logs() as logs:
        asyncio.run(scene())
    assert logs == []


def test_liveness_part_that_answers_late_after_a_pause_is_not_silent() -> None:
    """It has as much time as ever, from the end of the pause on; then it is reported."""

    class Late:
        heartbeat = Heartbeat()

        def ping(self) -> None:
            if self.heartbeat.heard_at is None:
                self.heartbeat.beat()

    async def scene() -> None:
        late, told = Late(), list[None]()
        liveness = asking({"part": late}, Clock(), told)
        task = asyncio.create_task(liveness.keep_pinging())
        await answers(liveness, {"part", "event_loop"})
        for heartbeat in (late.heartbeat, liveness._loop):
            assert heartbeat.heard_at is not None
            heartbeat.heard_at -= 10 * SILENT_SECONDS
        await rounds(liveness)
        told.clear()
        await rounds(liveness)
        assert told
        assert logs == []
        liveness._resumed_at -= SILENT_SECONDS
        await until(lambda: logs)
        task.cancel()

    with capture_logs() as logs:
        asyncio.run(scene())
    assert [(event["event"], event["part"]) for event in logs] == [("part-silent", "part")]


def test_liveness_part_that_never_answered_is_not_judged() -> None:
    """Without file events the daemon polls and is alive."""

    class Mute:
        heartbeat = Heartbeat()

        def ping(self) -> None:
            """Do not answer."""

    liveness = asking({"watcher": Mute()}, Clock(), [])
    liveness._loop.beat()
    assert liveness.silent() == []
    assert "watcher" not in liveness.ages_seconds()


def test_liveness_without_pings_judges_no_part() -> None:
    """Without probes and a watchdog nothing pings; the fork server answers at its start, though."""

    class Started:
        heartbeat = Heartbeat()

        def ping(self) -> None:
            """Not called."""

    clock = Clock()
    liveness = asking({"forking_server": Started()}, clock, [])
    Started.heartbeat.beat()
    clock.ahead_seconds = SILENT_SECONDS + 1
    assert liveness.ages_seconds()["forking_server"] > SILENT_SECONDS
    assert liveness.silent() == []


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """Return a new filesystem."""
    require_root()
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


def problems(directory: Path) -> list[str]:
    """Return the problems of one directory."""
    return asyncio.run(WritabilityProbe({"shared": directory}).problems())


def test_writability_full_read_only_or_missing_directory_is_a_problem(tmpfs: Path) -> None:
    """The message says which; the problem passes."""
    assert problems(tmpfs) == []
    (tmpfs / "filler").write_bytes(bytes(64 * 1024))
    assert problems(tmpfs) == ["the shared directory can't be written to: No space left on device"]
    (tmpfs / "filler").unlink()
    assert problems(tmpfs) == []
    subprocess.run(["mount", "-o", "remount,ro", str(tmpfs)], check=True)
    assert problems(tmpfs) == ["the shared directory can't be written to: Read-only file system"]
    assert "No such file" in problems(tmpfs / "gone")[0]


def test_writability_check_leaves_nothing(tmp_path: Path) -> None:
    """No file with a name, which a watcher could take for a drop."""
    before = stat.S_IMODE(tmp_path.stat().st_mode), tmp_path.stat().st_mtime_ns
    assert problems(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    assert (stat.S_IMODE(tmp_path.stat().st_mode), tmp_path.stat().st_mtime_ns) == before


def test_metrics_oldest_job_without_open_jobs_is_zero() -> None:
    """Also if the clock was set back."""
    metrics = Metrics()
    assert metrics.oldest_seconds(5) == 0
    metrics.open_since_ns["a"] = 4_000_000_000
    assert metrics.oldest_seconds(5_000_000_000) == 1
    assert metrics.oldest_seconds(1) == 0


def test_prometheus_many_scrapes_render_few_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendering takes milliseconds; each format is rendered anew after a while."""
    made: list[None] = []

    def collect(_page: PrometheusCollector) -> Iterator[Metric]:
        made.append(None)
        yield from ()

    monkeypatch.setattr(PrometheusCollector, "collect", collect)
    page = PrometheusCollector(Metrics(), Any, Any, Any, Any, lambda: True)  # type: ignore[arg-type]
    made.clear()

    async def scrape() -> None:
        monkeypatch.setattr(prometheus, "_FRESH_SECONDS", 600)
        for _ in range(1000):
            assert (await page.answer(ANY)).content_type.startswith("text/plain")
        assert len(made) == 1
        other = await page.answer(ANY._replace(headers={"accept": OPEN_METRICS}))
        assert other.content_type.startswith("application/openmetrics-text")
        assert len(made) == 2
        monkeypatch.setattr(prometheus, "_FRESH_SECONDS", -1)
        await page.answer(ANY)
        assert len(made) == 3

    asyncio.run(scrape())


def test_prometheus_library_is_not_loaded_without_http() -> None:
    """Start-up stays fast without HTTP."""
    code = "import sys, wasmdrop.service; print('prometheus_client' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert run.stdout == "False\n"
