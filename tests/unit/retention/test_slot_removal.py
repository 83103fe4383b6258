"""Removing old slots: all files of a true marker go; any doubt keeps the slot as it is."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from tests.support.markers import a_marker
from tests.support.require import require_root
from wasmdrop.intake.file_versions import pack, pack_unreadable, with_digest
from wasmdrop.intake.layout import RootedPath
from wasmdrop.protocol.slot import FileVersion, Slot
from wasmdrop.retention.slot_removal import OldSlot, RemovedSlot, SlotDirectory

JOB: Final = "20260101T000000Z-0123456789"
INPUT: Final = b'{"entry":"fib","args":[12]}'
OTHER_USER: Final = 4001

#: Later than the files of any test.
LATER_NS: Final = 4_000_000_000 * 1_000_000_000

RESULTS: Final = {
    "result-a.json": b'{"entry":"fib"}\n',
    "result-a.txt": b"result: 144\n144\n",
    "result-a.stdout": b"hello\n",
    "result-a.output/deep/file": b"output",
}


class SlotFiles:
    """A finished slot in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.input = directory / "input-a.json"
        self.input.write_bytes(INPUT)
        for name, data in RESULTS.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self.output = directory / "result-a.output"
        self.output.chmod(0o1755)  # the daemon's mark
        self.marker = directory / "result-a.done"
        self.mark()
        slot = Slot("input-a.json", str(self.input), str(directory), "result-a")
        self.old = OldSlot(slot, version_of(self.input), JOB)

    def mark(self, **changes: Any) -> None:
        """Write the marker, with these keys changed."""
        files = {name: entry_of(data) for name, data in RESULTS.items()}
        named = {"path": str(self.input), **entry_of(INPUT)}
        cid = "b" + "a" * 58
        dropped_at = datetime.fromtimestamp(self.input.stat().st_mtime + 1, UTC).isoformat()
        keys: dict[str, Any] = {
            "job": JOB,
            "slot": "input-a.json",
            "input": named,
            "output": {"cid": cid},
            "dropped_at": dropped_at,
            "finished_at": dropped_at,
        }
        self.marker.write_text(json.dumps(a_marker(**({"files": files} | keys | changes))))

    def remove(self, before_ns: int = LATER_NS) -> list[RemovedSlot]:
        """Remove the slot if it may be removed."""
        rooted = RootedPath(str(self.directory), "")
        with SlotDirectory(rooted, rooted, "", before_ns) as opened:
            opened.resume(self.old)
            opened.begin(self.old)
            removed, error = opened.complete()
        if error is not None:
            raise error
        return removed

    def names(self) -> set[str]:
        """Return all paths below the directory."""
        return {str(path.relative_to(self.directory)) for path in self.directory.rglob("*")}


def entry_of(data: bytes) -> dict[str, Any]:
    """Return the marker's entry of a file with this content."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def version_of(path: Path) -> bytes:
    """Return the version of a file as the journal stores it."""
    digest = hashlib.sha256(path.read_bytes()).digest()
    return with_digest(pack(FileVersion.of(path.stat())), digest)


@pytest.fixture
def slot(tmp_path: Path) -> SlotFiles:
    """Give a finished slot."""
    return SlotFiles(tmp_path)


def test_removal_of_an_old_slot_leaves_only_files_of_others(slot: SlotFiles) -> None:
    """Marker, results, output directory and input go."""
    for name in ("module.wasm", "result-a.note", "result-b.json", "input-b.json"):
        (slot.directory / name).touch()
    assert slot.remove() == [RemovedSlot(str(slot.input), had_input=True)]
    assert slot.names() == {"module.wasm", "result-a.note", "result-b.json", "input-b.json"}


def test_removal_of_a_slot_removes_its_cancel_file_if_it_is_old(slot: SlotFiles) -> None:
    """A directory of that name stays, and so does a file that is young."""
    cancel = slot.directory / "input-a.json.cancel"
    cancel.touch()
    slot.remove()
    assert not cancel.exists()
    cancel.mkdir()
    other = SlotFiles(slot.directory)
    other.remove()
    assert slot.names() == {cancel.name}
    cancel.rmdir()
    young = SlotFiles(slot.directory)
    cancel.touch()
    os.utime(cancel, (5_000_000_000, 5_000_000_000))
    young.remove()
    assert slot.names() == {cancel.name}


def test_removal_of_a_slot_without_input_removes_its_results(slot: SlotFiles) -> None:
    """The input was archived, or its producer removed it."""
    slot.input.unlink()
    assert slot.remove() == [RemovedSlot(str(slot.input), had_input=False)]
    assert slot.names() == set()


def test_removal_without_a_journal_removes_the_input_of_the_marker(slot: SlotFiles) -> None:
    """The marker is enough, when intake has taken the input again."""
    slot.old = msgspec.structs.replace(slot.old, last_job=None)
    assert len(slot.remove()) == 1
    assert slot.names() == set()


@pytest.mark.parametrize("is_resumed", [True, False])
def test_removal_by_a_forged_marker_keeps_an_unread_drop(slot: SlotFiles, is_resumed: bool) -> None:
    """Another user renamed an output of their own program, which belongs to the daemon's user."""
    slot.mark(dropped_at="2090-01-01T00:00:00.000000Z")
    if is_resumed:
        slot.marker.rename(slot.directory / ".removing-result-a.done")
    slot.old = msgspec.structs.replace(slot.old, taken=None, last_job=None)
    slot.remove()
    assert slot.input.read_bytes() == INPUT


