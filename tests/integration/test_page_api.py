"""The control page's API on a running daemon."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.page import CHANGE, ask, overview, until_running, with_page
from wasmdrop.page.model import History, Hooks, Limits, Overview


def test_page_overview_of_a_busy_daemon_has_its_jobs_and_modules(tmp_path: Path) -> None:
    """Jobs that ended, one that runs, one that waits behind it, and the modules."""
    with with_page(tmp_path).running() as daemon:
        daemon.submit("input-good.json", {"entry": "run", "args": [1]})
        daemon.submit("sub/input.json", {"entry": "fail"})
        drop(daemon.shared / "input-slow.json", {"entry": "spin"})
        until_running(daemon, "input-slow.json")
        drop(daemon.shared / "input-slow.json", {"entry": "spin", "id": "second"})
        seen = wait_until(lambda: one if (one := overview(daemon))["queued"] else None, "it waits")
        parsed = msgspec.convert(seen, Overview)
        assert [job.slot for job in parsed.running] == ["input-slow.json"]
        assert parsed.running[0].state == "running"
        assert parsed.queued[0].slot == "input-slow.json"
        ended = {job.slot: job for job in parsed.ended}
        assert ended["input-good.json"].status == "succeeded"
        assert ended["sub/input.json"].code == "trap"
        assert ended["sub/input.json"].run_seconds is not None
        assert [failure.code for failure in parsed.failures_by_code] == ["trap"]
        [module] = parsed.modules
        assert (module.calls, module.failures) == (2, 1)
        assert module.compile_seconds is not None
        assert module.median_run_seconds is not None
        assert parsed.failures_by_module[0].sha256 == module.sha256
        assert parsed.jobs.ended == {"ok": 1, "trap": 1}
        assert parsed.jobs.by_state == {"running": 1, "queued": 1}
        assert parsed.health.is_alive
        assert parsed.health.is_ready
        assert {volume.name for volume in parsed.storage.volumes} == {"shared", "state"}
        assert parsed.storage.cache_bytes > 0
        assert parsed.storage.journal_bytes > 0
        assert not parsed.login
        for job in (*parsed.running, *parsed.queued):
            assert cancel(daemon, job.job).status == 200
        marker = wait_until(lambda: daemon.marker("input-slow.json"), "the end of both")
        assert marker["code"] == "cancelled"


def test_page_overview_has_the_completion_hook_and_the_limits_per_directory(tmp_path: Path) -> None:
    """Directories at their limit count; without these settings the parts are missing."""
    with with_page(tmp_path).running() as daemon:
        assert (overview(daemon)["hooks"], overview(daemon)["limits"]) == (None, None)
        daemon.environment |= {
            "WASMDROP_ON_FINISHED": "/bin/true",
            "WASMDROP_DIRECTORY_RUNNING": "1",
            "WASMDROP_DIRECTORY_QUEUED": "1",
        }
    with daemon.running():
        daemon.submit("a/input-good.json", {"entry": "run", "args": [1]})
        wait_until(lambda: overview(daemon)["hooks"]["delivered"] == 1, "the event to be taken")
        drop(daemon.shared / "a/input-slow.json", {"entry": "spin"})
        until_running(daemon, "a/input-slow.json")
        drop(daemon.shared / "a/input-waits.json", {"entry": "spin"})
        wait_until(lambda: overview(daemon)["limits"]["held_directories"], "the limit to hold it")
        seen = msgspec.convert(overview(daemon), Overview)
        assert seen.limits == Limits(1, 1, held_directories=1, full_directories=1)
        assert seen.hooks == Hooks(0, 0, delivered=1, failed=0, given_up=0)
        for job in (*seen.running, *seen.queued):
            assert cancel(daemon, job.job).status == 200


def cancel(daemon: Daemon, job_id: str) -> Any:
    """Cancel a job as the page does."""
    return ask(daemon, f"/api/v1/jobs/{job_id}/cancel", "POST", CHANGE)


def test_page_cancel_answers_how_a_job_ended(tmp_path: Path) -> None:
    """One that runs is cancelled, one that has ended is not, and an unknown one is not found."""
    with with_page(tmp_path).running() as daemon:
        drop(daemon.shared / "input.json", {"entry": "spin"})
        job = until_running(daemon, "input.json")
        assert cancel(daemon, job["job"]).json == {"cancelled": True}
        marker = wait_until(lambda: daemon.marker("input.json"), "its end")
        assert marker["code"] == "cancelled"
        again = cancel(daemon, job["job"])
        assert again.status == 409
        assert job["job"] in again.json["error"]
        assert cancel(daemon, "20260101T000000Z-0000000000").status == 404
        unseen = ask(daemon, f"/api/v1/jobs/{job['job']}/cancel", "POST")
        assert unseen.status == 403


def test_page_jobs_are_in_the_journal(tmp_path: Path) -> None:
    """Filtered and limited; names of any bytes are valid JSON."""
    odd = os.fsdecode(b"sub-\xff")
    with with_page(tmp_path).running() as daemon:
        for number in range(3):
            daemon.submit(f"input-{number}.json", {"entry": "run", "args": [number]})
        daemon.submit("input-bad.json", {"entry": "fail"})
        daemon.submit(f"{odd}/input.json", {"entry": "run", "args": [1]})
        jobs = wait_until(
            lambda: (
                found
                if len(found := ask(daemon, "/api/v1/jobs?state=delivered").json["jobs"]) == 5
                else None
            ),
            "all jobs in the journal",
        )
        assert {job["slot"] for job in jobs} >= {"input-bad.json", "sub-\\udcff/input.json"}
        [failed] = ask(daemon, "/api/v1/jobs?code=trap").json["jobs"]
        assert failed["slot"] == "input-bad.json"
        [one] = ask(daemon, "/api/v1/jobs?slot=sub-%FF/input.json").json["jobs"]
        assert one["code"] == "ok"
        assert len(ask(daemon, "/api/v1/jobs?limit=2&state=delivered").json["jobs"]) == 2
        shown = ask(daemon, f"/api/v1/jobs/{failed['job']}").json
        assert shown["message"].startswith(failed["message"].partition("\n")[0])
        assert ask(daemon, "/api/v1/jobs/none").status == 404
        for query in ("state=none", "code=x", "limit=0", "limit=201", "limit=x", "slots=a", "a"):
            refused = ask(daemon, f"/api/v1/jobs?{query}")
            assert refused.status == 400, query
            assert refused.json["error"]


def test_page_begins_with_the_jobs_of_an_earlier_daemon(tmp_path: Path) -> None:
    """The numbers since the start begin at 0."""
    daemon = with_page(tmp_path)
    with daemon.running():
        daemon.submit("input.json", {"entry": "fail"})
    with daemon.running():
        seen = overview(daemon)
        assert [job["code"] for job in seen["ended"]] == ["trap"]
        assert seen["failures_by_code"][0]["count"] == 1
        assert seen["jobs"]["ended"] == {}


def test_page_history_has_the_jobs_of_the_last_periods(tmp_path: Path) -> None:
    """A request may ask for the new samples alone."""
    with with_page(tmp_path).running() as daemon:
        daemon.submit("input.json", {"entry": "run", "args": [1]})

        def sampled() -> History | None:
            history = msgspec.convert(ask(daemon, "/api/v1/history").json, History)
            return history if any(history.succeeded) else None

        history = wait_until(sampled, "a sample with the job")
        assert history.p50_seconds[history.succeeded.index(max(history.succeeded))]
        later = ask(daemon, f"/api/v1/history?after={history.times[-1]}").json
        assert not set(later["times"]) & set(history.times)
        assert ask(daemon, "/api/v1/history?after=x").status == 400


def test_page_of_a_daemon_whose_event_loop_hangs_says_so(tmp_path: Path) -> None:
    """The files of the page, the history and the probes are served."""
    daemon = with_page(tmp_path)
    daemon.command = (sys.executable, "-m", "tests.support.hanging_daemon")
    with daemon.running():
        assert overview(daemon)
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGWINCH)
        answer = wait_until(
            lambda: one if (one := ask(daemon, "/api/v1/overview")).status != 200 else None,
            "an error",
        )
        assert answer.status == 503
        assert "event loop has not answered for" in answer.json["error"]
        assert ask(daemon, "/").status == 200
        assert ask(daemon, "/api/v1/history").status == 200
        daemon.process.send_signal(signal.SIGURG)
        assert wait_until(lambda: ask(daemon, "/api/v1/overview").status == 200, "its return")
