"""Cancel files: which count, and for which versions of the input."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wasmdrop import settings
from wasmdrop.intake.backlog import Backlog
from wasmdrop.intake.drops import CancelFile, DoneInput, Drop, InputDrop
from wasmdrop.intake.intake import Intake
from wasmdrop.intake.layout import Layout
from wasmdrop.intake.taken_versions import TakenVersions
from wasmdrop.jobs.journal.database import open_for_writing


class Bench:
    """An intake on its own directories, with its cancelled slots and refused files."""

    def __init__(self, base: Path, **variables: str) -> None:
        self.shared = base / "shared"
        (base / "wasm").mkdir()
        self.shared.mkdir()
        places = {
            "WASMDROP_WASM_DIR": str(base / "wasm"),
            "WASMDROP_SHARED_DIR": str(self.shared),
            "WASMDROP_STATE_DIR": str(base / "state"),
        }
        self.layout = Layout(settings.load(places | variables, {}).settings)
        self._settings = settings.load(places | variables, {}).settings
        open_for_writing(base / "journal.sqlite").close()
        self.taken = TakenVersions(base / "journal.sqlite", pytest.fail)
        self.order: list[str] = []
        self.remembered: list[str] = []
        self.refused: list[str] = []
        self.backlog = Backlog(1)
        self.intake = self._new_intake()

    def _new_intake(self) -> Intake:
        return Intake(
            self._settings,
            self.layout,
            self.taken,
            self.backlog,
            lambda _slot, _reference: None,
            self._emit,
            on_refused=lambda _path, reason: self.refused.append(reason),
        )

    def _emit(self, drop: Drop) -> None:
        if isinstance(drop, InputDrop):
            self.order.append(f"take {drop.slot.key}")
            self.backlog.done()
        elif isinstance(drop, CancelFile):
            self.order.append(f"cancel {drop.slot_key}")
        elif isinstance(drop, DoneInput):
            self.remembered.append(os.path.basename(drop.path))  # noqa: PTH119

    def drop(self, name: str, text: str = "{}") -> Path:
        """Write a file and have it considered."""
        path = self.shared / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        assert self.intake.consider(str(path))
        return path

    def scan(self, name: str) -> None:
        """Consider a file if a scan would."""
        path = self.shared / name
        for one in self.intake.new_among([(str(path), path.lstat())]):
            self.intake.consider(one)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Yield an intake that has taken nothing yet."""
    it = Bench(tmp_path)
    yield it
    it.taken.close()


def test_cancel_file_each_version_cancels_once(bench: Bench) -> None:
    """With any content; a later input is not cancelled."""
    bench.drop("a/input-x.json")
    cancel = bench.drop("a/input-x.json.cancel", "not read")
    bench.scan("a/input-x.json.cancel")
    bench.intake.consider(str(cancel))  # an event that came late
    bench.drop("a/input-x.json", '{"id":"2"}')
    bench.scan("a/input-x.json.cancel")
    bench.drop("a/input-x.json.cancel", "another")
    slot = "a/input-x.json"
    assert bench.order == [f"take {slot}", f"cancel {slot}", f"take {slot}", f"cancel {slot}"]
    assert not bench.refused


def test_cancel_file_of_a_running_job_without_its_input_cancels(bench: Bench) -> None:
    """The input may have been removed, and forgotten, after the job began."""
    path = bench.drop("input.json")
    path.unlink()
    bench.drop("input.json.cancel")
    bench.taken.put(str(path), None)
    bench.drop("input.json.cancel", "another")
    assert bench.order == ["take input.json", "cancel input.json", "cancel input.json"]


def test_cancel_file_older_than_the_input_is_remembered_and_does_nothing(bench: Bench) -> None:
    """The daemon was down when it was dropped; its input came after it."""
    cancel = bench.shared / "input.json.cancel"
    cancel.touch()
    since = cancel.stat().st_ctime_ns
    path = bench.shared / "input.json"
    while not path.exists() or path.stat().st_ctime_ns <= since:
        path.write_text("{}")
    os.utime(path, ns=(1, 1))  # an old file that was moved here
    bench.intake.consider(str(path))
    bench.intake.consider(str(cancel))
    bench.scan("input.json.cancel")
    assert bench.order == ["take input.json"]
    assert bench.remembered == ["input.json.cancel"]


def test_cancel_file_of_an_input_not_taken_yet_cancels_it_later(bench: Bench) -> None:
    """The queue is full. A scan finds room and takes the input, then looks at the cancel file."""
    assert bench.backlog.take()
    bench.drop("input.json")
    bench.drop("input.json.cancel")
    assert bench.order == []
    bench.backlog.done()
    bench.scan("input.json")
    bench.scan("input.json.cancel")
    bench.scan("input.json.cancel")
    assert bench.order == ["take input.json", "cancel input.json"]


def test_cancel_file_of_a_later_version_cancels_the_earlier_and_then_the_later(
    bench: Bench,
) -> None:
    """The queue is full when the later one is dropped."""
    bench.drop("input.json")
    assert bench.backlog.take()
    bench.drop("input.json", '{"id":"2"}')
    bench.drop("input.json.cancel")
    bench.backlog.done()
    bench.scan("input.json")
    bench.scan("input.json.cancel")
    assert bench.order == ["take input.json", "cancel input.json"] * 2


def test_cancel_file_that_is_no_regular_file_is_refused_once(bench: Bench) -> None:
    """It is never opened: a FIFO would block."""
    bench.drop("input.json")
    cancel = bench.shared / "input.json.cancel"
    os.mkfifo(cancel)
    bench.intake.consider(str(cancel))
    bench.intake.consider(str(cancel))
    cancel.unlink()
    cancel.mkdir()
    bench.intake.consider(str(cancel))
    cancel.rmdir()
    cancel.symlink_to("/etc/passwd")
    bench.intake.consider(str(cancel))
    cancel.unlink()
    cancel.symlink_to("nowhere")
    bench.intake.consider(str(cancel))
    assert bench.order == ["take input.json"]
    kinds = ["a FIFO", "a directory", "leads out", "a link to nothing"]
    assert len(bench.refused) == len(kinds)
    for kind, reason in zip(kinds, bench.refused, strict=True):
        assert kind in reason
    cancel.unlink()
    (bench.shared / "real").touch()
    cancel.symlink_to("real")
    bench.intake.consider(str(cancel))
    assert bench.order == ["take input.json", "cancel input.json"]


def test_cancel_file_of_the_root_slot_has_the_name_of_input_path(tmp_path: Path) -> None:
    """With its suffix. Events of such a name matter."""
    bench = Bench(tmp_path, INPUT_PATH=str(tmp_path / "shared" / "job.txt"))
    bench.drop("job.txt")
    bench.drop("job.txt.cancel")
    assert bench.order == ["take job.txt", "cancel job.txt"]
    assert bench.layout.may_matter("job.txt.cancel")
    bench.taken.close()


def test_cancel_file_names_are_not_reported_as_ignored(bench: Bench) -> None:
    """Names without an input are."""
    shared = bench.shared
    assert bench.layout.why_ignored(f"{shared}/input-a.json.cancel") is None
    assert bench.layout.why_ignored(f"{shared}/input_a.json.cancel") is not None
    assert not bench.intake.consider(f"{shared}/input_a.json.cancel")
    assert not bench.intake.consider(f"{shared}/result.json.cancel")
