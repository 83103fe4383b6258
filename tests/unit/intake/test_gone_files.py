"""Gone files: which removals end jobs, after how long, and which do not."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wasmdrop import settings
from wasmdrop.intake import gone_files
from wasmdrop.intake.backlog import Backlog
from wasmdrop.intake.drops import Drop, GoneFile
from wasmdrop.intake.intake import Intake
from wasmdrop.intake.layout import Layout
from wasmdrop.intake.taken_versions import TakenVersions
from wasmdrop.jobs.journal.database import open_for_writing
from wasmdrop.system.mount_table import MountTable

SETTLE_SECONDS = 0.5


class Bench:
    """An intake, its clock, and the paths that it wants to look at again."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shared = base / "shared"
        (base / "wasm").mkdir()
        self.shared.mkdir()
        places = {
            "WASMDROP_WASM_DIR": str(base / "wasm"),
            "WASMDROP_SHARED_DIR": str(self.shared),
            "WASMDROP_STATE_DIR": str(base / "state"),
            "WASMDROP_SETTLE_SEC": str(SETTLE_SECONDS),
        }
        loaded = settings.load(places, {}).settings
        self.journal = open_for_writing(base / "journal.sqlite")
        self.taken = TakenVersions(base / "journal.sqlite", pytest.fail)
        self.gone: list[str] = []
        self.rechecks: list[tuple[str, float]] = []
        self.now = 1000.0
        monkeypatch.setattr(gone_files.time, "monotonic", lambda: self.now)  # type: ignore[attr-defined]
        self.intake = Intake(
            loaded,
            Layout(loaded),
            self.taken,
            Backlog(1000),
            lambda _slot, _reference: None,
            self._emit,
            lambda path, seconds: self.rechecks.append((path, seconds)),
        )
        self.files = self.intake.gone_files

    def _emit(self, drop: Drop) -> None:
        if isinstance(drop, GoneFile):
            assert drop.slot_key is not None
            self.gone.append(drop.slot_key)

    def take(self, name: str) -> Path:
        """Drop an input and have it taken."""
        path = self.shared / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
        self.intake.consider(str(path))
        assert self.taken.get(str(path)) is not None
        return path

    def note(self, path: Path, *, is_directory: bool = False) -> bool:
        """Report a removal, as the watcher does."""
        return self.files.note(str(path), is_directory=is_directory)

    def look(self, path: Path, *, after: float = SETTLE_SECONDS) -> list[str]:
        """Look at a path as the scanner does; return the slots whose inputs are gone so far."""
        self.now += after
        self.files.look(str(path))
        return self.gone


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Yield an intake that has taken nothing yet."""
    it = Bench(tmp_path, monkeypatch)
    yield it
    it.taken.close()
    it.journal.close()


def test_note_removed_input_is_gone_after_the_settle_time(bench: Bench) -> None:
    """Once; and its version is forgotten."""
    path = bench.take("input-a.json")
    path.unlink()
    assert bench.note(path)
    assert bench.rechecks == [(str(path), SETTLE_SECONDS)]
    assert bench.look(path, after=0.25) == []
    assert bench.rechecks[1:] == [(str(path), 0.25)]
    assert bench.look(path, after=0.3) == ["input-a.json"]
    assert bench.taken.get(str(path)) is None
    assert bench.look(path) == ["input-a.json"]


def test_note_again_starts_the_settle_time_again(bench: Bench) -> None:
    """An editor that saves twice: the look must not fall into its second replacement."""
    path = bench.take("input-a.json")
    aside = path.with_name("aside")
    path.rename(aside)
    bench.note(path)
    aside.rename(path)
    bench.now += 0.4
    path.rename(aside)
    bench.note(path)
    assert bench.look(path, after=0.2) == []
    aside.rename(path)
    assert bench.look(path) == []
    assert bench.taken.get(str(path)) is not None


def test_note_replaced_input_is_not_gone(bench: Bench) -> None:
    """The new version is a drop of its own, taken or not."""
    path = bench.take("input-a.json")
    path.unlink()
    bench.note(path)
    path.write_text('{"entry":"x"}')
    assert bench.look(path) == []


def test_note_file_that_was_never_taken_is_ignored(bench: Bench) -> None:
    """A ready file, a module that no job used, an input that came and went."""
    for name in ("input-a.json", "input-a.json.ready", "module.wasm"):
        bench.note(bench.shared / name)
        assert bench.look(bench.shared / name) == []


@pytest.mark.parametrize("change", ["removed", "renamed", "replaced"])
def test_note_directory_its_inputs_are_gone(bench: Bench, change: str) -> None:
    """At any depth; inputs of directories with similar names are not."""
    names = ["a/input.json", "a/b/c/input-deep.json"]
    for name in (*names, "ab/input.json", "a.b/input.json", "a/stays/input.json"):
        bench.take(name)
    directory = bench.shared / "a"
    aside = bench.shared / "aside"
    directory.rename(aside)
    if change == "removed":
        aside.rename(bench.shared.parent / "elsewhere")
    bench.note(directory, is_directory=True)
    if change == "replaced":
        (directory / "stays").mkdir(parents=True)
        (directory / "stays" / "input.json").write_text("{}")
    wanted = [*names, "a/stays/input.json"] if change != "replaced" else names
    assert sorted(bench.look(directory)) == sorted(wanted)


def test_note_held_input_is_left_alone(bench: Bench) -> None:
    """Retention removes it. It is looked at again, in case it was put back and removed then."""
    path = bench.take("input-a.json")
    assert bench.intake.hold(str(path))
    path.unlink()
    bench.note(path)
    assert bench.look(path) == []
    assert len(bench.rechecks) == 2
    bench.intake.release(str(path), is_gone=True)
    assert bench.look(path) == []


def test_note_past_the_limit_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of all files finds the others."""
    monkeypatch.setattr(gone_files, "_MAX_NOTED", 2)
    paths = [bench.take(f"input-{number}.json") for number in range(3)]
    for path in paths:
        path.unlink()
    assert [bench.note(path) for path in paths] == [True, True, False]
    assert bench.note(paths[0])
    found = bench.files.find()
    assert sorted(path for path, _version in found) == sorted(map(str, paths))
    bench.files.forget(found)
    assert sorted(bench.gone) == [path.name for path in paths]


