"""The journal: it allows legal moves only, and durable writes survive a restart."""

import asyncio
import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.intake.taken_versions import TakenVersions
from wasmdrop.jobs.job import MOVES, IllegalMoveError, Job, JobState
from wasmdrop.jobs.journal.awaited_modules import KeyRange
from wasmdrop.jobs.journal.database import open_for_writing
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import FileVersion, InputFile, PinnedModule, Slot

ODD_NAME = b"odd-\xff/input.json".decode("utf-8", "surrogateescape")


def job(name: str = "input.json", number: int = 1) -> Job:
    """Return a new job of the slot ``name``."""
    slot = Slot(name, f"/shared/{name}", "/shared", "result")
    return Job(f"job-{number}", slot, 1000 + number, input=InputFile(slot.input_path, "00", 2))


def with_journal(path: Path, use: Callable[[Journal], Awaitable[None]]) -> None:
    """Open the journal, use it, close it."""

    async def run() -> None:
        journal = Journal(path, records_events=True)
        try:
            await use(journal)
        finally:
            await journal.close()

    asyncio.run(run())


def test_journal_accepted_job_is_there_after_reopening(tmp_path: Path) -> None:
    """With its input and the version that was taken."""

    async def accept(journal: Journal) -> None:
        await journal.accept(job(ODD_NAME), b"{}", {ODD_NAME: b"version"})

    async def look(journal: Journal) -> None:
        ((_, found, *_),) = await journal.open_jobs()
        assert found == job(ODD_NAME)
        with contextlib.closing(TakenVersions(journal.path, pytest.fail)) as taken:
            assert taken.get(ODD_NAME) == b"version"
        assert await journal.load_input(found) == b"{}"

    with_journal(tmp_path / "journal", accept)
    with_journal(tmp_path / "journal", look)


def test_journal_final_job_is_not_open_and_loses_its_input(tmp_path: Path) -> None:
    """A delivered job needs no recovery."""

    async def use(journal: Journal) -> None:
        moved = job()
        await journal.accept(moved, b"{}", {})
        moved, durable = journal.move(moved, JobState.RUNNING, attempt=1)
        await durable
        moved = journal.move_lazily(moved, JobState.EXECUTED, code=Code.OK)
        await journal.keep_package(moved, ResultPackage({".json": b"{}"}, b"{}"), "no room")
        assert await journal.load_package(moved) == ResultPackage({".json": b"{}"}, b"{}")
        moved = journal.move_lazily(moved, JobState.DELIVERED)
        assert await journal.load_input(moved) is None
        assert await journal.load_package(moved) is None

    async def look(journal: Journal) -> None:
        assert await journal.open_jobs() == []

    with_journal(tmp_path / "journal", use)
    with_journal(tmp_path / "journal", look)


@pytest.mark.parametrize("state", JobState)
def test_journal_illegal_move_is_refused(tmp_path: Path, state: JobState) -> None:
    """An illegal move raises."""

    async def use(journal: Journal) -> None:
        start = Job("job", job().slot, 0, state=state)
        for target in JobState:
            if target in MOVES[state]:
                assert journal.move_lazily(start, target).state is target
            else:
                with pytest.raises(IllegalMoveError, match=f"{state} to {target}"):
                    journal.move_lazily(start, target)

    with_journal(tmp_path / "journal", use)


def test_journal_awaiting_returns_latest_module_failure_of_each_slot(tmp_path: Path) -> None:
    """Earlier failures, and failures of another kind, are not returned."""

    async def use(journal: Journal) -> None:
        for number, (slot, code) in enumerate(
            [
                ("a", Code.MODULE_MISSING),
                ("a", Code.OK),
                ("b", Code.OK),
                ("b", Code.LINK_ERROR),
                ("c", Code.TRAP),
            ]
        ):
            one = job(slot, number)
            await journal.accept(one, None, {})
            journal.move_lazily(one, JobState.EXECUTED, code=code)
        assert await awaiting(journal) == ["/shared/b"]

    with_journal(tmp_path / "journal", use)


