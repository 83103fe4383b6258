"""A completion hook is not forgotten, whenever the daemon is killed, and comes after its marker."""

import os
import signal
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.disks import fill, small_disk
from tests.support.fib import GOOD, with_fib
from tests.support.receiver import TAKEN, Answer, Received, Receiver
from tests.support.require import require_root
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.reader import JobFilter, JournalReader
from wasmdrop.jobs.result_files import package
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.outcome import Code, Outcome


def kill(daemon: Daemon) -> None:
    """Kill the daemon from a thread of the receiver."""
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("moment", ["before the answer", "after the answer"])
def test_daemon_killed_while_it_sends_sends_again(tmp_path: Path, moment: str) -> None:
    """Whether or not the receiver has taken the event."""
    receiver = Receiver()
    with receiver.running():
        daemon = with_fib(tmp_path, WASMDROP_ON_FINISHED=receiver.url)

        def answer(request: Received) -> Answer:
            del request
            if moment == "before the answer":
                kill(daemon)
            return TAKEN

        receiver.answer = answer
        daemon.start()
        jobs = {daemon.submit("input-a.json", GOOD)["job"]}
        if moment == "after the answer":
            wait_until(lambda: receiver.requests, "the first event")
            kill(daemon)
        assert daemon.process is not None
        daemon.process.wait()
        receiver.answer = lambda _request: TAKEN
        count = len(receiver.requests)
        with daemon.running():
            jobs.add(daemon.submit("input-b.json", GOOD)["job"])
            wait_until(lambda: jobs <= set(receiver.job_ids()), "all events")
            if moment == "before the answer":
                wait_until(lambda: len(receiver.requests) >= count + 2, "the first event again")
        with daemon.running():
            assert daemon.events("hook-used")[-1]["pending"] == 0


def test_event_of_a_result_that_waits_for_storage_comes_after_its_marker(tmp_path: Path) -> None:
    """Also from the next daemon; jobs of other slots do not wait."""
    receiver = Receiver()
    with small_disk(tmp_path / "shared" / "small") as small, receiver.running():
        daemon = with_fib(tmp_path, WASMDROP_ON_FINISHED=receiver.url, WASMDROP_DRAIN_SEC="0.1")
        with daemon.running():
            first = daemon.submit("small/input.json", GOOD)["job"]
            fill(small)
            (small / "input.json").write_text('{"entry":"fib","args":[13]}')
            wait_until(lambda: daemon.events("delivery-failed"), "the failure")
            other = daemon.submit("input.json", GOOD)["job"]
            wait_until(lambda: {first, other} <= set(receiver.job_ids()), "the other events")
            assert len(receiver.requests) == 2
        (small / "filler").unlink()

        def look(request: Received) -> Answer:
            assert (small / "result.done").read_bytes() == request.body
            return TAKEN

        receiver.answer = look
        with daemon.running():
            marker = daemon.wait_for("small/input.json", b'{"entry":"fib","args":[13]}')
            wait_until(lambda: marker["job"] in receiver.job_ids(), "the event")
        assert len(receiver.requests) == 3


def test_marker_that_was_forged_while_no_daemon_ran_is_not_passed_on(tmp_path: Path) -> None:
    """The owner of a slot knows the job's id, but the job is run again."""
    require_root()
    receiver = Receiver()
    with receiver.running():
        daemon = with_fib(tmp_path, WASMDROP_ON_FINISHED=receiver.url, TIMEOUT_SEC="300")
        daemon.start()
        text = '{"entry":"fib","args":[40]}'
        drop(daemon.shared / "input.json", text)
        job = wait_until(lambda: running_job(daemon), "the job to run")
        daemon.kill()
        forged = package(job, "fib", [40], Outcome(code=Code.OK, results=(1,)), Limits())
        for suffix, data in {**forged.files, ".done": forged.marker}.items():
            path = daemon.result_path("input.json", suffix)
            path.write_bytes(data)
            os.chown(path, 12345, 12345)
        with daemon.running():
            wait_until(lambda: job.id in receiver.job_ids(), "the event")
            assert daemon.result("input.json")["results"] == [102334155]
    (request,) = receiver.requests
    assert request.body == daemon.result_path("input.json", ".done").read_bytes()


def running_job(daemon: Daemon) -> Job | None:
    """Return the job that the journal says is running."""
    with JournalReader(daemon.state) as reader:
        wanted = JobFilter(states=frozenset({JobState.RUNNING}))
        return next((entry.job for entry in reader.jobs(wanted, 1)), None)
