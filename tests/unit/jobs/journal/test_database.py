"""The journal's file: migrated completely or not at all, and never lost."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import structlog

from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal import database
from wasmdrop.jobs.journal.database import (
    SCHEMA_VERSION,
    decode_job,
    open_for_reading,
    open_for_writing,
)
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.protocol.errors import StorageError
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import InputFile, Slot

#: Written by the program whose journal had version 1: seven jobs in all kinds of states.
VERSION_1: Final = Path(__file__).with_name("data") / "journal-1.sqlite"
ODD_NAME = b"odd-\xff/input.json".decode("utf-8", "surrogateescape")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return a copy of a journal of version 1."""
    return Path(shutil.copy(VERSION_1, tmp_path / "journal.sqlite"))


def contents(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return the columns that a journal of any version has."""
    connection = open_for_reading(path)
    try:
        return {
            "version": connection.execute("PRAGMA user_version").fetchall(),
            "jobs": connection.execute(
                "SELECT seq, id, slot, state, code, job, input, package FROM jobs ORDER BY seq"
            ).fetchall(),
            "taken": connection.execute("SELECT * FROM taken ORDER BY path").fetchall(),
        }
    finally:
        connection.close()


def test_database_version_1_is_migrated(old: Path) -> None:
    """Nothing is lost, and new columns are filled in."""
    before = contents(old)
    connection = open_for_writing(old)
    rows = connection.execute("SELECT job, changed_ns, note FROM jobs ORDER BY seq").fetchall()
    assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA auto_vacuum").fetchall() == [(2,)]
    connection.close()
    after = contents(old)
    assert (before.pop("version"), after.pop("version")) == ([(1,)], [(SCHEMA_VERSION,)])
    assert after == before
    assert len(rows) == 7
    for text, changed_ns, note in rows:
        job = decode_job(text)
        assert changed_ns == (job.finished_at_ns or job.dropped_at_ns)
        assert note is None


def test_database_open_jobs_of_version_1_are_resumed(old: Path) -> None:
    """With their inputs and their undelivered results."""

    async def use() -> None:
        journal = Journal(old)
        try:
            jobs = {one.job.id[-1]: one.job for one in await journal.open_jobs()}
            assert {name: job.state for name, job in jobs.items()} == {
                "4": JobState.EXECUTED,
                "5": JobState.QUEUED,
                "7": JobState.RUNNING,
            }
            assert jobs["5"].slot.key == ODD_NAME
            assert await journal.load_input(jobs["5"]) == b"{}"
            package = await journal.load_package(jobs["4"])
            assert package is not None
            assert package.files[".txt"] == b"1\n"
            await journal.move(jobs["4"], JobState.DELIVERED)[1]
        finally:
            await journal.close()

    asyncio.run(use())


def test_database_modules_and_results_of_version_1_are_migrated(old: Path) -> None:
    """Slots that await a module, and undelivered results without a known directory."""
    with sqlite3.connect(old) as connection:
        rows = connection.execute("SELECT job FROM jobs WHERE id LIKE '%4'").fetchall()
        slot = decode_job(rows[0][0]).slot
        failed = msgspec.structs.replace(
            decode_job(rows[0][0]),
            id="failed",
            slot=msgspec.structs.replace(slot, key="f", input_path="/shared/f/input.json"),
            input=InputFile("/shared/f/input.json", "00", 2),
            state=JobState.DELIVERED,
            code=Code.MODULE_MISSING,
            module=None,
            module_reference="nope",
        )
        text = database.encode_job(failed)
        connection.execute(
            "INSERT INTO jobs (id, slot, state, code, job) VALUES ('failed', 'f', 'delivered',"
            " 'module-missing', ?)",
            (text,),
        )
        connection.execute("INSERT INTO taken VALUES (?, ?)", (b"/shared/f/input.json", b"v"))
    connection.close()
    connection = open_for_writing(old)
    awaiting = connection.execute("SELECT path, module, job FROM awaiting").fetchall()
    kept = connection.execute(
        "SELECT kept_bytes = length(package), kept_output FROM jobs WHERE kept_bytes IS NOT NULL"
    ).fetchall()
    connection.close()
    assert (b"/shared/f/input.json", b"name:nope", "failed") in awaiting
    assert kept == [(1, None)]


def test_database_version_3_is_migrated_and_records_events(tmp_path: Path) -> None:
    """Its jobs stay, and have no events."""
    path = tmp_path / "journal.sqlite"
    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.create_function("input_path_of", 1, database._input_path_of, deterministic=True)
        connection.create_function("awaited_module", 1, database._awaited_module)
        connection.executescript("".join(database._MIGRATIONS[:3]) + "PRAGMA user_version = 3")
        job = Job("job-1", Slot("input.json", "/shared/input.json", "/shared", "result"), 1)
        job = msgspec.structs.replace(job, state=JobState.EXECUTED)
        connection.execute(
            "INSERT INTO jobs (id, slot, state, job) VALUES (?, ?, ?, ?)",
            (job.id, b"input.json", job.state, database.encode_job(job)),
        )
    connection.close()

    async def use() -> None:
        journal = Journal(path, records_events=True)
        assert journal.events is not None
        assert journal.events.pending == 0
        (found,) = await journal.open_jobs()
        await journal.close_job(found.job, b"{}")[1]
        due = await journal.events.due(2**62, 2**61, (), 10, 1000)
        assert [event.job_id for event in due.events] == ["job-1"]
        await journal.close()

    asyncio.run(use())


def test_database_failed_migration_leaves_the_journal_unchanged(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The migration is one transaction."""
    before = contents(old)
    broken = (*database._MIGRATIONS, "CREATE TABLE more (x); CREATE TABLE jobs (x);")
    monkeypatch.setattr(database, "_MIGRATIONS", broken)
    monkeypatch.setattr(database, "SCHEMA_VERSION", len(broken))
    with pytest.raises(StorageError, match="jobs already exists"):
        open_for_writing(old)
    assert contents(old) == before
    connection = open_for_reading(old)
    assert connection.execute("SELECT name FROM sqlite_schema WHERE name = 'more'").fetchall() == []
    connection.close()
    assert list(old.parent.glob("*.damaged-*")) == []


def test_database_later_version_is_refused_and_unchanged(tmp_path: Path) -> None:
    """The message names the file, both versions and a remedy."""
    path = tmp_path / "journal.sqlite"
    open_for_writing(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"journal.sqlite: .*version 99.*up to 4.*STATE_DIR"):
        open_for_writing(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["journal.sqlite"]


def truncated(path: Path) -> None:
    """Truncate the file in the middle."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def no_database(path: Path) -> None:
    """Replace the file by another one."""
    path.write_bytes(b"no database at all" * 100)


def garbled(path: Path) -> None:
    """Overwrite the inner pages, not the header."""
    size_bytes = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size_bytes - 4096))


@pytest.mark.parametrize("version", [1, SCHEMA_VERSION])
@pytest.mark.parametrize("damage", [truncated, no_database, garbled])
def test_database_damaged_journal_is_set_aside_and_replaced(
    old: Path, damage: Callable[[Path], None], version: int
) -> None:
    """The damaged file is kept and named in the log; its write-ahead log is not replayed."""
    if version == SCHEMA_VERSION:
        open_for_writing(old).close()
    damage(old)
    data = old.read_bytes()
    old.with_name("journal.sqlite-wal").write_bytes(b"the log of the damaged file")
    with structlog.testing.capture_logs() as events:
        connection = open_for_writing(old)
    assert connection.execute("SELECT count(*) FROM jobs").fetchall() == [(0,)]
    connection.close()
    (event,) = events
    assert (event["event"], event["log_level"]) == ("journal-set-aside", "warning")
    aside = Path(event["now"])
    assert aside.parent == old.parent
    assert aside.read_bytes() == data
    json.dumps(event)


def test_database_directory_at_its_path_is_an_error_and_stays(tmp_path: Path) -> None:
    """A path that can't be opened is not damaged: the operator must look at it."""
    path = tmp_path / "journal.sqlite"
    path.mkdir()
    with pytest.raises(StorageError, match=r"journal.sqlite: the journal can't be opened"):
        open_for_writing(path)
    assert path.is_dir()
