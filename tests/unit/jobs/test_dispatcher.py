"""The rules of the dispatcher: order, durability before publication, and what a shutdown leaves."""

import asyncio
import contextlib
import errno
import threading
from typing import Any

import pytest

from tests.unit.jobs.dispatcher_bench import OK, Bench, drop, with_bench
from tests.unit.jobs.fakes import job, slot, until
from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.jobs import publication
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.module_lookup import AlreadyRunError, ModuleAwaitedError
from wasmdrop.jobs.result_files import package
from wasmdrop.jobs.runner import NothingOwedError
from wasmdrop.protocol.input import InputSpec
from wasmdrop.protocol.outcome import Code, Outcome, OutputFile, OutputTree
from wasmdrop.protocol.slot import PinnedModule
from wasmdrop.system.byte_budget import ByteBudget


def test_dispatcher_jobs_of_one_slot_run_one_at_a_time_in_order() -> None:
    """Jobs of another slot run beside them."""

    async def use(bench: Bench) -> None:
        bench.resume("1", "2", "3")
        bench.resume("other", key="other/input.json")
        await until(lambda: len(bench.begun) == 2)
        assert bench.begun == ["1", "other"]
        for number in ("1", "2", "3"):
            await bench.end(number)
            await bench.until_state(number, JobState.DELIVERED)
        assert bench.begun == ["1", "other", "2", "3"]
        assert bench.published == ["input.json"] * 3

    with_bench(use)


def test_dispatcher_results_of_an_undurable_job_are_not_published() -> None:
    """They are staged, and published when the journal has the job and the attempt."""

    async def use(bench: Bench) -> None:
        bench.journal.is_slow = True
        assert bench.backlog.take()
        bench.dispatcher.accept(drop("input.json"))
        (job_id,) = bench.journal.jobs
        await bench.end(job_id)
        await bench.until_state(job_id, JobState.EXECUTED)
        for _ in range(100):
            await asyncio.sleep(0)
        assert bench.published == []
        bench.journal.finish_writes()
        await bench.until_state(job_id, JobState.DELIVERED)
        assert bench.published == ["input.json"]

    with_bench(use)


def test_dispatcher_drain_returns_a_running_job_without_its_attempt() -> None:
    """The shutdown ended it: the next daemon runs it, and no results are published."""

    async def use(bench: Bench) -> None:
        bench.resume("1", "2")
        await until(lambda: bench.begun)
        assert bench.journal.jobs["1"].attempt == 1
        await bench.dispatcher.drain(0)
        assert bench.journal.jobs["1"].state is JobState.QUEUED
        assert bench.journal.jobs["1"].attempt == 0
        assert bench.begun == ["1"]
        assert bench.published == []

    with_bench(use)


def test_dispatcher_drain_abandons_staged_results() -> None:
    """Their job stays EXECUTED in the journal."""

    async def use(bench: Bench) -> None:
        bench.journal.is_slow = True
        bench.resume("1")
        await bench.end("1")
        await bench.until_state("1", JobState.EXECUTED)
        await bench.dispatcher.drain(0)
        assert (bench.abandoned, bench.published) == (["input.json"], [])
        assert bench.journal.jobs["1"].state is JobState.EXECUTED

    with_bench(use)


def test_dispatcher_drop_after_drain_is_left_for_the_next_start() -> None:
    """It is not journaled, its memory is free and the backlog is empty."""

    async def use(bench: Bench) -> None:
        await bench.dispatcher.drain(0)
        budget = ByteBudget(10, lambda: None)
        assert bench.backlog.take()
        bench.dispatcher.accept(drop("input.json", budget.reserve(10)))
        assert bench.journal.jobs == {}
        assert budget.is_unused
        assert len(bench.backlog) == 0

    with_bench(use)


def test_dispatcher_job_without_its_module_blocks_its_slot_alone() -> None:
    """When it is resumed, it runs before the jobs behind it."""

    async def use(bench: Bench) -> None:
        bench.resume("1", "2")
        await bench.end("1", ModuleAwaitedError())
        bench.resume("other", key="other/input.json")
        await bench.end("other")
        await bench.until_state("other", JobState.DELIVERED)
        assert bench.begun == ["1", "other"]
        bench.dispatcher.resume("input.json")
        await until(lambda: len(bench.begun) == 3)
        assert bench.begun[2] == "1"
        await bench.end("1")
        await bench.end("2")
        await bench.until_state("2", JobState.DELIVERED)

    with_bench(use)


