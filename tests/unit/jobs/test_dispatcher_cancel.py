"""Cancellation: when jobs end, in which order, and with which results."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from tests.unit.jobs.dispatcher_bench import OK, Bench, with_bench
from tests.unit.jobs.fakes import job, until
from wasmdrop.jobs.job import DecidedEnd, JobState
from wasmdrop.jobs.module_lookup import ModuleAwaitedError
from wasmdrop.protocol.outcome import Code, OutputTree

REASON = "cancelled by a test"


async def let_go_on() -> None:
    """Give every task of the loop more turns than it needs."""
    for _ in range(100):
        await asyncio.sleep(0)


def test_cancel_of_a_running_job_interrupts_it_when_that_is_durable() -> None:
    """Before that it runs on, nothing is published, and the caller waits."""

    async def use(bench: Bench) -> None:
        bench.resume("1")
        await until(lambda: bench.outcomes)
        bench.journal.is_slow = True
        cancelled = bench.dispatcher.cancel("1", REASON)
        await let_go_on()
        assert (cancelled.done(), bench.revoked, bench.published) == (False, [], [])
        assert not bench.outcomes["1"].cancelled()
        bench.journal.finish_writes()
        assert await cancelled
        await bench.until_state("1", JobState.DELIVERED)
        assert bench.outcomes["1"].cancelled()
        assert (bench.revoked, bench.codes) == (["1"], {"input.json": Code.CANCELLED})
        ended = bench.journal.jobs["1"]
        assert (ended.code, ended.message, ended.attempt) == (Code.CANCELLED, REASON, 1)

    with_bench(use)


def test_cancel_before_the_outcome_counts_even_if_that_comes_first(tmp_path: Path) -> None:
    """The journal was asked before: the outcome is dropped, and its output files are removed."""
    output = tmp_path / "output"
    output.mkdir()

    async def use(bench: Bench) -> None:
        bench.resume("1")
        await until(lambda: bench.outcomes)
        bench.journal.is_slow = True
        cancelled = bench.dispatcher.cancel("1", REASON)
        await bench.end("1", msgspec.structs.replace(OK, output=OutputTree(str(output))))
        await bench.until_state("1", JobState.EXECUTED)
        await let_go_on()
        assert (cancelled.done(), bench.published) == (False, [])
        bench.journal.finish_writes()
        assert await cancelled
        await bench.until_state("1", JobState.DELIVERED)
        assert bench.codes == {"input.json": Code.CANCELLED}

    with_bench(use)
    assert not output.exists()


def test_cancel_of_a_job_behind_another_ends_it_at_its_turn() -> None:
    """It does not begin, and the jobs before and behind it run."""

    async def use(bench: Bench) -> None:
        bench.resume("1", "2", "3")
        await until(lambda: bench.outcomes)
        assert await bench.dispatcher.cancel("2", REASON)
        await let_go_on()
        assert bench.journal.jobs["2"].state is JobState.QUEUED
        await bench.end("1")
        await bench.end("3")
        await bench.until_state("3", JobState.DELIVERED)
        codes = [bench.journal.jobs[number].code for number in ("1", "2", "3")]
        assert codes == [Code.OK, Code.CANCELLED, Code.OK]
        assert bench.begun == ["1", "3"]
        assert bench.revoked == []

    with_bench(use)


def test_cancel_of_a_job_without_room_does_not_wait_for_others() -> None:
    """Neither for running jobs nor for jobs that wait before it."""

    async def use(bench: Bench) -> None:
        for number in range(1000):
            bench.resume(f"endless-{number}", key=f"{number}/input.json")
        bench.resume("wanted", key="wanted/input.json")
        await until(lambda: len(bench.outcomes) == 66)
        await let_go_on()
        assert len(bench.outcomes) == 66
        assert await bench.dispatcher.cancel("wanted", REASON)
        await bench.until_state("wanted", JobState.DELIVERED)
        assert len(bench.outcomes) == 66
        await bench.end("endless-0")
        await until(lambda: len(bench.outcomes) == 67)

    with_bench(use)


@pytest.mark.parametrize("is_resumed", [False, True])
def test_cancel_of_a_job_that_waits_for_its_module_ends_it_at_once(is_resumed: bool) -> None:
    """Also if its module came, but there is no room for it; the next job of the slot runs."""

    async def use(bench: Bench) -> None:
        bench.resume("1", "2")
        await bench.end("1", ModuleAwaitedError())
        await let_go_on()
        if is_resumed:
            for number in range(66):
                bench.resume(f"endless-{number}", key=f"{number}/input.json")
            bench.dispatcher.resume("input.json")
        else:
            bench.awaiting.add("input.json")
        assert await bench.dispatcher.cancel("1", REASON)
        await bench.until_state("1", JobState.DELIVERED)
        assert bench.journal.jobs["1"].code is Code.CANCELLED
        assert bench.awaiting == set()
        if is_resumed:
            await bench.end("endless-0")
        await until(lambda: "2" in bench.outcomes)

    with_bench(use)


def test_cancel_twice_records_it_once() -> None:
    """Both callers wait for the same record."""

    async def use(bench: Bench) -> None:
        bench.resume("1", "2")
        bench.journal.is_slow = True
        first = bench.dispatcher.cancel("2", REASON)
        second = bench.dispatcher.cancel("2", "another reason")
        await let_go_on()
        assert (first.done(), second.done()) == (False, False)
        bench.journal.finish_writes()
        assert await first
        assert await second
        assert bench.journal.jobs["2"].end == DecidedEnd(Code.CANCELLED, REASON)

    with_bench(use)


def test_cancel_of_a_job_with_an_outcome_or_of_no_job_is_false() -> None:
    """The results stay as they are."""

    async def use(bench: Bench) -> None:
        bench.journal.is_slow = True
        bench.resume("1")
        await bench.end("1")
        await bench.until_state("1", JobState.EXECUTED)
        assert not await bench.dispatcher.cancel("1", REASON)
        assert not await bench.dispatcher.cancel("unknown", REASON)
        bench.journal.finish_writes()
        await bench.until_state("1", JobState.DELIVERED)
        assert bench.codes == {"input.json": Code.OK}
        assert not await bench.dispatcher.cancel("1", REASON)

    with_bench(use)


def test_cancel_of_a_refused_job_is_false() -> None:
    """It ends as it was refused."""

    async def use(bench: Bench) -> None:
        bench.resume("1")
        end = DecidedEnd(Code.QUEUE_LIMIT, "too many")
        bench.journal.jobs["2"] = job("2", end=end)
        bench.dispatcher.resume_queued(bench.journal.jobs["2"])
        assert not await bench.dispatcher.cancel("2", REASON)
        assert bench.journal.jobs["2"].end == end

    with_bench(use)


@pytest.mark.parametrize(("begun", "ended"), [(False, {"2", "4"}), (True, {"1", "2", "3", "4"})])
def test_cancel_slot_ends_jobs_that_have_not_begun_or_all(begun: bool, ended: set[str]) -> None:
    """Job 3 has no input, so no removed input can mean it; other slots go on."""

    async def use(bench: Bench) -> None:
        bench.resume("1", "2")
        bench.journal.jobs["3"] = job("3", input=None)
        bench.dispatcher.resume_queued(bench.journal.jobs["3"])
        bench.resume("4")
        bench.resume("other", key="other/input.json")
        await until(lambda: len(bench.outcomes) == 2)
        assert await bench.dispatcher.cancel_slot("input.json", REASON, begun=begun) == len(ended)
        assert {one.id for one in bench.journal.jobs.values() if one.end is not None} == ended
        assert await bench.dispatcher.cancel_slot("input.json", REASON, begun=begun) == 0
        assert await bench.dispatcher.cancel_slot("no/input.json", REASON, begun=True) == 0
        if not begun:
            await bench.end("1")
            await bench.end("3")
        await bench.until_state("4", JobState.DELIVERED)
        assert ended.isdisjoint(bench.begun[2:])

    with_bench(use)


def test_cancel_during_a_shutdown_ends_a_running_job() -> None:
    """The shutdown need not wait for it, and the jobs behind it wait for the next start."""

    async def use(bench: Bench) -> None:
        bench.resume("1", "2")
        await until(lambda: bench.outcomes)
        drained = asyncio.create_task(bench.dispatcher.drain(1000))
        await let_go_on()
        assert await bench.dispatcher.cancel("1", REASON)
        await drained
        assert bench.journal.jobs["1"].state is JobState.DELIVERED
        assert bench.journal.jobs["1"].code is Code.CANCELLED
        assert bench.begun == ["1"]

    with_bench(use)


def test_cancel_at_the_end_of_a_shutdown_leaves_the_job_to_the_next_daemon() -> None:
    """The job's end is decided; the shutdown ends the task, so that nothing is published."""

    async def use(bench: Bench) -> None:
        before = asyncio.all_tasks()
        bench.resume("1")
        await until(lambda: bench.outcomes)
        (task,) = asyncio.all_tasks() - before
        bench.on_revoked = task.cancel  # as the end of the drain does
        assert await bench.dispatcher.cancel("1", REASON)
        await asyncio.wait([task])
        left = bench.journal.jobs["1"]
        assert (left.state, left.attempt, bench.published) == (JobState.QUEUED, 0, [])
        assert left.end == DecidedEnd(Code.CANCELLED, REASON)

    with_bench(use)


def test_cancel_whose_caller_gives_up_takes_place() -> None:
    """The record is shared with the job."""

    async def use(bench: Bench) -> None:
        bench.resume("1")
        await until(lambda: bench.outcomes)
        bench.journal.is_slow = True
        cancelled = bench.dispatcher.cancel("1", REASON)
        cancelled.cancel()
        bench.journal.finish_writes()
        await bench.until_state("1", JobState.DELIVERED)
        assert bench.journal.jobs["1"].code is Code.CANCELLED

    with_bench(use)


def test_cancelled_job_of_an_earlier_daemon_does_not_run() -> None:
    """Its end was decided there."""

    async def use(bench: Bench) -> None:
        left = job("1", attempt=1, started_at_ns=2, end=DecidedEnd(Code.CANCELLED, REASON))
        bench.journal.jobs["1"] = left
        bench.dispatcher.resume_queued(left)
        await bench.until_state("1", JobState.DELIVERED)
        assert (bench.begun, bench.codes) == ([], {"input.json": Code.CANCELLED})

    with_bench(use)