def test_journal_write_that_fails_for_a_while_succeeds(tmp_path: Path) -> None:
    """Another process locks the file: the caller waits, and nothing is lost."""
    path = tmp_path / "journal"

    async def use(journal: Journal) -> None:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("PRAGMA busy_timeout = 0")
        other.execute("BEGIN IMMEDIATE")
        accepted = journal.accept(job(), b"{}", {})
        done, _ = await asyncio.wait({accepted}, timeout=0.3)
        assert not done
        other.execute("ROLLBACK")
        other.close()
        await accepted

    async def look(journal: Journal) -> None:
        assert len(await journal.open_jobs()) == 1

    with_journal(path, use)
    with_journal(path, look)


def test_journal_small_input_of_failed_job_is_kept(tmp_path: Path) -> None:
    """Inputs of successful jobs, large inputs and all results are removed."""

    async def use(journal: Journal) -> None:
        kept = []
        for number, (code, data) in enumerate(
            [(Code.TRAP, b"{}"), (Code.TRAP, bytes(16 * 1024 + 1)), (Code.OK, b"{}")]
        ):
            one = job(str(number), number)
            await journal.accept(one, data, {})
            one = journal.move_lazily(one, JobState.EXECUTED, code=code)
            await journal.keep_package(one, ResultPackage({".json": b""}, b""), "no room")
            one = journal.move_lazily(one, JobState.DELIVERED)
            kept.append(await journal.load_input(one))
            assert await journal.load_package(one) is None
        assert kept == [b"{}", None, None]

    with_journal(tmp_path / "journal", use)