def test_dispatcher_module_without_input_is_discarded() -> None:
    """No result is owed; the next job of the slot runs."""

    async def use(bench: Bench) -> None:
        bench.dispatcher.run_without_input(slot("input.json"), owes_result=False)
        (job_id,) = bench.journal.jobs
        bench.resume("next")
        await until(lambda: job_id in bench.outcomes)
        bench.table.move(bench.table.first("input.json"), JobState.QUEUED)
        await bench.end(job_id, NothingOwedError())
        await bench.until_state(job_id, JobState.DISCARDED)
        await until(lambda: bench.begun[-1] == "next")
        assert bench.published == []

    with_bench(use)


def test_dispatcher_rerun_of_what_the_slot_has_run_is_discarded() -> None:
    """No result is owed; people see why, and the next job of the slot runs."""

    async def use(bench: Bench) -> None:
        await bench.dispatcher.rerun(drop("input.json"))
        (job_id,) = bench.journal.jobs
        bench.resume("next")
        await until(lambda: job_id in bench.outcomes)
        work = bench.table.first("input.json")
        assert work.is_for_module
        bench.table.move(work, JobState.QUEUED)
        await bench.end(job_id, AlreadyRunError("job 1 did that"))
        await bench.until_state(job_id, JobState.DISCARDED)
        assert bench.journal.notes[job_id] == "job 1 did that"
        await until(lambda: bench.begun[-1] == "next")
        assert bench.published == []
        await bench.end("next")
        await until(lambda: len(bench.backlog) == 0)

    with_bench(use)


def test_dispatcher_large_input_is_in_memory_only_if_its_job_begins_at_once() -> None:
    """A small one always is."""

    async def use(bench: Bench) -> None:
        spec = InputSpec(entry="add")
        for size_bytes in (5000, 5000, 2, 5000):
            bench.backlog.add()
            bench.dispatcher.accept(drop("input.json", spec=spec, size_bytes=size_bytes))
        specs = []
        for job_id in list(bench.journal.jobs):
            await until(lambda job_id=job_id: job_id in bench.outcomes)  # type: ignore[misc]
            specs.append(bench.table.first("input.json").spec)
            await bench.end(job_id)
        assert specs == [spec, None, spec, None]

    with_bench(use)


def test_dispatcher_fault_in_one_job_lets_the_next_one_run() -> None:
    """The job stays open in the journal, with a note for people."""

    async def use(bench: Bench) -> None:
        bench.resume("1", "2")
        await bench.end("1", ValueError("a fault"))
        await bench.end("2")
        await bench.until_state("2", JobState.DELIVERED)
        assert bench.journal.jobs["1"].state is JobState.RUNNING
        assert "fault in the daemon" in bench.journal.notes["1"]

    with_bench(use)


def test_dispatcher_jobs_of_a_reserved_slot_wait_until_it_is_free() -> None:
    """Nothing may be written to the slot meanwhile. Other slots go on."""

    async def use(bench: Bench) -> None:
        assert bench.dispatcher.reserve("input.json")
        bench.resume("1", "2")
        bench.resume("other", key="other/input.json")
        await bench.end("other")
        await bench.until_state("other", JobState.DELIVERED)
        assert bench.begun == ["other"]
        bench.dispatcher.free("input.json")
        for number in ("1", "2"):
            await bench.end(number)
            await bench.until_state(number, JobState.DELIVERED)
        bench.dispatcher.free("other/input.json")  # without jobs

    with_bench(use)


def test_dispatcher_slot_with_an_open_job_is_not_reserved() -> None:
    """Until its results are in place."""

    async def use(bench: Bench) -> None:
        bench.resume("1")
        assert not bench.dispatcher.reserve("input.json")
        await bench.end("1")
        await bench.until_state("1", JobState.DELIVERED)
        await until(lambda: bench.dispatcher.reserve("input.json"))

    with_bench(use)


def test_dispatcher_delivered_job_is_reported_when_its_slot_can_be_reserved() -> None:
    """Once, and with its code."""

    async def use(bench: Bench) -> None:
        delivered: list[Job] = []
        bench.dispatcher.on_delivered = delivered.append
        bench.resume("1")
        await bench.end("1")
        await until(lambda: delivered)
        await until(lambda: bench.dispatcher.reserve("input.json"))
        assert [(one.id, one.state, one.code) for one in delivered] == [
            ("1", JobState.DELIVERED, Code.OK)
        ]

    with_bench(use)


