"""Recovery: which attempts of jobs count that an earlier daemon left open."""

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.markers import a_marker
from wasmdrop.jobs import recovery
from wasmdrop.jobs.dispatcher import Dispatcher
from wasmdrop.jobs.job import DecidedEnd, Job, JobState
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.recovery import recover
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import InputFile, Slot


class Resumed:
    """Notes the jobs that a dispatcher would resume."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def resume_queued(self, job: Job) -> None:
        """Note a job."""
        self.jobs.append(job)


def resumed(
    base: Path,
    prepare: Callable[[Journal, Job], Any],
    ends: Mapping[str, DecidedEnd] | None = None,
) -> Job:
    """Return the job that recovery resumes after what ``prepare`` does in an earlier daemon."""
    slot = Slot("input.json", str(base / "input.json"), str(base), "result")
    job = Job("1", slot, 1, input=InputFile(str(base / "input.json"), "", 2))

    async def main() -> Job:
        journal = Journal(base / "journal.sqlite")
        await journal.accept(job, b"{}", {})
        prepare(journal, job)
        await journal.close()
        journal = Journal(base / "journal.sqlite")
        dispatcher = Resumed()
        await recover(journal, cast("Dispatcher", dispatcher), lambda _kept: None, ends or {})
        (found,) = dispatcher.jobs
        assert (await journal.load_job("1")).job == found
        await journal.close()
        return found

    return asyncio.run(main())


@pytest.mark.parametrize(("is_remote", "attempt"), [(False, 2), (True, 1)])
def test_recovery_running_job_is_counted_unless_it_runs_elsewhere(
    tmp_path: Path, is_remote: bool, attempt: int
) -> None:
    """An attempt on another machine did not end with the daemon: the next one is the same."""

    def prepare(journal: Journal, job: Job) -> None:
        journal.begin(job, attempt=2, started_at_ns=1, is_remote=is_remote)

    found = resumed(tmp_path, prepare)
    assert (found.state, found.attempt) == (JobState.QUEUED, attempt)
    assert found.resumptions == int(is_remote)


@pytest.mark.parametrize(("is_remote", "attempt"), [(False, 1), (True, 0)])
def test_recovery_job_without_its_results_is_counted_unless_it_ran_elsewhere(
    tmp_path: Path, is_remote: bool, attempt: int
) -> None:
    """The answer is acknowledged when the results are in place, so it can be taken again."""

    def prepare(journal: Journal, job: Job) -> None:
        job, _ = journal.begin(job, attempt=1, started_at_ns=1, is_remote=is_remote)
        journal.move_lazily(job, JobState.EXECUTED)

    found = resumed(tmp_path, prepare)
    assert (found.state, found.attempt) == (JobState.QUEUED, attempt)


@pytest.mark.parametrize(("resumptions", "attempt"), [(19, 0), (20, 1)])
def test_recovery_remote_job_is_counted_after_many_resumptions(
    tmp_path: Path, resumptions: int, attempt: int
) -> None:
    """Its answer may be what kills each daemon."""

    def prepare(journal: Journal, job: Job) -> None:
        journal.begin(job, attempt=1, started_at_ns=1, is_remote=True, resumptions=resumptions)

    assert resumed(tmp_path, prepare).attempt == attempt


def test_recovery_job_that_was_detached_keeps_its_attempts(tmp_path: Path) -> None:
    """The daemon that stopped moved it back, and so did not count the attempt."""

    def prepare(journal: Journal, job: Job) -> None:
        job, _ = journal.begin(job, attempt=1, started_at_ns=1, is_remote=True)
        journal.move_lazily(job, JobState.QUEUED, attempt=0)

    found = resumed(tmp_path, prepare)
    assert (found.attempt, found.resumptions) == (0, 0)


def test_recovery_job_that_was_detached_and_then_refused_has_no_attempt_to_take_back(
    tmp_path: Path,
) -> None:
    """It ended without one."""

    def prepare(journal: Journal, job: Job) -> None:
        job, _ = journal.begin(job, attempt=1, started_at_ns=1, is_remote=True)
        job = journal.move_lazily(job, JobState.QUEUED, attempt=0)
        journal.move_lazily(job, JobState.EXECUTED)

    assert resumed(tmp_path, prepare).attempt == 0


def test_recovery_requested_end_is_recorded_before_the_job_is_resumed(tmp_path: Path) -> None:
    """In any state that the earlier daemon left; an end that was decided before stays."""
    wanted = DecidedEnd(Code.CANCELLED, "a test")
    earlier = DecidedEnd(Code.QUEUE_LIMIT, "too many")

    def run(journal: Journal, job: Job) -> None:
        journal.begin(job, attempt=1, started_at_ns=1, is_remote=False)

    (tmp_path / "running").mkdir()
    found = resumed(tmp_path / "running", run, {"1": wanted, "2": earlier})
    assert (found.state, found.end) == (JobState.QUEUED, wanted)
    (tmp_path / "refused").mkdir()
    prepare = lambda journal, job: journal.end(job, earlier)  # noqa: E731
    assert resumed(tmp_path / "refused", prepare, {"1": wanted}).end == earlier


def test_recovery_requested_end_of_a_job_with_its_results_is_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The marker is in place, and the journal may lack the outcome."""
    monkeypatch.setattr(recovery, "placed_marker", lambda _job, *, is_for_event: b"{}")  # noqa: ARG005
    slot = Slot("input.json", str(tmp_path / "input.json"), str(tmp_path), "result")
    job = Job("1", slot, 1)

    async def main() -> None:
        journal = Journal(tmp_path / "journal.sqlite")
        await journal.accept(job, b"{}", {})
        journal.begin(job, attempt=1, started_at_ns=1, is_remote=False)
        dispatcher = Resumed()
        ends = {"1": DecidedEnd(Code.CANCELLED, "a test")}
        await recover(journal, cast("Dispatcher", dispatcher), lambda _kept: None, ends)
        assert dispatcher.jobs == []
        found = (await journal.load_job("1")).job
        assert (found.state, found.end) == (JobState.DELIVERED, None)
        await journal.close()

    asyncio.run(main())


