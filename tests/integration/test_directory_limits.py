"""Limits per top directory: its jobs wait or are refused, and jobs of other directories run."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from wasmtime import wat2wasm

from tests.support.commands import listed, run, wait_for_state
from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import FIB

_ENDLESS: Final = '(module (func (export "run") (loop br 0)))'
_FIB: Final = {"module": "fib", "entry": "fib", "args": [10]}
_REFUSAL: Final = (
    "the job was refused: the directory many is at its limit of waiting jobs, 3"
    " (WASMDROP_DIRECTORY_QUEUED); drop the input again when some of them have ended"
)
_NOTE: Final = (
    "the directory many is at its limit of jobs under way, 1 (WASMDROP_DIRECTORY_RUNNING)"
)


@contextlib.contextmanager
def _flooded(base: Path, **variables: str) -> Iterator[Daemon]:
    """Run a daemon and drop ten endless jobs into one top directory."""
    variables = {
        "WASMDROP_WORKERS": "2",
        "WASMDROP_DIRECTORY_RUNNING": "1",
        "WASMDROP_DIRECTORY_QUEUED": "3",
        "TIMEOUT_SEC": "3600",
        "WASMDROP_DRAIN_SEC": "0",
    } | variables
    daemon = Daemon(base, **variables)
    for name, text in (("endless", _ENDLESS), ("fib", FIB)):
        drop(daemon.wasm / f"{name}.wasm", bytes(wat2wasm(text)))
    with daemon.running():
        drop(daemon.shared / "many/0/input.json", {"module": "endless"})
        wait_for_state(daemon, "many/0/input.json", "running")
        for number in range(1, 10):
            drop(daemon.shared / f"many/{number}/input.json", {"module": "endless"})
        wait_until(lambda: len(_refused(daemon)) == 6, "six jobs to be refused")
        yield daemon


def _refused(daemon: Daemon) -> list[dict[str, Any]]:
    """Return the markers in the flooded directory."""
    markers = (daemon.marker(f"many/{number}/input.json") for number in range(10))
    return [marker for marker in markers if marker is not None]


def test_directory_beyond_its_limits_waits_or_is_refused_and_others_run(tmp_path: Path) -> None:
    """The slots of refused jobs and the notes of waiting ones say why."""
    with _flooded(tmp_path) as daemon:
        for number in range(5):
            marker = daemon.submit(f"few/input-{number}.json", _FIB)
            assert marker["code"] == "ok"
        assert daemon.submit("input.json", _FIB)["code"] == "ok"
        refused = _refused(daemon)
        assert {(one["code"], one["status"], one["message"]) for one in refused} == {
            ("queue-limit", "failed", _REFUSAL)
        }
        states = [job["state"] for job in listed(daemon, "--state", "open")]
        assert sorted(states) == ["queued", "queued", "queued", "running"]
        waiting = listed(daemon, "--state", "queued")
        assert {job["why"] for job in waiting} == {_NOTE}


def test_directory_limits_after_a_kill_refuse_no_job_again(tmp_path: Path) -> None:
    """Accepted jobs wait on, also beyond a lower limit; refused ones stay refused."""
    with _flooded(tmp_path) as daemon:
        accepted = {job["job"] for job in listed(daemon, "--state", "open")}
        before = _refused(daemon)
        daemon.kill()
        daemon.environment["WASMDROP_DIRECTORY_QUEUED"] = "1"
        daemon.start()
        wait_until(lambda: listed(daemon, "--state", "running"), "a job to run")
        assert {job["job"] for job in listed(daemon, "--state", "open")} == accepted
        assert _refused(daemon) == before
        again = daemon.submit("many/again/input.json", {"module": "endless"})
        assert again["code"] == "queue-limit"


def test_directory_with_room_again_accepts_a_refused_input(tmp_path: Path) -> None:
    """A retry is a drop."""
    with _flooded(tmp_path) as daemon:
        waiting = [job["job"] for job in listed(daemon, "--state", "queued")]
        done = run(daemon, "cancel", *waiting)
        assert done.returncode == 0, done.stderr
        refused = _refused(daemon)[0]
        again = run(daemon, "retry", refused["job"])
        assert again.returncode == 0, again.stderr
        slots = {refused["slot"]}
        wait_until(
            lambda: slots <= {job["slot"] for job in listed(daemon, "--state", "open")},
            "the refused input to be accepted",
        )