def test_dispatcher_failed_delivery_holds_the_slot() -> None:
    """Its other jobs wait for the results; those of other slots do not."""

    async def use(bench: Bench) -> None:
        bench.errors["input.json"] = OSError(errno.ENOSPC, "full")
        bench.resume("1")
        await bench.end("1")
        await until(
            lambda: bench.metrics.undelivered == 1 and not bench.table.last_job("input.json")
        )
        bench.resume("2", "3")
        bench.resume("other", key="other/input.json")
        await bench.end("other")
        await bench.until_state("other", JobState.DELIVERED)
        assert bench.begun == ["1", "other"]
        assert bench.journal.jobs["1"].state is JobState.EXECUTED

    with_bench(use)


@pytest.mark.parametrize("count", [3, 4])
def test_dispatcher_full_backlog_has_room_when_a_job_is_done(count: int) -> None:
    """Reruns wait for it; intake looks for the drops that it left."""

    async def use(bench: Bench) -> None:
        ids = [str(number) for number in range(count)]
        for job_id in ids:
            bench.resume(job_id, key=f"{job_id}/input.json")
        assert not bench.backlog.take()
        room = asyncio.ensure_future(bench.dispatcher.room())
        for job_id in ids[: count - 2]:
            await until(lambda: len(bench.begun) == count)
            assert not room.done()
            await bench.end(job_id)
            await bench.until_state(job_id, JobState.DELIVERED)
        await room
        await bench.end(ids[-1])
        await until(lambda: bench.rooms == 1)

    with_bench(use)