def test_recovery_job_that_ran_and_has_its_results_is_closed_with_the_code_of_its_marker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it is rerun when its module comes, or its input is moved."""
    marker = json.dumps(a_marker({}, status="failed", code="module-missing")).encode()
    monkeypatch.setattr(recovery, "placed_marker", lambda _job, *, is_for_event: marker)  # noqa: ARG005
    slot = Slot("input.json", str(tmp_path / "input.json"), str(tmp_path), "result")
    job = Job("1", slot, 1)

    async def main() -> None:
        journal = Journal(tmp_path / "journal.sqlite")
        await journal.accept(job, b"{}", {})
        journal.begin(job, attempt=1, started_at_ns=1, is_remote=False)
        await recover(journal, cast("Dispatcher", Resumed()), lambda _kept: None, {})
        found = (await journal.load_job("1")).job
        assert (found.state, found.code) == (JobState.DELIVERED, Code.MODULE_MISSING)
        await journal.close()

    asyncio.run(main())


def test_recovery_refused_job_with_its_results_is_closed_with_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal may lack the moves of a job that never ran; its results are not written twice."""
    monkeypatch.setattr(recovery, "placed_marker", lambda _job, *, is_for_event: b"{}")  # noqa: ARG005
    slot = Slot("input.json", str(tmp_path / "input.json"), str(tmp_path), "result")
    job = Job("1", slot, 1, end=DecidedEnd(Code.QUEUE_LIMIT, "too many"))

    async def main() -> None:
        journal = Journal(tmp_path / "journal.sqlite")
        await journal.accept(job, b"{}", {})
        dispatcher = Resumed()
        await recover(journal, cast("Dispatcher", dispatcher), lambda _kept: None, {})
        assert dispatcher.jobs == []
        found = (await journal.load_job("1")).job
        assert found.state is JobState.DELIVERED
        assert (found.code, found.message) == (Code.QUEUE_LIMIT, "too many")
        await journal.close()

    asyncio.run(main())
