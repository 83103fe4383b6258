"""The sender: each event is sent until it is taken, and a receiver that is down is not flooded."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import pytest
import structlog
from tenacity import wait_random_exponential

from tests.support.events import an_event
from tests.unit.jobs.fakes import job as a_job
from wasmdrop.hooks import sender as module
from wasmdrop.hooks.hook import HookBacklog, HookFailedError, Sent
from wasmdrop.hooks.sender import HookSender
from wasmdrop.jobs.job import JobState
from wasmdrop.jobs.journal.event_queue import EventQueue
from wasmdrop.jobs.journal.events import Event
from wasmdrop.jobs.journal.writer import Journal

DAY: Final = 86_400.0
AT_ONCE: Final = 4

NO_PAUSE: Final = wait_random_exponential(multiplier=0, max=0)
LONG_PAUSE: Final = wait_random_exponential(multiplier=1, min=500, max=501)


class FakeHook:
    """Notes its events; ``fails`` returns the error of an event, None if it is taken."""

    at_once = AT_ONCE
    most_events = 100

    def __init__(self) -> None:
        self.attempts: list[Event] = []
        self.taken: list[str] = []
        self.fails: Callable[[Event], HookFailedError | None] = lambda _event: None
        self.running = self.most_running = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.gates: dict[str, asyncio.Event] = {}
        """The gates of single jobs."""
        self.calls: list[int] = []
        """How many events each call got."""

    async def send(self, events: Sequence[Event], may_go_on: Callable[[], bool]) -> Sent:
        """Take events until one is refused."""
        self.calls.append(len(events))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            for taken, event in enumerate(events):
                if taken and not may_go_on():
                    return Sent(taken)
                self.attempts.append(event)
                await self.gates.get(event.job_id, self.gate).wait()
                await asyncio.sleep(0)
                if (error := self.fails(event)) is not None:
                    return Sent(taken, error)
                self.taken.append(event.job_id)
            return Sent(len(events))
        finally:
            self.running -= 1


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the sender has no event for it
            await asyncio.sleep(0.005)


async def record(journal: Journal, ids: Iterable[str]) -> None:
    """Close jobs, each with the marker of its id."""
    for job_id in ids:
        one = a_job(job_id, f"{job_id}/input.json")
        await journal.accept(one, b"{}", {})
        one = journal.move_lazily(one, JobState.EXECUTED)
        journal.close_lazily(one, an_event(job_id).marker)


def with_sender(
    path: Path,
    use: Callable[[Journal, HookSender, FakeHook], Awaitable[None]],
    *,
    before: Iterable[str] = (),
    hook: Callable[[FakeHook], None] = lambda _hook: None,
    keep_seconds: float = DAY,
) -> list[tuple[str, int]]:
    """Run a sender on a journal with events of jobs; return the jobs and failures that are left."""

    async def main() -> None:
        journal = Journal(path, records_events=True)
        await record(journal, before)
        assert journal.events is not None
        fake = FakeHook()
        hook(fake)
        sender = HookSender(journal.events, fake, keep_seconds)
        sender.start()
        try:
            await use(journal, sender, fake)
        finally:
            await sender.stop()
            await journal.close()

    asyncio.run(main())
    return left_in(path)


def left_in(path: Path) -> list[tuple[str, int]]:
    """Return the jobs and failures of the events in a journal."""

    async def look() -> list[tuple[str, int]]:
        journal = Journal(path, records_events=True)
        assert journal.events is not None
        due = await journal.events.due(2**62, 2**61, (), 1000, 1 << 30)
        assert len(due.events) == journal.events.pending
        await journal.close()
        return sorted((event.job_id, event.failures) for event in due.events)

    return asyncio.run(look())


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once."""
    monkeypatch.setattr(module, "_PAUSES", NO_PAUSE)
    monkeypatch.setattr(module, "_PROBES", NO_PAUSE)
    monkeypatch.setattr(module, "_GATHER_SECONDS", 0.001)


