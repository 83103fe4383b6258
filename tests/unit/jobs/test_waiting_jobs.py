"""The limit of waiting jobs of a top directory, and the message of a refusal."""

from tests.unit.jobs.fakes import job
from wasmdrop.jobs.job import DecidedEnd
from wasmdrop.jobs.waiting_jobs import WaitingJobs
from wasmdrop.protocol.outcome import Code


def test_waiting_jobs_at_the_limit_refuses_those_of_the_directory_alone() -> None:
    """All directories below one top directory count together."""
    waiting = WaitingJobs(2)
    for number in range(2):
        assert waiting.why_refused("mallory/input.json") is None
        waiting.add(job(str(number), f"mallory/{number}/input.json"))
    refused = waiting.why_refused("mallory/2/input.json")
    assert refused is not None
    assert refused.code is Code.QUEUE_LIMIT
    assert waiting.why_refused("alice/input.json") is None
    assert waiting.why_refused("input.json") is None
    assert waiting.full_directories() == 1


def test_waiting_jobs_refusal_names_directory_limit_setting_and_advice() -> None:
    """The name of the directory was chosen by a stranger."""
    waiting = WaitingJobs(1)
    waiting.add(job("1", "mallory\x1b[2J/input.json"))
    waiting.add(job("2", "input.json"))
    assert waiting.why_refused("mallory\x1b[2J/input-2.json") == DecidedEnd(
        Code.QUEUE_LIMIT,
        "the job was refused: the directory mallory\\x1b[2J is at its limit of waiting jobs,"
        " 1 (WASMDROP_DIRECTORY_QUEUED); drop the input again when some of them have ended",
    )
    at_the_top = waiting.why_refused("input-2.json")
    assert at_the_top is not None
    assert "the shared directory itself is at its limit" in at_the_top.message


def test_waiting_jobs_removed_job_makes_room_once() -> None:
    """To remove a job that is not counted changes nothing."""
    waiting = WaitingJobs(2)
    jobs = [job(str(number), "a/input.json") for number in range(3)]
    for one in jobs[:2]:
        waiting.add(one)
    waiting.remove(jobs[2])
    assert waiting.why_refused("a/input.json") is not None
    waiting.remove(jobs[0])
    waiting.remove(jobs[0])
    waiting.add(jobs[1])
    assert waiting.why_refused("a/input.json") is None
    waiting.add(jobs[2])
    assert waiting.why_refused("a/input.json") is not None


def test_waiting_jobs_refused_job_does_not_count() -> None:
    """Nor does a cancelled one."""
    waiting = WaitingJobs(1)
    waiting.add(job("1", end=DecidedEnd(Code.QUEUE_LIMIT, "")))
    assert waiting.why_refused("input.json") is None
    assert waiting.full_directories() == 0


def test_waiting_jobs_without_a_limit_refuses_nothing() -> None:
    """Nor does it count anything."""
    waiting = WaitingJobs(None)
    for number in range(100):
        waiting.add(job(str(number)))
    waiting.remove(job("0"))
    assert waiting.why_refused("input.json") is None
    assert waiting.full_directories() == 0
