"""Markers that are read back: trusted if the files agree, and bounded in any case."""

import hashlib
import json
import tracemalloc
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.markers import a_marker
from wasmdrop.intake.finished_slots import is_done, true_marker
from wasmdrop.protocol.slot import FileVersion, InputFile, Slot

LINE: Final = b'{"entry":"fib","args":[12],"results":[144]}\n'


@pytest.fixture
def slot(tmp_path: Path) -> Slot:
    """Return a slot one directory below a shared one, with a result."""
    directory = tmp_path / "slot"
    directory.mkdir()
    for suffix in ("json", "txt"):
        (directory / f"result.{suffix}").write_bytes(LINE)
    return Slot("slot/input.json", str(directory / "input.json"), str(directory), "result")


def mark(slot: Slot, marked: dict[str, Any] | None = None, **files: dict[str, Any]) -> None:
    """Write a marker of ``result.json``, ``result.txt`` and other files, given by their suffix."""
    digest = hashlib.sha256(LINE).hexdigest()
    result = {"sha256": digest, "bytes": len(LINE)}
    all_files = {"result.json": result, "result.txt": result}
    all_files |= {f"result.{suffix}": file for suffix, file in files.items()}
    marker = a_marker(all_files, slot=slot.key, input=marked)
    (Path(slot.directory) / "result.done").write_text(json.dumps(marker))


def sparse(path: Path, size_bytes: int) -> dict[str, Any]:
    """Make a large file that takes no room; return what a marker says of it."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return {"sha256": "0" * 64, "bytes": size_bytes}


def test_true_marker_of_changed_or_missing_file_is_none(slot: Slot) -> None:
    """A marker is true only if each file has its size, and a small one its digest."""
    mark(slot)
    assert true_marker(slot) is not None
    path = Path(slot.directory) / "result.json"
    for content in (LINE[:-1], LINE.replace(b"144", b"145")):
        path.write_bytes(content)
        assert true_marker(slot) is None
    path.unlink()
    assert true_marker(slot) is None


def test_true_marker_of_huge_files_takes_little_memory(slot: Slot) -> None:
    """A marker of a gigabyte, and one that names files of terabytes."""
    directory = Path(slot.directory)
    tracemalloc.start()
    try:
        sparse(directory / "result.done", 1 << 30)
        assert true_marker(slot) is None
        mark(slot, stdout=sparse(directory / "result.stdout", 1 << 40))
        assert true_marker(slot) is not None
        mark(slot, txt=sparse(directory / "result.txt", 1 << 40))
        assert true_marker(slot) is not None
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_true_marker_outside_the_slot_is_none(slot: Slot, tmp_path: Path) -> None:
    """Neither by the names of its files, nor by a directory that is a link by now."""
    (tmp_path / "outside").write_bytes(LINE)
    digest = {"sha256": hashlib.sha256(LINE).hexdigest(), "bytes": len(LINE)}
    mark(slot, **{"x/../../../outside": digest})
    assert true_marker(slot) is None
    mark(slot)
    Path(slot.directory).rename(tmp_path / "moved")
    Path(slot.directory).symlink_to("moved")
    assert true_marker(slot) is None


def test_is_done_without_digest_compares_time_and_size(slot: Slot) -> None:
    """A file with another time, or an input that was readable then or is now, is not done."""
    path = slot.input_path
    file = {"mtime_ns": 7, "inode": 2, "device": 1}
    mark(slot, {"path": path, "sha256": None, "bytes": 9, "file": file})
    assert is_done(slot, InputFile(path, None, 9, FileVersion(1, 2, 9, 7)), 7)
    assert not is_done(slot, InputFile(path, None, 9, FileVersion(1, 2, 9, 8)), 8)
    assert not is_done(slot, InputFile(path, hashlib.sha256(b"").hexdigest(), 0), 7)
    mark(slot, {"path": path, "sha256": hashlib.sha256(b"").hexdigest(), "bytes": 0})
    assert not is_done(slot, InputFile(path, None, 9, FileVersion(1, 2, 9, 7)), 7)
