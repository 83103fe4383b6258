"""A cancelled job never ends otherwise, whenever the daemon is killed meanwhile."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Final

import pytest
from wasmtime import wat2wasm

from tests.support.commands import listed, run
from tests.support.daemon import Daemon, drop, wait_until
from tests.support.durability import dying
from tests.support.durability.points import find_points

_COMMIT: Final = "jobs.journal.commit_thread.CommitThread._try_to_commit:commit"
_UNLINK: Final = "service.cancel_requests.CancelRequests._remove:unlink"
_RENAME: Final = "delivery.placement.Placement._rename:replace"

#: The commits of one job: its acceptance, its attempt, its cancellation, its outcome, its end.
_MOMENTS: Final = [
    (_COMMIT, 3, "before"),
    *((_COMMIT, turn, "after") for turn in range(2, 5)),
    (_UNLINK, 1, "before"),
    (_UNLINK, 1, "after"),
    (_RENAME, 1, "before"),
    (_RENAME, 3, "after"),
]


def _plan(name: str, turn: int, moment: str) -> str:
    (point,) = [one for one in find_points() if one.name == name]
    lines = point.first_line, point.last_line
    return json.dumps(dataclasses.asdict(dying.KillPlan(point.file, *lines, moment, turn)))


def _has_died(daemon: Daemon) -> bool:
    return daemon.process is None or daemon.process.poll() is not None


def _code(daemon: Daemon) -> str | None:
    marker = daemon.marker("input-a.json")
    return None if marker is None else str(marker["code"])


def _running_job(daemon: Daemon) -> str | None:
    """Return the running job; None if the journal has none, or there is no journal yet."""
    if not (daemon.state / "journal.sqlite").exists():
        return None
    done = run(daemon, "jobs", "--json", "--state", "running")
    return json.loads(done.stdout)["job"] if done.stdout else None


@pytest.mark.parametrize(("name", "turn", "moment"), _MOMENTS)
def test_job_cancelled_around_a_kill_ends_as_cancelled(
    tmp_path: Path, name: str, turn: int, moment: str
) -> None:
    """The request outlives the daemon until the journal has it; then the journal does."""
    daemon = Daemon(tmp_path, TIMEOUT_SEC="1000", WASMDROP_SETTLE_SEC="0.02")
    drop(daemon.wasm / "m.wasm", bytes(wat2wasm('(module (func (export "run") (loop br 0)))')))
    daemon.prefix = (sys.executable, dying.__file__, _plan(name, turn, moment))
    daemon.launch()
    drop(daemon.shared / "input-a.json", {"module": "m"})
    wait_until(lambda: _has_died(daemon) or daemon.events("ready"), "the daemon to be ready")
    daemon.prefix = ()
    wait_until(lambda: _has_died(daemon) or _running_job(daemon), "the job to run")
    if _has_died(daemon):
        daemon.start()
    job = wait_until(lambda: _running_job(daemon), "the job to run")
    done = run(daemon, "cancel", job)
    assert (done.returncode, done.stdout) == (0, f"{job}\n"), done.stderr
    wait_until(lambda: _has_died(daemon) or _code(daemon), "a kill or the end of the job")
    assert _code(daemon) in {None, "cancelled"}
    if _has_died(daemon):
        daemon.start()
    wait_until(lambda: _code(daemon), "the end of the job")
    assert _code(daemon) == "cancelled"
    wait_until(lambda: not list((daemon.state / "cancel").iterdir()), "the request to be removed")
    wait_until(lambda: not listed(daemon, "--state", "open"), "the journal to have the end")
    (ended,) = listed(daemon)
    assert (ended["job"], ended["state"], ended["code"]) == (job, "delivered", "cancelled")
    if not _has_died(daemon):
        assert daemon.stop() == 0
