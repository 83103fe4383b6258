"""Requests to cancel jobs: which files count, and when they are removed."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.daemon import wait_until
from tests.unit.jobs.fakes import done, job, until
from wasmdrop.jobs.job import DecidedEnd, Job, JobState
from wasmdrop.protocol.outcome import Code
from wasmdrop.service.cancel_requests import REQUESTS_NAME, WAKE_NAME, CancelRequests

IDS = [f"20260101T00000{number}Z-0123456789" for number in range(5)]
REFUSED = "20260101T000009Z-0123456789"


class Jobs:
    """The jobs of a daemon; those in ``open`` can be cancelled."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.journal: dict[str, Job] = {}
        self.cancelled: list[str] = []

    def cancel(self, job_id: str, _reason: str) -> "asyncio.Future[bool]":
        """Cancel a job."""
        if job_id not in self.open:
            return done(False)
        self.cancelled.append(job_id)
        return done(True)

    def find_job(self, job_id: str) -> "asyncio.Future[Job | None]":
        """Find a job in the journal."""
        return done(self.journal.get(job_id))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Give a private state directory with a directory of requests."""
    directory = tmp_path / "state"
    (directory / REQUESTS_NAME).mkdir(mode=0o700, parents=True)
    directory.chmod(0o700)
    return directory


def request(state: Path, job_id: str) -> Path:
    """Make a request."""
    path = state / REQUESTS_NAME / job_id
    path.touch(mode=0o600)
    return path


def wake(state: Path) -> None:
    """Wake the daemon."""
    fifo = os.open(state / WAKE_NAME, os.O_WRONLY | os.O_NONBLOCK)
    os.write(fifo, b"\n")
    os.close(fifo)


@contextlib.asynccontextmanager
async def serving(state: Path, jobs: Jobs, period_seconds: float = 1000) -> AsyncIterator[None]:
    """Take requests during a block; they have been looked at once when it begins."""
    requests = CancelRequests(state)
    before = asyncio.all_tasks()
    requests.start(jobs.cancel, jobs.find_job, period_seconds)
    tasks = asyncio.all_tasks() - before
    marker = request(state, "20000101T000000Z-ffffffffff")
    await until(lambda: not marker.exists())
    try:
        yield
    finally:
        requests.stop()
        await asyncio.wait(tasks)


def serve(state: Path, jobs: Jobs, use: Callable[[], Awaitable[None]]) -> None:
    """Take requests while ``use`` runs."""

    async def main() -> None:
        async with serving(state, jobs):
            await use()

    asyncio.run(main())


def test_requests_before_the_start_are_the_ends_of_their_jobs(state: Path) -> None:
    """Recovery gives them to jobs before any begins; the files stay until then."""
    paths = [request(state, one) for one in IDS[:2]]

    async def main() -> None:
        ends = CancelRequests(state).ends()
        assert list(ends) == IDS[:2]
        assert {end.code for end in ends.values()} == {Code.CANCELLED}

    asyncio.run(main())
    assert all(path.exists() for path in paths)


def test_request_during_recovery_finds_the_daemon(state: Path) -> None:
    """Its command would report otherwise that the next daemon cancels the job for certain."""

    async def main() -> None:
        requests = CancelRequests(state)
        assert requests.ends() == {}
        wake(state)
        requests.stop()
        with pytest.raises(OSError, match="No such device"):
            wake(state)

    asyncio.run(main())


def test_request_that_comes_later_wakes_the_daemon_and_is_removed(state: Path) -> None:
    """Without a period; several share a wake-up."""
    jobs = Jobs()
    jobs.open = set(IDS[:2])

    async def use() -> None:
        paths = [request(state, one) for one in IDS[:2]]
        wake(state)
        await until(lambda: not any(path.exists() for path in paths))
        assert jobs.cancelled == IDS[:2]
        path = request(state, IDS[0])
        wake(state)
        await until(lambda: not path.exists())

    serve(state, jobs, use)


def test_request_whose_cancellation_is_not_durable_stays(state: Path) -> None:
    """A killed daemon finds it at its next start."""

    class SlowJobs(Jobs):
        def cancel(self, job_id: str, reason: str) -> "asyncio.Future[bool]":
            if job_id not in self.open:
                return super().cancel(job_id, reason)
            self.cancelled.append(job_id)
            self.durable: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            return self.durable

    jobs = SlowJobs()
    jobs.open = {IDS[0]}

    async def use() -> None:
        path = request(state, IDS[0])
        wake(state)
        await until(lambda: jobs.cancelled)
        assert path.exists()
        jobs.durable.set_result(True)
        await until(lambda: not path.exists())

    serve(state, jobs, use)


def test_requests_of_jobs_that_ended_or_never_were_are_removed(state: Path) -> None:
    """Each is logged, unless its job is cancelled; the request of an open job stays."""
    jobs = Jobs()
    states = {
        IDS[0]: job(IDS[0], state=JobState.DELIVERED, code=Code.OK),
        IDS[1]: job(IDS[1], state=JobState.EXECUTED, code=Code.CANCELLED),
        IDS[2]: job(IDS[2], state=JobState.RUNNING),
        IDS[3]: job(IDS[3], state=JobState.DISCARDED),
        REFUSED: job(REFUSED, end=DecidedEnd(Code.QUEUE_LIMIT, "too many")),
    }
    jobs.journal = states

    async def use() -> None:
        paths = [request(state, one) for one in (*IDS, REFUSED)]
        wake(state)
        left = [paths[2]]
        await until(lambda: [path for path in paths if path.exists()] == left)

    with capture_logs() as logs:
        serve(state, jobs, use)
    known = (*IDS, REFUSED)
    reasons = {one["request"]: one["reason"] for one in logs if one["request"] in known}
    assert reasons == {
        REFUSED: "the job had ended: queue-limit",
        IDS[0]: "the job had ended: ok",
        IDS[3]: "the job had ended: discarded",
        IDS[4]: "there is no such job",
    }


def test_files_that_are_no_requests_are_left_alone_and_logged_once(
    state: Path, tmp_path: Path
) -> None:
    """Links, directories, FIFOs, foreign files and other names cancel nothing and stay."""
    target = tmp_path / "target"
    target.write_text("kept")
    directory = state / REQUESTS_NAME
    (directory / IDS[0]).symlink_to(target)
    (directory / IDS[1]).mkdir()
    os.mkfifo(directory / IDS[2])
    (directory / "other").touch()
    names = {*IDS[:3], "other"}
    if os.geteuid() == 0:
        request(state, IDS[3])
        os.chown(directory / IDS[3], 12345, 12345)
        names.add(IDS[3])
    jobs = Jobs()
    jobs.open = set(IDS)

    async def use() -> None:
        path = request(state, IDS[4])
        wake(state)
        await until(lambda: not path.exists())

    with capture_logs() as logs:
        serve(state, jobs, use)
    assert jobs.cancelled == [IDS[4]]
    assert {path.name for path in directory.iterdir()} == names
    assert target.read_text() == "kept"
    ignored = [one["request"] for one in logs if one["reason"] != "there is no such job"]
    assert sorted(ignored) == sorted(names)


@pytest.mark.parametrize("kind", ["link", "file", "writable"])
def test_directory_of_requests_that_is_not_the_daemons_own_is_not_used(
    tmp_path: Path, kind: str
) -> None:
    """The daemon runs without requests, and removes nothing there."""
    state, other = tmp_path / "state", tmp_path / "other"
    state.mkdir(mode=0o700)
    other.mkdir()
    path = state / REQUESTS_NAME
    if kind == "link":
        path.symlink_to(other)
    elif kind == "file":
        path.touch()
    else:
        path.mkdir()
        path.chmod(0o777)
    if kind != "file":
        (path / IDS[0]).touch()

    async def main() -> None:
        assert CancelRequests(state).ends() == {}

    with capture_logs() as logs:
        asyncio.run(main())
    assert [one["event"] for one in logs] == ["cancel-request-ignored"]
    if kind != "file":
        assert (path / IDS[0]).exists()


def test_requests_are_found_each_period_if_the_fifo_can_not_be_used(state: Path) -> None:
    """Something else has its name; the log says so."""
    (state / WAKE_NAME).touch()
    jobs = Jobs()
    jobs.open = {IDS[0]}

    async def main() -> None:
        async with serving(state, jobs, 0.01):
            path = request(state, IDS[0])
            await asyncio.to_thread(wait_until, lambda: not path.exists(), "the request to go")

    with capture_logs() as logs:
        asyncio.run(main())
    assert jobs.cancelled == [IDS[0]]
    assert [one["error"] for one in logs if one["event"] == "cancel-requests-unnoticed"] == [
        "it is not a FIFO; remove it"
    ]


def test_fifo_is_closed_when_the_daemon_stops(state: Path) -> None:
    """`wasmdrop cancel` then finds no reader, which means that no daemon runs."""

    async def use() -> None:
        wake(state)

    serve(state, Jobs(), use)
    with pytest.raises(OSError, match="No such device or address"):
        wake(state)