def test_sender_sends_events_of_earlier_and_of_new_jobs_once(tmp_path: Path) -> None:
    """More than are read at a time; a new one does not wait for the next look."""
    ids = [f"job-{number:03}" for number in range(300)]

    async def use(journal: Journal, sender: HookSender, hook: FakeHook) -> None:
        await until(lambda: len(hook.taken) == len(ids))
        assert sender.backlog().pending == 0
        await record(journal, ["job-new"])
        await until(lambda: "job-new" in hook.taken)
        assert sender.backlog() == HookBacklog(0, 0.0, 301, 0, 0)
        assert hook.most_running == AT_ONCE
        assert sorted(hook.taken) == sorted([*ids, "job-new"])

    assert with_sender(tmp_path / "journal", use, before=ids) == []


@pytest.mark.usefixtures("no_pauses")
def test_sender_repeats_an_event_that_fails_while_others_are_sent(tmp_path: Path) -> None:
    """The journal counts its failures."""
    refusals = iter(range(3))

    def fails(event: Event) -> HookFailedError | None:
        is_odd = event.job_id == "job-odd" and next(refusals, None) is not None
        return HookFailedError("not now") if is_odd else None

    async def use(_journal: Journal, sender: HookSender, hook: FakeHook) -> None:
        await until(lambda: len(hook.taken) == 3)
        odd = [event.failures for event in hook.attempts if event.job_id == "job-odd"]
        assert odd == [0, 1, 2, 3]
        assert (sender.backlog().delivered, sender.backlog().failed) == (3, 3)

    def prepare(hook: FakeHook) -> None:
        hook.fails = fails

    ids = ["job-a", "job-odd", "job-z"]
    with structlog.testing.capture_logs() as logs:
        assert with_sender(tmp_path / "journal", use, before=ids, hook=prepare) == []
    failed = [event["failures"] for event in logs if event["event"] == "hook-failed"]
    assert failed == [1, 2]


