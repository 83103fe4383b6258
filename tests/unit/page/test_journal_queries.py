"""Queries of the page to a journal: filters, bounds, and texts of strangers."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.database import JOURNAL_NAME
from wasmdrop.jobs.journal.reader import JobFilter
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.page.journal_queries import MAX_LISTED, JournalQueries, ended_jobs, filter_of
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import InputFile, Slot

ALL = JobFilter()


def job(number: int, name: str = "") -> Job:
    """Return a new job."""
    key = name or f"input-{number}.json"
    slot = Slot(key, f"/shared/{key}", "/shared", "result")
    return Job(f"job-{number}", slot, 1000 + number, input=InputFile(slot.input_path, "00", 2))


def ask(
    state_dir: Path,
    jobs: list[Job],
    query: Callable[[JournalQueries, Journal], Coroutine[Any, Any, None]],
) -> None:
    """Write jobs into a journal, and query it while it is open."""

    async def run() -> None:
        journal = Journal(state_dir / JOURNAL_NAME)
        try:
            for one in jobs:
                await journal.accept(one, b"{}", {})
            await query(JournalQueries(state_dir), journal)
        finally:
            await journal.close()

    asyncio.run(run())


async def end(journal: Journal, one: Job, code: Code, message: str = "") -> None:
    """Give a job its end."""
    one, _ = journal.move(one, JobState.EXECUTED, code=code, message=message, finished_at_ns=5000)
    _, durable = journal.move(one, JobState.DELIVERED)
    await durable


def test_queries_of_jobs_are_filtered_and_bounded(tmp_path: Path) -> None:
    """However many are wanted; the last ended ones seed the page."""
    jobs = [job(number) for number in range(MAX_LISTED + 20)]

    async def query(queries: JournalQueries, journal: Journal) -> None:
        await end(journal, jobs[3], Code.TRAP)
        await end(journal, jobs[4], Code.OK)
        assert len(await queries.jobs(ALL, 10_000)) == MAX_LISTED
        assert len(await queries.jobs(ALL, 7)) == 7
        for fields, expected in (
            ({"code": ["trap"]}, ["job-3"]),
            ({"state": ["delivered"]}, ["job-3", "job-4"]),
            ({"state": ["delivered"], "code": ["ok", "exit"]}, ["job-4"]),
            ({"slot": ["input-9.json"]}, ["job-9"]),
            ({"slot": ["none"]}, []),
        ):
            found = await queries.jobs(filter_of(fields), 50)
            assert [one["job"] for one in found] == expected
        assert [one.id for one in ended_jobs(tmp_path, 1)] == ["job-4"]

    ask(tmp_path, jobs, query)


@pytest.mark.parametrize("fields", [{"state": ["gone"]}, {"code": ["ok", "x"]}])
def test_filter_of_unknown_values_is_refused(fields: dict[str, list[str]]) -> None:
    """Not ignored: the answer would be of other jobs."""
    with pytest.raises(ValueError, match=r"(state|code): expected one of .*; found \"(gone|x)\""):
        filter_of(fields)


def test_queries_of_one_job_give_its_whole_message(tmp_path: Path) -> None:
    """A list has the beginning; names of any bytes are escaped, and found by their bytes."""
    odd = os.fsdecode(b"odd-\xff/input.json")
    jobs = [job(1, odd), job(2)]

    async def query(queries: JournalQueries, journal: Journal) -> None:
        await end(journal, jobs[0], Code.TRAP, "x" * 3000 + "\n\x1b[2J")
        found = await queries.job("job-1")
        assert found is not None
        assert found["slot"] == "odd-\\udcff/input.json"
        assert found["message"] == "x" * 3000 + "\n\\x1b[2J"
        [listed] = await queries.jobs(filter_of({"slot": [odd]}), 1)
        assert len(listed["message"]) == 500
        msgspec.json.encode([found, listed])  # fails if they were not valid UTF-8
        assert await queries.job("job-") is None

    ask(tmp_path, jobs, query)


def test_queries_of_notes_say_why_jobs_wait(tmp_path: Path) -> None:
    """Jobs without a note are left out."""
    jobs = [job(number) for number in range(3)]

    async def query(queries: JournalQueries, journal: Journal) -> None:
        journal.explain(jobs[1], "waits for rain")
        await journal.accept(job(4), b"{}", {})  # durable after the note
        notes = await queries.notes([one.id for one in jobs])
        assert notes == {"job-1": "waits for rain"}
        assert await queries.notes([]) == {}

    ask(tmp_path, jobs, query)
