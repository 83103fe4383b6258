"""A cancelled job never ends otherwise, whenever the daemon is killed meanwhile."""

import sys
from pathlib import Path
from typing import Final

import pytest
from wasmtime import wat2wasm

from tests.support.commands import listed, run, wait_for_state
from tests.support.daemon import Daemon, drop, wait_until
from tests.support.durability import dying
from tests.support.durability.points import find_points, kill_plan

_COMMIT: Final = "jobs.journal.commit_thread.CommitThread._try_to_commit:commit"
_UNLINK: Final = "service.cancel_requests.CancelRequests._remove:unlink"
_RENAME: Final = "delivery.placement.Placement._rename:replace"

#: The commits from the request on: the cancellation, and then the outcome and the end of the job.
_MOMENTS: Final = [
    (_COMMIT, 1, "before"),
    (_COMMIT, 1, "after"),
    (_COMMIT, 2, "before"),
    (_COMMIT, 2, "after"),
    (_UNLINK, 1, "before"),
    (_UNLINK, 1, "after"),
    (_RENAME, 1, "before"),
    (_RENAME, 3, "after"),
]


def _plan(name: str, turn: int, moment: str, requests: Path) -> str:
    (point,) = [one for one in find_points() if one.name == name]
    armed_by = str(requests) if name == _COMMIT else None
    return kill_plan(point, moment, turn, armed_by=armed_by)


def _has_died(daemon: Daemon) -> bool:
    return daemon.process is None or daemon.process.poll() is not None


def _code(daemon: Daemon) -> str | None:
    marker = daemon.marker("input-a.json")
    return None if marker is None else str(marker["code"])


@pytest.mark.parametrize(("name", "turn", "moment"), _MOMENTS)
def test_job_cancelled_around_a_kill_ends_as_cancelled(
    tmp_path: Path, name: str, turn: int, moment: str
) -> None:
    """The request outlives the daemon until the journal has it; then the journal does."""
    daemon = Daemon(tmp_path, TIMEOUT_SEC="1000", WASMDROP_SETTLE_SEC="0.02")
    drop(daemon.wasm / "m.wasm", bytes(wat2wasm('(module (func (export "run") (loop br 0)))')))
    requests = daemon.state / "cancel"
    daemon.prefix = (sys.executable, dying.__file__, _plan(name, turn, moment, requests))
    daemon.start()
    daemon.prefix = ()
    drop(daemon.shared / "input-a.json", {"module": "m"})
    job = str(wait_for_state(daemon, "a", "running")["job"])
    done = run(daemon, "cancel", job)
    assert (done.returncode, done.stdout) == (0, f"{job}\n"), done.stderr
    wait_until(lambda: _has_died(daemon), "the kill")
    assert _code(daemon) in {None, "cancelled"}
    daemon.start()
    wait_until(lambda: _code(daemon), "the end of the job")
    assert _code(daemon) == "cancelled"
    wait_until(lambda: not list(requests.iterdir()), "the request to be removed")
    wait_until(lambda: not listed(daemon, "--state", "open"), "the journal to have the end")
    (ended,) = listed(daemon)
    assert (ended["job"], ended["state"], ended["code"]) == (job, "delivered", "cancelled")
    assert daemon.stop() == 0
