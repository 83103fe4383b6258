"""The last jobs, failures and modules that the page shows: right, bounded and harmless."""

import msgspec
import pytest

from wasmdrop.jobs.job import DecidedEnd, Job, JobState
from wasmdrop.page import model
from wasmdrop.page.activity import Activity
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.slot import PinnedModule, Slot


def job(number: int, code: Code = Code.OK, module: str | None = "a", **changes: object) -> Job:
    """Return a job that ended ``number`` seconds after 1970, after 0.5 s."""
    key = f"input-{number}.json"
    end_ns = number * 1_000_000_000
    known: dict[str, object] = {
        "id": f"job-{number}",
        "slot": Slot(key, f"/shared/{key}", "/shared", f"result-{number}"),
        "dropped_at_ns": end_ns - 500_000_000,
        "started_at_ns": end_ns - 250_000_000,
        "finished_at_ns": end_ns,
        "state": JobState.EXECUTED,
        "code": code,
        "message": "" if code is Code.OK else f"why {number}",
        "module": None if module is None else PinnedModule(f"/wasm/{module}", module, 7),
    }
    return msgspec.convert(known | changes, Job)


@pytest.fixture
def activity() -> Activity:
    """Give one that has seen nothing."""
    return Activity(lambda _seconds: None)


def test_activity_shows_the_last_jobs_first(activity: Activity) -> None:
    """As many as the page has room for."""
    for number in range(100):
        one = job(number, Code.TRAP if number % 2 else Code.OK)
        assert one.code is not None
        activity.executed(one, Outcome(code=one.code, run_seconds=0.125))
    ended = activity.ended()
    assert [one.job for one in ended] == [f"job-{number}" for number in range(99, 49, -1)]
    first = ended[0]
    assert (first.code, first.status, first.message) == ("trap", "failed", "why 99")
    assert (first.total_seconds, first.run_seconds) == (0.5, 0.125)
    assert (first.slot, first.module) == ("input-99.json", "/wasm/a")


def test_activity_groups_failures_by_code_and_by_module(activity: Activity) -> None:
    """The most frequent ones first, each with its latest job."""
    for number, (code, module) in enumerate(
        [
            *[(Code.TRAP, "a"), (Code.TRAP, "b"), (Code.TIMEOUT, "b"), (Code.OK, "b")],
            *[(Code.TRAP, "b"), (Code.MODULE_MISSING, None)],
        ]
    ):
        activity.executed(job(number, code, module), Outcome(code=code))
    by_code = activity.failures_by_code()
    assert [(one.code, one.count, one.job) for one in by_code] == [
        ("trap", 3, "job-4"),
        ("timeout", 1, "job-2"),
        ("module-missing", 1, "job-5"),
    ]
    by_module = activity.failures_by_module()
    assert [(one.module, one.count, one.job) for one in by_module] == [
        ("/wasm/b", 3, "job-4"),
        ("/wasm/a", 1, "job-0"),
        (None, 1, "job-5"),
    ]
    assert by_module[0].codes == {"trap": 2, "timeout": 1}


def test_activity_module_has_calls_and_the_median_of_its_last_runs(activity: Activity) -> None:
    """Jobs that never ran count as calls without a time."""
    for number in range(200):
        run_seconds = 100.0 if number < 100 else float(number % 3)
        activity.executed(job(number), Outcome(code=Code.OK, run_seconds=run_seconds))
    refused = job(200, Code.INVALID_ARGS, started_at_ns=None)
    activity.executed(refused, Outcome(code=Code.INVALID_ARGS))
    activity.executed(job(201, module="b"), Outcome(code=Code.OK, run_seconds=3.0))
    later, earlier = activity.modules({"a": 1.5})
    assert (later.sha256, later.calls, later.compile_seconds) == ("b", 1, None)
    assert (earlier.calls, earlier.failures, earlier.size_bytes) == (201, 1, 7)
    assert (earlier.compile_seconds, earlier.median_run_seconds) == (1.5, 1.0)


@pytest.mark.parametrize("code", [Code.CANCELLED, Code.QUEUE_LIMIT])
def test_activity_job_whose_end_was_decided_before_it_ran_is_no_failure_of_its_module(
    activity: Activity, code: Code
) -> None:
    """It counts by its code. A job that was cancelled while it ran counts in both."""
    end = DecidedEnd(code, "enough")
    activity.executed(job(1, code, end=end, started_at_ns=None), Outcome(code=code))
    assert [(one.code, one.count) for one in activity.failures_by_code()] == [(code, 1)]
    assert (activity.failures_by_module(), activity.modules({})) == ((), ())
    activity.executed(job(2, code, end=end), Outcome(code=code))
    assert [one.count for one in activity.failures_by_module()] == [1]


def test_activity_modules_and_failures_are_bounded(activity: Activity) -> None:
    """The ones used last stay."""
    for number in range(1000):
        activity.executed(job(number, Code.TRAP, f"m{number}"), Outcome(code=Code.TRAP))
        activity.executed(job(number, Code.TRAP, "kept"), Outcome(code=Code.TRAP))
    modules, failures = activity.modules({}), activity.failures_by_module()
    assert len(modules) == len(failures) == model.MAX_MODULES
    assert modules[0].sha256 == failures[0].sha256 == "kept"
    assert modules[0].calls == failures[0].count == 1000


def test_activity_texts_of_strangers_are_bounded_and_printable(activity: Activity) -> None:
    """Names of any bytes and messages of any length; the JSON is valid UTF-8."""
    hostile = "\udcff\x1b[2J\u202e<script>" * 1000
    one = job(
        1,
        Code.TRAP,
        slot=Slot(hostile, f"/shared/{hostile}", "/shared", "result"),
        message=f"{hostile}\n" * 10,
        producer_id=hostile,
        worker=hostile,
    )
    one = msgspec.structs.replace(one, module=PinnedModule(hostile, "a", 7))
    activity.executed(one, Outcome(code=Code.TRAP))
    shown = (
        *activity.ended(),
        *activity.failures_by_code(),
        *activity.failures_by_module(),
        *activity.modules({}),
    )
    data = msgspec.json.encode(shown)
    assert data.decode().isprintable()
    assert len(data) < 10_000


def test_activity_seed_of_a_job_without_an_outcome_is_ignored(activity: Activity) -> None:
    """One that has an outcome counts like another."""
    activity.seed(job(1, started_at_ns=None))
    activity.seed(job(2))
    activity.seed(job(3, code=None))  # type: ignore[arg-type]
    assert [(one.job, one.run_seconds) for one in activity.ended()] == [
        ("job-2", 0.25),
        ("job-1", None),
    ]


def test_activity_delivered_job_tells_its_latency() -> None:
    """From its drop to now."""
    told: list[float] = []
    Activity(told.append).delivered(job(1))
    assert told[0] > 1_000_000
