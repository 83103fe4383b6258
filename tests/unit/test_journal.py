"""The journal: legal moves only, durable when it says so, and as it was after a reopening."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from wasmdrop.errors import StorageError
from wasmdrop.job import MOVES, InputFile, Job, JobState, Slot
from wasmdrop.journal import IllegalMoveError, Journal
from wasmdrop.outcome import Code
from wasmdrop.report import Package

ODD_NAME = b"odd-\xff/input.json".decode("utf-8", "surrogateescape")


def job(name: str = "input.json", number: int = 1) -> Job:
    """Return a new job of the slot ``name``."""
    slot = Slot(name, f"/shared/{name}", "/shared", "result")
    return Job(f"job-{number}", slot, 1000 + number, input=InputFile(slot.input_path, "00", 2))


def with_journal(path: Path, use: Callable[[Journal], Awaitable[None]]) -> None:
    """Open the journal, use it, close it."""

    async def run() -> None:
        journal = Journal(path)
        try:
            await use(journal)
        finally:
            await journal.close()

    asyncio.run(run())


def test_an_accepted_job_is_there_after_a_reopening(tmp_path: Path) -> None:
    """With its input as it was read, and the version that was taken."""

    async def accept(journal: Journal) -> None:
        await journal.accept(job(ODD_NAME), b"{}", {ODD_NAME: b"version"})

    async def look(journal: Journal) -> None:
        (found,) = journal.open_jobs()
        assert found == job(ODD_NAME)
        assert journal.taken() == {ODD_NAME: b"version"}
        assert await journal.load_input(found) == b"{}"

    with_journal(tmp_path / "journal", accept)
    with_journal(tmp_path / "journal", look)


def test_a_final_job_is_open_no_more_and_drops_its_input(tmp_path: Path) -> None:
    """What is delivered needs no recovery, and its bytes are not kept."""

    async def use(journal: Journal) -> None:
        moved = job()
        await journal.accept(moved, b"{}", {})
        moved, durable = journal.move(moved, JobState.RUNNING, attempt=1)
        await durable
        moved = journal.move_lazily(moved, JobState.EXECUTED, code=Code.OK)
        await journal.keep_package(moved, Package({".json": b"{}"}, b"{}"))
        assert await journal.load_package(moved) == Package({".json": b"{}"}, b"{}")
        moved = journal.move_lazily(moved, JobState.DELIVERED)
        assert await journal.load_input(moved) is None
        assert await journal.load_package(moved) is None

    async def look(journal: Journal) -> None:
        assert journal.open_jobs() == []

    with_journal(tmp_path / "journal", use)
    with_journal(tmp_path / "journal", look)


@pytest.mark.parametrize("state", JobState)
def test_only_the_moves_of_the_table_are_made(tmp_path: Path, state: JobState) -> None:
    """All others are faults of the program and raise."""

    async def use(journal: Journal) -> None:
        start = Job("job", job().slot, 0, state=state)
        for target in JobState:
            if target in MOVES[state]:
                assert journal.move_lazily(start, target).state is target
            else:
                with pytest.raises(IllegalMoveError, match=f"{state} to {target}"):
                    journal.move_lazily(start, target)

    with_journal(tmp_path / "journal", use)


def test_the_latest_failure_of_each_slot_for_its_modules_sake_is_found(tmp_path: Path) -> None:
    """An earlier one, or one of another kind, is not."""

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
        found = await journal.latest_failed_by_module()
        assert [one.slot.key for one in found] == ["b"]

    with_journal(tmp_path / "journal", use)


def test_a_write_that_fails_for_a_while_is_made_in_the_end(tmp_path: Path) -> None:
    """Somebody holds the file: the caller waits, nothing is lost."""
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
        assert len(journal.open_jobs()) == 1

    with_journal(path, use)
    with_journal(path, look)


def test_a_journal_of_another_version_and_a_file_that_is_none_are_refused(tmp_path: Path) -> None:
    """With a message that names the file."""

    async def use(_journal: Journal) -> None:
        return None

    with_journal(tmp_path / "new", use)
    connection = sqlite3.connect(tmp_path / "new")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StorageError, match="version 99"):
        with_journal(tmp_path / "new", use)
    (tmp_path / "none").write_bytes(b"no database at all" * 100)
    with pytest.raises(StorageError, match="none"):
        with_journal(tmp_path / "none", use)