def test_sender_postpones_an_event_across_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next daemon leaves it until it is due; if the clock was set back, it is due."""
    monkeypatch.setattr(module, "_PAUSES", LONG_PAUSE)

    def refuse(hook: FakeHook) -> None:
        hook.fails = lambda _event: HookFailedError("no")

    async def use(_journal: Journal, sender: HookSender, hook: FakeHook) -> None:
        await until(lambda: sender.backlog().failed == 1)
        assert len(hook.attempts) == 1

    path = tmp_path / "journal"
    assert with_sender(path, use, before=["job-1"], hook=refuse) == [("job-1", 1)]

    async def use_again(journal: Journal, _sender: HookSender, hook: FakeHook) -> None:
        await record(journal, ["job-2"])
        await until(lambda: hook.taken == ["job-2"])

    assert with_sender(path, use_again) == [("job-1", 1)]
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns - 10**15)

    async def use_earlier(_journal: Journal, _sender: HookSender, hook: FakeHook) -> None:
        await until(lambda: hook.taken == ["job-1"])

    assert with_sender(path, use_earlier) == []


@pytest.mark.usefixtures("no_pauses")
def test_sender_tries_one_event_at_a_time_while_the_hook_is_down(tmp_path: Path) -> None:
    """When it is back, all are sent, and events that were not tried have no failure."""
    ids = [f"job-{number:02}" for number in range(40)]

    def refuse(hook: FakeHook) -> None:
        hook.fails = lambda _event: HookFailedError("down")

    async def use(_journal: Journal, _sender: HookSender, hook: FakeHook) -> None:
        await until(lambda: len(hook.attempts) > 3 * AT_ONCE)
        hook.most_running, count = 0, len(hook.attempts)
        await until(lambda: len(hook.attempts) > count + 3 * AT_ONCE)
        assert hook.most_running == 1
        hook.fails = lambda _event: None
        await until(lambda: len(hook.taken) == len(ids))

    assert with_sender(tmp_path / "journal", use, before=ids, hook=refuse) == []


def test_sender_honours_the_pause_that_the_receiver_asks_for(tmp_path: Path) -> None:
    """For all events, and not for longer than the longest pause."""

    def refuse(hook: FakeHook) -> None:
        hook.fails = lambda _event: HookFailedError("busy", 1e9)

    async def use(journal: Journal, sender: HookSender, hook: FakeHook) -> None:
        await until(lambda: sender.backlog().failed == 1)
        await record(journal, ["job-2"])
        await until(lambda: sender._held == {"job-2"})
        left_seconds = sender._not_before - asyncio.get_running_loop().time()
        assert 500 < left_seconds <= 600
        assert len(hook.attempts) == 1

    left = with_sender(tmp_path / "journal", use, before=["job-1"], hook=refuse)
    assert left == [("job-1", 1), ("job-2", 0)]


def test_sender_gives_up_events_that_are_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an error; an hour is the least, however short the retention is."""
    path = tmp_path / "journal"
    now_ns = time.time_ns()

    async def nothing(_journal: Journal, _sender: HookSender, _hook: FakeHook) -> None:
        pass

    def refuse(hook: FakeHook) -> None:
        hook.gate.clear()

    monkeypatch.setattr(time, "time_ns", lambda: now_ns - 3700 * 10**9)
    monkeypatch.setattr(module, "_STOP_SECONDS", 0.01)
    ids = [f"job-{number}" for number in range(3)]
    with_sender(path, nothing, before=ids, hook=refuse)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns - 3500 * 10**9)
    with_sender(path, nothing, before=["job-young"], hook=refuse)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)

    async def use(_journal: Journal, sender: HookSender, hook: FakeHook) -> None:
        await until(lambda: hook.taken == ["job-young"])
        assert sender.backlog().given_up == 3

    with structlog.testing.capture_logs() as logs:
        assert with_sender(path, use, keep_seconds=0) == []
    (error,) = [event for event in logs if event["event"] == "hook-given-up"]
    assert (error["log_level"], error["events"], error["first_job"]) == ("error", 3, "job-0")


