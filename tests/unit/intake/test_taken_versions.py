"""Versions that were taken: those in the journal and those that it has yet to write."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from wasmdrop.intake.taken_versions import TakenVersions
from wasmdrop.jobs.journal.database import open_for_writing


class Memory:
    """A journal's table and the object that reads it."""

    def __init__(self, path: Path) -> None:
        self.journal: sqlite3.Connection = open_for_writing(path)
        self.taken = TakenVersions(path, pytest.fail)

    def write(self, versions: dict[str, bytes | None]) -> None:
        """Write to the table as the journal does, in one transaction."""
        self.journal.execute("BEGIN")
        for path, version in versions.items():
            row = (os.fsencode(path), version)
            if version is None:
                self.journal.execute("DELETE FROM taken WHERE path = ?", row[:1])
            else:
                self.journal.execute("INSERT OR REPLACE INTO taken VALUES (?, ?)", row)
        self.journal.execute("COMMIT")


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    """Yield an empty one."""
    it = Memory(tmp_path / "journal.sqlite")
    yield it
    it.taken.close()
    it.journal.close()


def test_get_version_not_written_yet_is_known(memory: Memory) -> None:
    """It takes precedence over the one in the journal."""
    memory.write({"a": b"1", "b": b"1"})
    memory.taken.put("a", b"2")
    memory.taken.put("b", None)
    memory.taken.put("odd\udcff", b"3")
    assert memory.taken.get_all(["a", "b", "c", "odd\udcff"]) == {"a": b"2", "odd\udcff": b"3"}
    assert not memory.taken.is_empty()


def test_pages_yield_each_path_once_with_its_latest_version(memory: Memory) -> None:
    """Forgotten ones are left out."""
    stored = {f"/{number:05}": b"1" for number in range(1200)}
    memory.write(dict(stored))
    memory.taken.put("/00007", b"2")
    memory.taken.put("/00008", None)
    memory.taken.put("/new", b"3")
    found = [item for page in memory.taken.pages() for item in page]
    expected = stored | {"/00007": b"2", "/new": b"3"}
    del expected["/00008"]
    assert sorted(found) == sorted(expected.items())


def test_pages_of_a_directory_are_of_files_below_it(memory: Memory) -> None:
    """Not of neighbours whose names begin like it."""
    stored = {"/a": b"1", "/a/b": b"1", "/a/b/c": b"1", "/a0": b"1", "/a-": b"1", "/b/a/b": b"1"}
    memory.write(dict(stored))
    memory.taken.put("/a/new\udcff", b"2")
    memory.taken.put("/a/b/c", None)
    memory.taken.put("/a.new", b"2")
    found = [item for page in memory.taken.pages("/a") for item in page]
    assert sorted(found) == [("/a/b", b"1"), ("/a/new\udcff", b"2")]


def test_put_many_changes_written_ones_leave_memory(memory: Memory) -> None:
    """Changes that it has not written stay, whatever their number."""
    for start in range(0, 20_000, 100):
        paths = [f"{number}" for number in range(start, start + 100)]
        for path in paths:
            memory.taken.put(path, b"1")
        memory.write({path: b"1" for path in paths if not path.endswith("0")})
    assert len(memory.taken._recent) < 8000
    found = memory.taken.get_all([f"{number}" for number in range(20_000)])
    assert len(found) == 20_000


def test_close_waits_for_read_of_another_thread(memory: Memory) -> None:
    """Otherwise the read ends in a crash of the process."""
    memory.write({"a": b"1"})
    reading, order = threading.Event(), []

    def hold_read() -> None:
        if not reading.is_set():
            reading.set()
            closing.join(0.3)  # a close that does not wait is done by then

    def read() -> None:
        memory.taken._connection.set_progress_handler(hold_read, 1)
        memory.taken.get("a")
        order.append("read")

    def close() -> None:
        reading.wait()
        memory.taken.close()
        order.append("closed")

    closing = threading.Thread(target=close)
    closing.start()
    reader = threading.Thread(target=read)
    reader.start()
    reader.join()
    closing.join()
    assert order == ["read", "closed"]