def test_find_more_than_the_limit_returns_the_others_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded."""
    monkeypatch.setattr(gone_files, "MAX_FOUND", 1)
    bench.journal.execute("BEGIN")
    for number in range(600):
        path = bench.take(f"input-{number}.json")
        row = (os.fsencode(path), bench.taken.get(str(path)))
        bench.journal.execute("INSERT INTO taken VALUES (?, ?)", row)
        path.unlink()
    bench.journal.execute("COMMIT")
    bench.taken._recent.clear()
    sizes = []
    while found := bench.files.find():
        sizes.append(len(found))
        bench.files.forget(found)
    assert sum(sizes) == 600
    assert len(sizes) > 1
    assert len(set(bench.gone)) == 600


def test_forget_file_that_is_back_is_not_gone(bench: Bench) -> None:
    """An editor was replacing it when it was found."""
    path = bench.take("input-a.json")
    aside = path.rename(path.with_name("aside"))
    found = bench.files.find()
    assert [one for one, _version in found] == [str(path)]
    aside.rename(path)
    bench.files.forget(found)
    assert bench.gone == []


def test_forget_version_that_was_replaced_since_leaves_the_later_one(bench: Bench) -> None:
    """The removal of that one has a settle time of its own."""
    path = bench.take("input-a.json")
    path.rename(path.with_name("aside"))
    found = bench.files.find()
    bench.take("input-a.json").unlink()
    bench.files.forget(found)
    assert bench.gone == []


@pytest.mark.parametrize("back", [True, False])
def test_find_file_below_a_mount_point_that_is_gone_is_not_gone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    """The directory below the mount point may have the same device number, as with a bind mount."""
    path = bench.take("volume/deep/input.json")
    other = bench.take("volume-2/input.json")
    points: set[str] = {"/", str(bench.shared / "volume")}

    class Table(MountTable):
        def points(self) -> frozenset[str]:
            return frozenset(points)

    monkeypatch.setattr(gone_files, "MountTable", Table)
    bench.files.find()
    points.remove(str(bench.shared / "volume"))
    for one in (path, other):
        one.unlink()
    assert [one for one, _version in bench.files.find()] == [str(other)]
    if back:
        points.add(str(bench.shared / "volume"))
    found = sorted(one for one, _version in bench.files.find())
    assert found == sorted(map(str, [path, other] if back else [other]))
