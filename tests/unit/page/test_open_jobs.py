"""The open jobs that the page shows, of a table with many."""

import asyncio
import time
from typing import Any, Final

import msgspec

from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.work_table import Work, WorkTable
from wasmdrop.page import open_jobs
from wasmdrop.page.model import MAX_JOBS
from wasmdrop.protocol.slot import Slot

NOW_NS: Final = 1_000_000_000_000


def work(number: int, slot: str, **changes: Any) -> Work:
    """Return a job that was dropped ``number`` milliseconds after 1970."""
    key = f"{slot}/input.json"
    place = Slot(key, f"/shared/{key}", f"/shared/{slot}", "result")
    job = Job(f"job-{number}", place, number * 1_000_000)
    return Work(msgspec.structs.replace(job, **changes))


def table_of(works: list[Work]) -> WorkTable:
    """Return a table with these jobs; jobs that are not queued are active."""
    table = WorkTable(None)  # type: ignore[arg-type]
    for one in works:
        table.add(one)
        if one.job.state is not JobState.QUEUED:
            table.begin(one.slot_key)
    return table


def look_at(table: WorkTable) -> open_jobs.OpenJobs:
    """Return the open jobs for the page."""
    return asyncio.run(open_jobs.look_at(table, NOW_NS))


def test_open_jobs_have_running_and_waiting_ones() -> None:
    """Behind another one of their slot, for their module, or for their turn."""
    found = look_at(
        table_of(
            [
                work(5, "a", state=JobState.RUNNING, attempt=1, started_at_ns=NOW_NS // 2),
                work(6, "a"),
                work(7, "a"),
                work(3, "b", state=JobState.WAITING),
                work(2, "c"),
                work(1, "d", state=JobState.EXECUTED, started_at_ns=1),
                work(4, "e", state=JobState.COMPILING),
            ]
        )
    )
    assert [job.job for job in found.running] == ["job-1", "job-5"]
    assert [job.job for job in found.queued] == [f"job-{number}" for number in (2, 3, 4, 6, 7)]
    assert found.by_state == {
        "queued": 3,
        "running": 1,
        "waiting": 1,
        "executed": 1,
        "compiling": 1,
    }
    assert found.running[1].running_seconds == 500
    assert found.running[0].running_seconds is None


def test_open_jobs_of_a_large_table_are_bounded_and_leave_the_loop_free() -> None:
    """The jobs that run longest are shown; other tasks get turns between the parts."""
    works = [work(number, f"q{number}") for number in range(60_000)]
    works += [
        work(number, f"r{number}", state=JobState.RUNNING, started_at_ns=number)
        for number in range(100_000, 100_200)
    ]
    table = table_of(works)

    async def look() -> tuple[open_jobs.OpenJobs, int]:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(others())
        found = await open_jobs.look_at(table, NOW_NS)
        task.cancel()
        return found, turns

    found, turns = asyncio.run(look())
    assert len(found.running) == len(found.queued) == MAX_JOBS
    assert found.running[0].job == "job-100000"
    assert found.by_state == {"queued": 60_000, "running": 200}
    assert turns >= 60_000 // open_jobs._SLOTS_AT_ONCE


def test_open_jobs_that_change_meanwhile_are_left_out() -> None:
    """A slot may be gone when it is its turn."""
    table = table_of([work(number, f"s{number}") for number in range(10_000)])

    async def look() -> open_jobs.OpenJobs:
        looking = asyncio.create_task(open_jobs.look_at(table, time.time_ns()))
        await asyncio.sleep(0)
        for number in range(10_000):
            table.begin(f"s{number}/input.json")
            table.finish(f"s{number}/input.json")
        return await looking

    found = asyncio.run(look())
    assert found.running == ()
    assert len(found.queued) <= MAX_JOBS
