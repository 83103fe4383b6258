"""Intake forgets versions of files that no longer exist, and no others."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.require import require_root
from wasmdrop import settings
from wasmdrop.intake.backlog import Backlog
from wasmdrop.intake.drops import Drop, GoneFile, InputDrop
from wasmdrop.intake.intake import Intake
from wasmdrop.intake.layout import Layout
from wasmdrop.intake.taken_versions import TakenVersions
from wasmdrop.jobs.journal.database import open_for_writing


class Memory:
    """An intake on its own directories, and the drops that it emitted."""

    def __init__(self, base: Path) -> None:
        self.shared = base / "shared"
        (base / "wasm").mkdir()
        self.shared.mkdir()
        places = {
            "WASMDROP_WASM_DIR": str(base / "wasm"),
            "WASMDROP_SHARED_DIR": str(self.shared),
            "WASMDROP_STATE_DIR": str(base / "state"),
        }
        loaded = settings.load(places, {}).settings
        self.journal = open_for_writing(base / "journal.sqlite")
        self.taken = TakenVersions(base / "journal.sqlite", pytest.fail)
        self.emitted: list[str] = []
        self.gone: list[GoneFile] = []
        self.rechecked: list[str] = []
        self.intake = Intake(
            loaded,
            Layout(loaded),
            self.taken,
            Backlog(100),
            lambda _slot, _reference: None,
            self._emit,
            lambda path, _seconds: self.rechecked.append(path),
        )

    def _emit(self, drop: Drop) -> None:
        if isinstance(drop, GoneFile):
            self.gone.append(drop)
            return
        self.emitted.append(drop.slot.key if isinstance(drop, InputDrop) else drop.path)

    def take(self, name: str) -> Path:
        """Drop an input and have it taken."""
        path = self.shared / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
        self.intake.consider(str(path))
        assert self.emitted[-1] == name
        return path

    def forget(self) -> list[str]:
        """Forget what is gone; return the names."""
        self.gone.clear()
        files = self.intake.gone_files
        files.forget(files.find())
        return sorted(os.path.relpath(drop.path, self.shared) for drop in self.gone)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    """Yield an intake that has taken nothing yet."""
    it = Memory(tmp_path)
    yield it
    it.taken.close()
    it.journal.close()


def test_gone_files_only_missing_files_are_forgotten(memory: Memory) -> None:
    """Also if their directory is gone, or is a file now. A dangling link exists."""
    for name in ("input-stays.json", "input-gone.json", "a/b/input.json", "c/input.json"):
        memory.take(name)
    (memory.shared / "input-gone.json").unlink()
    (memory.shared / "a/b/input.json").unlink()
    (memory.shared / "a/b").rmdir()
    (memory.shared / "a").rmdir()
    (memory.shared / "a").write_text("")
    (memory.shared / "c/input.json").unlink()
    (memory.shared / "c/input.json").symlink_to("nowhere")
    assert memory.forget() == ["a/b/input.json", "input-gone.json"]
    paths = [path for page in memory.taken.pages() for path, _version in page]
    names = sorted(os.path.relpath(path, memory.shared) for path in paths)
    assert names == ["c/input.json", "input-stays.json"]
    assert memory.forget() == []


def test_gone_files_file_that_returns_is_a_new_drop(memory: Memory) -> None:
    """A file that was renamed back meanwhile is not."""
    path = memory.take("input.json")
    aside = path.rename(memory.shared / "aside")
    aside.rename(path)
    memory.intake.consider(str(path))
    path.rename(aside)
    assert memory.forget() == ["input.json"]
    aside.rename(path)
    memory.intake.consider(str(path))
    assert memory.emitted == ["input.json", "input.json"]


def test_gone_files_files_of_an_unmounted_volume_are_remembered(memory: Memory) -> None:
    """They must not run again when the volume returns."""
    require_root()
    volume = memory.shared / "volume"
    volume.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(volume)]
    subprocess.run(mount, check=True)
    memory.take("volume/deep/input.json")
    gone = memory.take("volume/input-gone.json")
    gone.unlink()
    assert memory.forget() == ["volume/input-gone.json"]
    subprocess.run(["umount", str(volume)], check=True)
    assert memory.forget() == []


def test_held_input_is_not_looked_at_until_it_is_released(memory: Memory) -> None:
    """A drop that comes meanwhile is considered then."""
    path = memory.take("input.json")
    assert memory.intake.hold(str(path))
    path.write_text('{"args": []}')
    memory.intake.consider(str(path))
    assert memory.emitted == ["input.json"]
    memory.intake.release(str(path), is_gone=False)
    assert memory.rechecked == [str(path)]
    memory.intake.consider(str(path))
    assert memory.emitted == ["input.json"] * 2
    assert memory.intake.hold(str(path))
    memory.intake.release(str(path), is_gone=False)
    assert memory.rechecked == [str(path)]


def test_held_input_that_went_is_forgotten_and_no_removal(memory: Memory) -> None:
    """Neither during the hold nor after it."""
    path = memory.take("input.json")
    version = memory.intake.taken_version(str(path))
    assert version is not None
    assert memory.intake.hold(str(path))
    assert not memory.intake.hold(str(path))
    path.unlink()
    assert memory.forget() == []
    memory.intake.release(str(path), is_gone=True)
    assert memory.intake.taken_version(str(path)) is None
    assert memory.forget() == []