def looked_up(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Return the entries that another process reads."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_journal_note_stays_until_the_job_moves(tmp_path: Path) -> None:
    """A repeated note is no change; changes are in order, whatever the clock."""
    path = tmp_path / "journal"

    async def use(journal: Journal) -> None:
        journal._changed_ns = later = 2**62
        await journal.accept(job(), None, {})
        journal.explain(job(), "waits\x1b[2J")
        await journal.load_input(job())
        (noted,) = looked_up(path, "SELECT note, changed_ns FROM jobs")
        assert noted == ("waits\\x1b[2J", later + 2)
        journal.explain(job(), "waits\x1b[2J")
        await journal.load_input(job())
        assert looked_up(path, "SELECT note, changed_ns FROM jobs") == [noted]
        await journal.move(job(), JobState.RUNNING)[1]
        ((note, changed_ns),) = looked_up(path, "SELECT note, changed_ns FROM jobs")
        assert note is None
        assert changed_ns > noted[1]

    with_journal(path, use)


async def finish(journal: Journal, one: Job, code: Code) -> None:
    """Move a job to its end."""
    await journal.accept(one, b"{}", {})
    one = journal.move_lazily(one, JobState.EXECUTED, code=code)
    await journal.move(one, JobState.DELIVERED)[1]


async def move(journal: Journal, one: Job, state: JobState, **changes: Any) -> Job:
    """Move a job durably; return the moved job."""
    moved, durable = journal.move(one, state, **changes)
    await durable
    return moved


async def awaiting(journal: Journal, directory: str = "/shared") -> list[str]:
    """Return the inputs of a directory whose latest jobs failed because of their module."""
    key = b"dir:" + os.fsencode(directory)
    return [path for _, path in await journal.awaiting(KeyRange(key, key + b"\0"), None, 100)]


async def prune_all(journal: Journal, before_ns: int) -> int:
    """Prune until no job is removed; return how many were."""
    total = 0
    while went := await journal.prune(before_ns):
        total += went
    return total


def test_journal_prune_removes_only_old_final_jobs(tmp_path: Path) -> None:
    """Open jobs stay at any age, final ones until their time."""
    path = tmp_path / "journal"

    async def use(journal: Journal) -> None:
        await journal.accept(job("open", 0), b"{}", {})
        for number in range(1, 1203):
            one = job("done", number)
            await journal.accept(one, b"{}", {})
            journal.move_lazily(one, JobState.DISCARDED if number % 2 else JobState.EXECUTED)
            if number % 2 == 0:
                journal.move_lazily(
                    msgspec.structs.replace(one, state=JobState.EXECUTED), JobState.DELIVERED
                )
        between_ns = journal._tick()
        await finish(journal, job("done", 1203), Code.OK)
        assert await prune_all(journal, between_ns) == 1202
        assert await prune_all(journal, between_ns) == 0
        left = looked_up(path, "SELECT id FROM jobs ORDER BY seq")
        assert left == [("job-0",), ("job-1203",)]

    with_journal(path, use)


def test_journal_awaiting_slot_is_known_after_its_job_is_pruned(tmp_path: Path) -> None:
    """As long as the slot has its input."""

    async def use(journal: Journal) -> None:
        await finish(journal, job("a", 1), Code.MODULE_MISSING)
        await finish(journal, job("a", 2), Code.OK)
        await finish(journal, job("b", 3), Code.LINK_ERROR)
        await finish(journal, job("c", 4), Code.LINK_ERROR)
        await finish(journal, job(ODD_NAME, 5), Code.LINK_ERROR)
        await finish(journal, job("d", 6), Code.TRAP)
        assert await prune_all(journal, 2**62) == 6
        odd = f"/shared/{Path(ODD_NAME).parent}"
        assert await awaiting(journal) == ["/shared/b", "/shared/c"]
        assert await awaiting(journal, odd) == [f"/shared/{ODD_NAME}"]
        journal.forget("/shared/b")
        assert await awaiting(journal) == ["/shared/c"]

    with_journal(tmp_path / "journal", use)


def test_journal_awaiting_slots_come_in_pages(tmp_path: Path) -> None:
    """Each once, in order, without slots that have a newer job."""

    async def use(journal: Journal) -> None:
        for number in range(25):
            await finish(journal, job(f"{number:02}", number), Code.MODULE_MISSING)
        await journal.accept(job("07", 99), b"{}", {})
        found: list[str] = []
        after = None
        while page := await journal.awaiting(KeyRange(b"dir:", b"dir;"), after, 10):
            assert len(page) <= 10
            found += [path for _, path in page]
            after = page[-1]
        assert found == [f"/shared/{number:02}" for number in range(25) if number != 7]

    with_journal(tmp_path / "journal", use)


def test_journal_rerun_job_awaits_nothing(tmp_path: Path) -> None:
    """Its results were lost, and its second run used another module."""

    async def use(journal: Journal) -> None:
        one = job("a", 1)
        await journal.accept(one, b"{}", {})
        one = journal.move_lazily(one, JobState.EXECUTED, code=Code.LINK_ERROR)
        one = await move(journal, one, JobState.QUEUED)
        assert await awaiting(journal) == ["/shared/a"]
        one = await move(journal, one, JobState.RUNNING)
        one = await move(journal, one, JobState.EXECUTED, code=Code.OK)
        await move(journal, one, JobState.DELIVERED)
        assert await awaiting(journal) == []

    with_journal(tmp_path / "journal", use)


def test_journal_last_module_is_that_of_the_latest_job(tmp_path: Path) -> None:
    """None for a slot without a job, or whose job has no module."""
    version = FileVersion(1, 2, 3, 4)

    async def use(journal: Journal) -> None:
        assert await journal.last_module("a") is None
        module = PinnedModule("/shared/module.wasm", "00", 1, version)
        await journal.accept(msgspec.structs.replace(job("a", 1), module=module), None, {})
        assert await journal.last_module("a") == version
        await journal.accept(job("a", 2), None, {})
        assert await journal.last_module("a") is None

    with_journal(tmp_path / "journal", use)


def test_journal_over_quota_loses_oldest_inputs_then_oldest_jobs(
    tmp_path: Path,
) -> None:
    """Open jobs, their inputs and the newest finished jobs stay."""
    path = tmp_path / "journal"
    bound_bytes = 8 * 1024 * 1024

    async def use(journal: Journal) -> None:
        await journal.accept(job("open", 0), bytes(5000), {})
        for number in range(1, 1001):
            one = job(f"input-{number}", number)
            await journal.accept(one, bytes(10_000), {})
            one = journal.move_lazily(one, JobState.EXECUTED, code=Code.TRAP)
            journal.move_lazily(one, JobState.DELIVERED)
        steps = []
        while any(step := await journal.trim(bound_bytes)):
            steps.append(step)
        assert max(step.inputs + step.jobs for step in steps) <= 200
        left = looked_up(path, "SELECT id, input IS NULL FROM jobs ORDER BY seq")
        assert left[0] == ("job-0", 0)
        gone = [no_input for _, no_input in left[1:]]
        assert gone == sorted(gone, reverse=True), "the oldest inputs go first"
        assert left[-1] == ("job-1000", 0)
        assert len(left) == 1001, "inputs were enough"

        while any(step := await journal.trim(bound_bytes // 8)):
            assert step.inputs == 0 or step.jobs == 0
        left = looked_up(path, "SELECT id FROM jobs ORDER BY seq")
        assert left[0] == ("job-0",)
        assert left[-1] == ("job-1000",)
        numbers = [int(name.removeprefix("job-")) for (name,) in left[1:]]
        assert numbers == list(range(numbers[0], 1001)), "the oldest jobs go first"
        assert numbers[0] > 1
        assert await journal.trim(2**40) == (0, 0, 0)

    with_journal(path, use)


def test_journal_large_kept_results_are_a_file_and_small_ones_a_row(tmp_path: Path) -> None:
    """The journal does not grow with them; a sweep keeps the requested ones."""
    path = tmp_path / "journal"

    async def use(journal: Journal) -> None:
        large = ResultPackage({".json": bytes(8 * 1024 * 1024)}, b"{}")
        small = ResultPackage({".json": b"{}"}, b"{}")
        for number, results in enumerate((large, small, large)):
            one = job(str(number), number)
            await journal.accept(one, None, {})
            one = await move(journal, one, JobState.EXECUTED, code=Code.OK)
            await journal.keep_package(one, results, "no room")
            assert await journal.load_package(one) == results
        files = tmp_path / "undelivered"
        assert sorted(file.name for file in files.iterdir()) == ["job-0", "job-2"]
        assert (path.stat().st_size + path.with_name("journal-wal").stat().st_size) < 1024 * 1024
        sizes = [one.kept_bytes for one in await journal.open_jobs()]
        assert sizes[0] == sizes[2]
        assert sizes[0] is not None
        assert sizes[0] > 8 * 1024 * 1024
        journal.sweep_results({"job-2"})
        assert [file.name for file in files.iterdir()] == ["job-2"]
        assert await journal.load_package(job("0", 0)) is None
        journal.remove_results("job-2")
        assert list(files.iterdir()) == []

    with_journal(path, use)


def test_journal_open_jobs_come_in_pages(tmp_path: Path) -> None:
    """In the order of their drops, without final ones."""

    async def use(journal: Journal) -> None:
        for number in range(2400):
            one = job(str(number), number)
            accepted = journal.accept(one, None, {})
            if number % 2:
                journal.move_lazily(one, JobState.DISCARDED)
        await accepted
        found: list[str] = []
        seq = 0
        while page := await journal.open_jobs(seq):
            assert len(page) <= 1000
            found += [one.job.id for one in page]
            seq = page[-1].seq
        assert found == [f"job-{number}" for number in range(0, 2400, 2)]

    with_journal(tmp_path / "journal", use)


def test_journal_statement_never_reads_a_whole_table(tmp_path: Path) -> None:
    """SQLite's plan for each statement has no full scan and no sort."""
    path = tmp_path / "journal"
    statements: set[str] = set()

    async def use(journal: Journal) -> None:
        journal._thread._connection.set_trace_callback(statements.add)
        journal.remember({"/shared/x": b"version"})
        for number, code in enumerate((Code.OK, Code.LINK_ERROR, Code.TRAP)):
            one = job(f"input-{number}", number)
            await journal.accept(one, b"{}", {"/shared/x": b"version"})
            journal.explain(one, "waits")
            one, begun = journal.begin(one, attempt=1)
            await begun
            one = await move(journal, one, JobState.EXECUTED, code=code)
            await journal.keep_package(one, ResultPackage({".json": b""}, b""), "no room")
            await journal.load_package(one)
            await journal.load_job(one.id)
            await journal.load_input(one)
            await journal.forget_package(one)
            await journal.close_job(one, b"{}")[1]
        await journal.awaiting(KeyRange(b"dir:", b"dir;"), None, 10)
        await journal.awaiting(KeyRange(b"name:x", b"name:x\0"), (b"name:x", "/a"), 10)
        await journal.last_module("input-1")
        await journal.open_jobs(1)
        journal.forget("/shared/x")
        assert journal.events is not None
        await journal.events.due(2**62, 1, (), 10, 1)
        journal.events.postpone("input-1", 1, 2)
        journal.events.remove(["input-1"])
        await journal.events.expire(2**62)
        await journal.trim(0)
        await journal.prune(2**62)
        await journal.trim(0)
        await journal.shrink()
        journal._thread._connection.set_trace_callback(None)

    with_journal(path, use)
    connection = open_for_writing(path)
    plans = {
        text: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}")]
        for text in statements
        if text.split(None, 1)[0] in {"SELECT", "INSERT", "UPDATE", "DELETE"}
    }
    connection.close()
    assert len(plans) > 15
    for text, plan in plans.items():
        for step in plan:
            if re.fullmatch(r"SCAN (\d+ CONSTANT ROWS?|\(subquery-\d+\)|CONSTANT ROW)", step):
                continue  # the VALUES of one statement
            is_bounded = "LIMIT" in text and re.search(r"SCAN \w+ USING (COVERING )?INDEX", step)
            assert is_bounded or "SCAN" not in step, f"{text}: {step}"
            assert "TEMP B-TREE" not in step, f"{text}: {step}"
            assert "AUTOMATIC" not in step, f"{text}: {step}"


def test_journal_file_is_bounded_and_shrinks_after_a_burst(tmp_path: Path) -> None:
    """Jobs after pruning reuse its pages; the write-ahead log is bounded, too."""
    path = tmp_path / "journal"

    async def round_of(journal: Journal, count: int, size_bytes: int) -> int:
        for number in range(count):
            one = job(str(number), time.time_ns())
            await journal.accept(one, bytes(size_bytes), {})
            one = journal.move_lazily(one, JobState.EXECUTED, code=Code.OK)
            await journal.move(one, JobState.DELIVERED)[1]
        await prune_all(journal, 2**62)
        while await journal.shrink():
            pass
        return path.stat().st_size

    async def use(journal: Journal) -> None:
        sizes = [await round_of(journal, 70, 30_000) for _ in range(4)]
        assert sizes[3] <= sizes[1], sizes
        await journal.accept(job("burst", 0), bytes(48 * 1024 * 1024), {})
        one = journal.move_lazily(job("burst", 0), JobState.EXECUTED, code=Code.OK)
        await journal.move(one, JobState.DELIVERED)[1]
        await round_of(journal, 1, 10)

    with_journal(path, use)
    # The last connection to close has put everything into the file.
    assert path.stat().st_size < 12 * 1024 * 1024
    assert looked_up(path, "PRAGMA auto_vacuum") == [(2,)]
