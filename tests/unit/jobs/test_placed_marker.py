"""Is a job's marker in place, and may a hook pass it on? Its slot belongs to others."""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.require import require_root
from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.jobs.job import Job
from wasmdrop.jobs.placed_marker import placed_marker
from wasmdrop.jobs.result_files import package
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.slot import InputFile, Slot

ODD = os.fsdecode(b"b-\xff/input.json")


def delivered(base: Path, key: str = "input.json") -> tuple[Job, ResultPackage]:
    """Return a job, and its results, which are in its slot."""
    directory = base / Path(key).parent
    directory.mkdir(exist_ok=True)
    slot = Slot(key, str(base / key), str(directory), "result")
    job = Job("job-1", slot, 1, attempt=1, finished_at_ns=2, input=InputFile(key, "0" * 64, 2))
    results = package(job, "fib", [12], Outcome(code=Code.OK, results=(144,)), Limits())
    for suffix, data in results.files.items():
        (directory / f"result{suffix}").write_bytes(data)
    (directory / "result.done").write_bytes(results.marker)
    return job, results


@pytest.mark.parametrize("key", ["input.json", ODD])
@pytest.mark.parametrize("code", [None, Code.OK])
def test_placed_marker_that_agrees_with_the_journal_is_for_the_hook(
    tmp_path: Path, key: str, code: Code | None
) -> None:
    """Also if the journal does not have the end of the job yet."""
    job, results = delivered(tmp_path, key)
    job = msgspec.structs.replace(job, code=code)
    assert placed_marker(job) == placed_marker(job, is_for_event=True) == results.marker


@pytest.mark.parametrize(
    "change",
    [
        {"slot": "other/input.json"},
        {"input": None},
        {"input": {"path": "input.json", "sha256": "1" * 64, "bytes": 2}},
        {"input": {"path": "input.json", "sha256": "0" * 64, "bytes": 3}},
        {"code": "trap", "status": "failed"},
    ],
)
def test_placed_marker_that_lies_is_not_for_the_hook(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    """A producer can write one into its slot while no daemon runs."""
    job, results = delivered(tmp_path)
    job = msgspec.structs.replace(job, code=Code.OK)
    forged = json.dumps(json.loads(results.marker) | change).encode()
    (tmp_path / "result.done").write_bytes(forged)
    assert placed_marker(job) == forged
    assert placed_marker(job, is_for_event=True) is None


def test_placed_marker_of_another_owner_is_not_for_the_hook(tmp_path: Path) -> None:
    """Only the daemon's own is passed on in its name."""
    require_root()
    job, results = delivered(tmp_path)
    os.chown(tmp_path / "result.done", 12345, 12345)
    assert placed_marker(job) == results.marker
    assert placed_marker(job, is_for_event=True) is None


def test_placed_marker_of_another_job_is_none(tmp_path: Path) -> None:
    """The slot holds the results of an earlier one."""
    job, _results = delivered(tmp_path)
    assert placed_marker(msgspec.structs.replace(job, id="job-2")) is None