def test_sender_that_stops_lets_attempts_under_way_end(tmp_path: Path) -> None:
    """And begins no others, neither while it waits nor after the first of a call."""
    ids = [f"job-{number}" for number in range(20)]

    def hold(hook: FakeHook) -> None:
        hook.gate.clear()
        hook.gates["job-0"] = asyncio.Event()

    async def use(_journal: Journal, sender: HookSender, hook: FakeHook) -> None:
        await until(lambda: hook.running == AT_ONCE)
        stopping = asyncio.create_task(sender.stop())
        await asyncio.sleep(0)
        hook.gates["job-0"].set()
        await until(lambda: hook.running == AT_ONCE - 1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(hook.attempts) == AT_ONCE
        hook.gate.set()
        await stopping
        assert len(hook.taken) == len(hook.attempts) == AT_ONCE

    left = with_sender(tmp_path / "journal", use, before=ids, hook=hold)
    assert len(left) == len(ids) - AT_ONCE


def test_sender_that_stops_ends_a_call_before_its_next_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others stay in the journal."""
    monkeypatch.setattr(module, "_CALL_SECONDS", 60)

    async def use(journal: Journal, sender: HookSender, hook: FakeHook) -> None:
        await record(journal, [f"job-{number:03}" for number in range(100)])
        await until(lambda: len(hook.taken) == 100)
        hook.gate.clear()
        hook.attempts.clear()
        await record(journal, [f"late-{number:03}" for number in range(200)])
        await until(lambda: hook.running)
        assert max(hook.calls) > 1
        running = hook.running
        stopping = asyncio.create_task(sender.stop())
        await asyncio.sleep(0)
        hook.gate.set()
        await stopping
        assert len(hook.attempts) == running

    assert with_sender(tmp_path / "journal", use)


@pytest.mark.usefixtures("no_pauses")
def test_sender_call_that_takes_too_long_leaves_its_events_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls get as many events as they take in a while, and all are sent."""
    ids = [f"job-{number:03}" for number in range(300)]

    async def use(journal: Journal, _sender: HookSender, hook: FakeHook) -> None:
        await until(lambda: len(hook.taken) == len(ids))
        assert max(hook.calls) > AT_ONCE
        monkeypatch.setattr(module, "_CALL_SECONDS", -1)
        hook.calls.clear()
        await record(journal, [f"late-{number:03}" for number in range(200)])
        await until(lambda: len(hook.taken) == len(ids) + 200)
        assert max(hook.calls[-20:]) <= 2
        assert len(set(hook.taken)) == len(hook.taken)

    assert with_sender(tmp_path / "journal", use, before=ids) == []


@pytest.mark.usefixtures("no_pauses")
def test_sender_event_that_fails_in_a_call_leaves_the_next_ones_untried(tmp_path: Path) -> None:
    """They are sent at once, and have no failure."""
    refusals = iter(range(1))

    def fails(event: Event) -> HookFailedError | None:
        is_odd = event.job_id == "late-20" and next(refusals, None) is not None
        return HookFailedError("not now") if is_odd else None

    async def use(journal: Journal, sender: HookSender, hook: FakeHook) -> None:
        await until(lambda: len(hook.taken) == 300)
        hook.fails = fails
        await record(journal, [f"late-{number:02}" for number in range(40)])
        await until(lambda: len(hook.taken) == 340)
        assert (sender.backlog().delivered, sender.backlog().failed) == (340, 1)
        assert [event.failures for event in hook.attempts if event.failures] == [1]

    ids = [f"job-{number:03}" for number in range(300)]
    assert with_sender(tmp_path / "journal", use, before=ids) == []


@pytest.mark.usefixtures("no_pauses")
def test_sender_survives_a_hook_with_a_fault(tmp_path: Path) -> None:
    """The event is sent again, like any other that failed."""
    faults = iter([RuntimeError("a fault")])

    def fails(_event: Event) -> HookFailedError | None:
        if (fault := next(faults, None)) is not None:
            raise fault
        return None

    def prepare(hook: FakeHook) -> None:
        hook.fails = fails

    async def use(_journal: Journal, _sender: HookSender, hook: FakeHook) -> None:
        await until(lambda: hook.taken == ["job-1"])

    assert with_sender(tmp_path / "journal", use, before=["job-1"], hook=prepare) == []


def test_sender_backlog_has_the_age_of_the_oldest_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zero without one."""
    now_ns = time.time_ns()

    def hold(hook: FakeHook) -> None:
        hook.gate.clear()

    async def use(_journal: Journal, sender: HookSender, hook: FakeHook) -> None:
        await until(lambda: hook.running)
        monkeypatch.setattr(time, "time_ns", lambda: now_ns + 100 * 10**9)
        backlog = sender.backlog()
        assert backlog.pending == 1
        assert 90 < backlog.oldest_seconds < 110
        hook.gate.set()
        await until(lambda: hook.taken)
        assert (sender.backlog().pending, sender.backlog().oldest_seconds) == (0, 0.0)

    with_sender(tmp_path / "journal", use, before=["job-1"], hook=hold)


def test_event_queue_reads_no_more_than_a_bound_of_bytes(tmp_path: Path) -> None:
    """Markers of jobs with many files are large."""

    async def main() -> None:
        journal = Journal(tmp_path / "journal", records_events=True)
        await record(journal, [f"job-{number}" for number in range(10)])
        events = journal.events
        assert isinstance(events, EventQueue)
        size_bytes = len(an_event("job-0").marker)
        due = await events.due(2**62, 2**61, {"job-0"}, 100, 2 * size_bytes)
        assert [event.job_id for event in due.events] == ["job-1", "job-2"]
        assert due.events[0].path == "/shared/job-1/result.done"
        await journal.close()

    asyncio.run(main())