@pytest.mark.parametrize(
    ("outcome", "is_on_thread"),
    [
        (OK, False),
        (Outcome(code=Code.OK, results=(), stdout=bytes(1 << 20), stderr=b"x"), True),
        (
            Outcome(
                code=Code.OK,
                results=(),
                output=OutputTree("/t", (OutputFile("a", "0" * 64, 1),) * 10_000),
            ),
            True,
        ),
    ],
    ids=["small", "much-output", "many-files"],
)
def test_dispatcher_encodes_large_results_on_a_thread(
    outcome: Outcome, is_on_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To hash them would delay all other jobs. The marker has the content id of the module."""
    calls: list[tuple[bool, str | None]] = []

    def record(*arguments: Any, **keys: Any) -> ResultPackage:
        calls.append((threading.current_thread() is threading.main_thread(), arguments[-1]))
        return package(*arguments, **keys)

    monkeypatch.setattr(publication, "package", record)

    async def use(bench: Bench) -> None:
        bench.journal.jobs["1"] = job("1", module=PinnedModule("/m", "2" * 64, 1))
        bench.dispatcher.resume_queued(bench.journal.jobs["1"])
        await bench.end("1", outcome)
        await until(lambda: calls)
        await bench.until_state("1", JobState.DELIVERED)

    with_bench(use)
    assert calls == [(not is_on_thread, f"cid of {'2' * 64}")]


def test_dispatcher_directory_at_its_running_limit_waits_and_the_note_says_so() -> None:
    """Jobs of another directory run; a job that waits for its module does not count."""

    async def use(bench: Bench) -> None:
        bench.resume("1", key="a/1/input.json")
        bench.resume("2", key="a/2/input.json")
        bench.resume("other", key="b/input.json")
        await until(lambda: len(bench.begun) == 2)
        assert bench.begun == ["1", "other"]
        assert bench.journal.notes == {
            "2": "the directory a is at its limit of jobs under way, 1 (WASMDROP_DIRECTORY_RUNNING)"
        }
        assert bench.metrics.held_directories() == 1
        await bench.end("1", ModuleAwaitedError())
        await until(lambda: len(bench.begun) == 3)
        bench.dispatcher.resume("a/1/input.json")
        await bench.end("2")
        await bench.until_state("2", JobState.DELIVERED)
        await until(lambda: len(bench.begun) == 4)
        assert bench.begun[3] == "1"
        assert bench.metrics.held_directories() == 0

    with_bench(use, WASMDROP_DIRECTORY_RUNNING="1")


def test_dispatcher_next_job_of_a_slot_at_the_running_limit_gets_no_note() -> None:
    """The job before it made room for it."""

    async def use(bench: Bench) -> None:
        bench.resume("1", "2", key="a/input.json")
        await bench.end("1")
        await until(lambda: len(bench.begun) == 2)
        assert bench.journal.notes == {}

    with_bench(use, WASMDROP_DIRECTORY_RUNNING="1")


def test_dispatcher_room_lent_by_a_job_is_not_for_its_directory() -> None:
    """While it waits for a compilation, it counts; jobs of other directories may begin."""

    async def use(bench: Bench) -> None:
        bench.resume("1", key="a/1/input.json")
        await until(lambda: bench.begun)
        with bench.dispatcher.yield_room(bench.table.first("a/1/input.json")):
            bench.resume("2", key="a/2/input.json")
            bench.resume("other", key="b/input.json")
            await until(lambda: len(bench.begun) == 2)
        await bench.end("other")
        await bench.until_state("other", JobState.DELIVERED)
        assert bench.begun == ["1", "other"]
        await bench.end("1")
        await until(lambda: len(bench.begun) == 3)

    with_bench(use, WASMDROP_DIRECTORY_RUNNING="1")


def test_dispatcher_drop_beyond_the_queued_limit_ends_with_that_code() -> None:
    """It waits for no room; resumed jobs and reruns are never refused."""

    async def use(bench: Bench) -> None:
        for number in range(4):
            bench.backlog.add()
            bench.dispatcher.accept(drop(f"a/{number}/input.json"))
        running, waiting, *refused = bench.journal.jobs.values()
        assert (running.end, waiting.end) == (None, None)
        for one in refused:
            assert one.end is not None
            assert one.end.code is Code.QUEUE_LIMIT
            await bench.until_state(one.id, JobState.DELIVERED)
        assert bench.metrics.full_directories() == 1
        bench.resume("resumed", key="a/resumed/input.json")
        await bench.dispatcher.rerun(drop("a/rerun/input.json"))
        assert all(one.end is None for one in list(bench.journal.jobs.values())[4:])
        assert bench.begun == [running.id]
        bench.backlog.add()
        bench.dispatcher.accept(drop("b/input.json"))
        assert list(bench.journal.jobs.values())[-1].end is None

    limits = {"WASMDROP_DIRECTORY_RUNNING": "1", "WASMDROP_DIRECTORY_QUEUED": "1"}
    with_bench(use, **limits)


@pytest.mark.parametrize("waits_for", ["its module", "its compilation"])
def test_dispatcher_job_without_room_counts_as_waiting_until_it_goes_on(waits_for: str) -> None:
    """Else a directory could have any number of jobs that wait for a module."""

    async def use(bench: Bench) -> None:
        bench.resume("1", key="a/1/input.json")
        await until(lambda: bench.begun)
        with contextlib.ExitStack() as stack:
            if waits_for == "its module":
                await bench.end("1", ModuleAwaitedError())
                await until(bench.metrics.full_directories)
            else:
                work = bench.table.first("a/1/input.json")
                stack.enter_context(bench.dispatcher.yield_room(work))
            bench.backlog.add()
            bench.dispatcher.accept(drop("a/2/input.json"))
            assert list(bench.journal.jobs.values())[-1].end is not None
            assert bench.metrics.full_directories() == 1
        if waits_for == "its module":
            bench.dispatcher.resume("a/1/input.json")
        assert bench.metrics.full_directories() == 0

    with_bench(use, WASMDROP_DIRECTORY_QUEUED="1")


def test_dispatcher_refused_result_waits_for_the_record_of_its_job_alone() -> None:
    """The refusal is in that record: no second write has to be durable."""

    async def use(bench: Bench) -> None:
        bench.resume("runs", "waits", key="a/input.json")
        await until(lambda: bench.begun)
        bench.journal.is_slow = True
        bench.backlog.add()
        bench.dispatcher.accept(drop("a/refused/input.json"))
        job_id = list(bench.journal.jobs)[-1]
        assert bench.journal.jobs[job_id].end is not None
        await bench.until_state(job_id, JobState.EXECUTED)
        for _ in range(100):
            await asyncio.sleep(0)
        assert bench.published == []
        accepted = bench.journal.unwritten
        assert len(accepted) == 1
        accepted.pop().set_result(None)
        await bench.until_state(job_id, JobState.DELIVERED)

    with_bench(use, WASMDROP_DIRECTORY_QUEUED="1")


def test_dispatcher_cancelled_result_behind_another_waits_until_that_one_is_closed() -> None:
    """Its marker replaces that of the other job, which the next start would then run again."""

    async def use(bench: Bench) -> None:
        bench.resume("first", "second")
        await until(lambda: bench.begun)
        await bench.dispatcher.cancel("second", "why")
        bench.journal.is_slow = True
        await bench.end("first")
        await bench.until_state("second", JobState.EXECUTED)
        for _ in range(100):
            await asyncio.sleep(0)
        assert bench.published == ["input.json"]
        bench.journal.finish_writes()
        await bench.until_state("second", JobState.DELIVERED)

    with_bench(use)