def test_removal_of_a_slot_with_a_link_to_another_name_keeps_that_name(slot: SlotFiles) -> None:
    """A hard link of a result may be the copy of a consumer."""
    copy = slot.directory / "copy"
    copy.hardlink_to(slot.directory / "result-a.json")
    assert len(slot.remove()) == 1
    assert slot.names() == {"copy"}


def _newer_input(slot: SlotFiles) -> None:
    slot.input.write_bytes(b'{"entry":"fib","args":[13]}')


def _same_input_again(slot: SlotFiles) -> None:
    status = slot.input.stat()
    os.utime(slot.input, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def _input_without_journal(slot: SlotFiles) -> None:
    slot.old = msgspec.structs.replace(slot.old, taken=None)


def _input_linked(slot: SlotFiles) -> None:
    slot.input.rename(slot.directory / "real")
    slot.input.symlink_to("real")


def _unreadable_input(slot: SlotFiles) -> None:
    version = with_digest(pack_unreadable(slot.input.stat()), hashlib.sha256().digest())
    slot.old = msgspec.structs.replace(slot.old, taken=version)


def _output_changed(slot: SlotFiles) -> None:
    (slot.output / "mine").touch()


def _output_not_the_daemons(slot: SlotFiles) -> None:
    slot.output.chmod(0o755)


def _output_link(slot: SlotFiles) -> None:
    elsewhere = slot.directory / "elsewhere"
    slot.output.rename(elsewhere)
    slot.output.symlink_to(elsewhere)


def _result_linked(slot: SlotFiles) -> None:
    path = slot.directory / "result-a.txt"
    path.rename(slot.directory / "real")
    path.symlink_to("real")


def _names_other_file(slot: SlotFiles) -> None:
    victim = slot.directory / "result-a.note"
    victim.write_bytes(b"mine")
    files = {name: entry_of(data) for name, data in RESULTS.items()}
    slot.mark(files=files | {victim.name: entry_of(b"mine")})


def _names_outer_file(slot: SlotFiles) -> None:
    files = {name: entry_of(data) for name, data in RESULTS.items()}
    slot.mark(files=files | {"result-a.output/../input-a.json": entry_of(INPUT)})


def _later_job(slot: SlotFiles) -> None:
    slot.old = msgspec.structs.replace(slot.old, last_job="another job")


KEPT: Final[dict[str, Callable[[SlotFiles], object]]] = {
    "input-newer": _newer_input,
    "input-dropped-again": _same_input_again,
    "input-without-journal": _input_without_journal,
    "input-link": _input_linked,
    "input-unreadable": _unreadable_input,
    "job-later": _later_job,
    "marker-of-another-slot": lambda slot: slot.mark(slot="elsewhere/input-a.json"),
    "marker-without-input": lambda slot: slot.mark(input=None),
    "marker-names-other-file": _names_other_file,
    "marker-names-file-outside": _names_outer_file,
    "marker-finished-later": lambda slot: slot.mark(finished_at="2200-01-01T00:00:00Z"),
    "marker-invalid": lambda slot: slot.marker.write_text("{}"),
    "output-changed": _output_changed,
    "output-link": _output_link,
    "output-missing": lambda slot: shutil.rmtree(slot.output),
    "output-not-the-daemons": _output_not_the_daemons,
    "result-changed": lambda slot: (slot.directory / "result-a.stdout").write_bytes(b"HELLO\n"),
    "result-link": _result_linked,
    "result-missing": lambda slot: (slot.directory / "result-a.txt").unlink(),
}


@pytest.mark.parametrize("change", KEPT.values(), ids=KEPT)
def test_removal_of_a_doubtful_slot_changes_nothing(
    slot: SlotFiles, change: Callable[[SlotFiles], object]
) -> None:
    """It is in use, or not as the daemon left it."""
    change(slot)
    before = slot.names()
    assert slot.remove() == []
    assert slot.names() == before


@pytest.mark.parametrize("name", ["result-a.done", "result-a.txt", "result-a.output"])
def test_removal_of_a_slot_with_files_of_another_user_changes_nothing(
    slot: SlotFiles, name: str
) -> None:
    """A forged marker, or a result that was replaced."""
    require_root()
    os.chown(slot.directory / name, OTHER_USER, OTHER_USER)
    before = slot.names()
    assert slot.remove() == []
    assert slot.names() == before


def test_removal_of_a_young_slot_changes_nothing(slot: SlotFiles) -> None:
    """By the time of its file, even if the marker claims an older one."""
    slot.mark(finished_at="2000-01-01T00:00:00Z")
    before = slot.names()
    assert slot.remove(slot.marker.stat().st_ctime_ns) == []
    assert slot.names() == before


def test_removal_of_an_input_being_written_changes_nothing(slot: SlotFiles) -> None:
    """Its producer may be about to write the next drop into it."""
    before = slot.names()
    with slot.input.open("rb+"):
        assert slot.remove() == []
    assert slot.names() == before


def test_removal_of_a_marker_replaced_meanwhile_keeps_the_new_one(
    slot: SlotFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not checked."""
    real = os.rename

    def rename(source: str, target: str, **fds: Any) -> None:
        if source == slot.marker.name:
            slot.marker.unlink()
            slot.marker.write_text("another")
        real(source, target, **fds)

    monkeypatch.setattr(os, "rename", rename)
    before = slot.names()
    assert slot.remove() == []
    assert slot.names() == before
    assert slot.marker.read_text() == "another"


@pytest.mark.parametrize("left", [6, 4, 2, 0])
def test_resume_completes_a_removal(slot: SlotFiles, left: int) -> None:
    """A daemon died after it had removed some of the files; their age no longer counts."""
    slot.marker.rename(slot.directory / ".removing-result-a.done")
    files = [*RESULTS, slot.input.name]
    for name in files[left:]:
        (slot.directory / name).unlink()
    if left < len(RESULTS):
        shutil.rmtree(slot.output)
    assert len(slot.remove(before_ns=0)) == 1
    assert slot.names() == set()


def test_resume_removes_an_input_that_was_about_to_go(slot: SlotFiles) -> None:
    """Whether or not the journal knows its version."""
    for taken in (slot.old.taken, None):
        slot.marker.rename(slot.directory / ".removing-result-a.done")
        slot.input.rename(slot.directory / ".removing-input-a.json")
        slot.old = msgspec.structs.replace(slot.old, taken=taken)
        assert len(slot.remove(before_ns=0)) == 1
        assert slot.names() == set()
        slot = SlotFiles(slot.directory)


def test_resume_puts_an_unread_drop_back(slot: SlotFiles) -> None:
    """It was dropped between the check and the rename, and then the daemon died."""
    slot.marker.rename(slot.directory / ".removing-result-a.done")
    (slot.directory / ".removing-input-a.json").write_bytes(b"unread")
    slot.input.unlink()
    slot.remove(before_ns=0)
    assert slot.names() == {"input-a.json"}
    assert slot.input.read_bytes() == b"unread"


def test_resume_of_a_slot_with_new_results_keeps_them(slot: SlotFiles) -> None:
    """A later job ended in between. Its results may be the same."""
    shutil.copy2(slot.marker, slot.directory / ".removing-result-a.done")
    before = slot.names()
    assert slot.remove(before_ns=0) == []
    assert slot.names() == before - {".removing-result-a.done"}


def test_resume_keeps_a_result_that_the_marker_does_not_describe(slot: SlotFiles) -> None:
    """Another user put it there after the daemon died."""
    slot.marker.rename(slot.directory / ".removing-result-a.done")
    (slot.directory / "result-a.txt").write_bytes(b"mine")
    assert len(slot.remove(before_ns=0)) == 1
    assert slot.names() == {"result-a.txt"}


def test_removal_of_a_slot_that_is_impossible_does_not_keep_others(slot: SlotFiles) -> None:
    """Another user has taken the name that its input gets before it is removed."""
    (slot.directory / ".removing-input-a.json").mkdir()
    files = dict.fromkeys(("result-b.json", "result-b.txt"), b"")
    for name, data in files.items():
        (slot.directory / name).write_bytes(data)
    claimed = {name: entry_of(data) for name, data in files.items()}
    marker = a_marker(claimed, slot="input-b.json")
    (slot.directory / "result-b.done").write_text(json.dumps(marker))
    path = str(slot.directory / "input-b.json")
    other = OldSlot(Slot("input-b.json", path, str(slot.directory), "result-b"), None, None)
    rooted = RootedPath(str(slot.directory), "")
    with SlotDirectory(rooted, rooted, "", LATER_NS) as opened:
        opened.begin(slot.old)
        opened.begin(other)
        removed, error = opened.complete()
    assert removed == [RemovedSlot(path, had_input=False)]
    assert isinstance(error, IsADirectoryError)
    assert slot.input.read_bytes() == INPUT


def test_removal_beside_a_cancel_file_that_stays_is_completed(
    slot: SlotFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that is not root can't remove a file of another user from a sticky directory."""
    name = "input-a.json.cancel"
    (slot.directory / name).touch()
    real_unlink = os.unlink

    def unlink(path: str, **directory: Any) -> None:
        if path == name:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        real_unlink(path, **directory)

    monkeypatch.setattr(os, "unlink", unlink)
    assert len(slot.remove()) == 1
    assert slot.names() == {name}
