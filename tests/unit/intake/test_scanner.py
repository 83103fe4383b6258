"""The rules of the scanner: which paths it reports, in which order, and when."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import wait_until
from wasmdrop import settings
from wasmdrop.intake.layout import Layout
from wasmdrop.intake.scanner import FoundFile, Scanner
from wasmdrop.system.durable_files import TEMPORARY_PREFIX, temporary_name

#: Longer than any test takes: no full scan comes by itself.
NEVER = 3600.0

MAX_DEPTH = 2


class Recorder:
    """A scanner on directories of its own, and what it called its callbacks with."""

    def __init__(self, base: Path, **flags: str) -> None:
        self.shared, self.wasm = base / "shared", base / "wasm"
        self.outside = base / "outside"
        for directory in (self.shared, self.wasm, self.outside):
            directory.mkdir()
        flags |= {"shared_dir": str(self.shared), "wasm_dir": str(self.wasm)}
        flags |= {"max_depth": str(MAX_DEPTH), "state_dir": str(base / "state")}
        self.layout = Layout(settings.load({}, flags).settings)
        self.taken: set[str] = set()
        self.files: list[str] = []
        self.directories: list[str] = []
        self.too_deep: list[str] = []
        self.full_scans = 0
        self.scanner = self._scanner(NEVER)

    def with_period(self, seconds: float) -> Scanner:
        """Make the scanner another one with the same callbacks."""
        self.scanner.stop()
        self.scanner = self._scanner(seconds)
        return self.scanner

    def _scanner(self, seconds: float) -> Scanner:
        return Scanner(
            self.layout,
            lambda path: self.files.append(self.name(path)),
            self._new_among,
            lambda path, _fd: self.directories.append(self.name(path)),
            seconds,
            MAX_DEPTH,
            self._on_scan,
            lambda path: self.too_deep.append(self.name(path)),
        )

    def _new_among(self, found: list[FoundFile]) -> list[str]:
        return [path for path, _status in found if self.name(path) not in self.taken]

    def _on_scan(self) -> None:
        self.full_scans += 1

    def name(self, path: str) -> str:
        """Return a path below the directory of both directories."""
        return os.path.relpath(path, self.shared.parent)

    def make(self, *names: str) -> None:
        """Create files, with their directories."""
        for name in names:
            path = self.shared.parent / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def found(self) -> set[str]:
        """Return the reported files that exist: two paths are always reported."""
        return {name for name in self.files if os.path.lexists(self.shared.parent / name)}


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    """Yield a scanner that has not started."""
    recorder = Recorder(tmp_path)
    yield recorder
    recorder.scanner.stop()


def test_first_scan_reports_inputs_and_modules(recorder: Recorder) -> None:
    """In the shared directory, its subdirectories and the wasm directory."""
    names = {"shared/input.json", "shared/a/b/input-x.json", "shared/a/module.wasm"}
    names |= {"wasm/fib.wasm", "wasm/group/other.wasm"}
    recorder.make(*names)
    recorder.scanner.start()
    assert recorder.found() == names


def test_first_scan_reports_inputs_before_modules(recorder: Recorder) -> None:
    """An input that was dropped with its module then finds it."""
    recorder.make("wasm/fib.wasm", "wasm/module.wasm", "shared/input.json")
    recorder.make("shared/module.wasm", "shared/input-z.json")
    recorder.scanner.start()
    found = recorder.found()
    order = list(dict.fromkeys(name for name in recorder.files if name in found))
    assert set(order[:2]) == {"shared/input.json", "shared/input-z.json"}
    assert order[2] == "shared/module.wasm"
    assert set(order[3:]) == {"wasm/fib.wasm", "wasm/module.wasm"}


@pytest.mark.parametrize(
    "name",
    [
        *(
            "shared/result.json",
            "shared/.input.json",
            "shared/input.json.tmp",
            "shared/input.json~",
        ),
        *("shared/.hidden/input.json", "shared/result.output/input.json", "wasm/README.md"),
        f"shared/{'d/' * (MAX_DEPTH + 1)}input.json",
    ],
)
def test_first_scan_other_file_is_not_reported(recorder: Recorder, name: str) -> None:
    """Results, unfinished and hidden files, output files, and files that are too deep."""
    recorder.make(name)
    recorder.scanner.start()
    assert recorder.found() == set()


def test_first_scan_taken_file_is_not_reported(recorder: Recorder) -> None:
    """A scan opens no file that was taken before."""
    recorder.make("shared/input.json", "shared/input-new.json", "shared/input-old.json")
    recorder.taken = {"shared/input-old.json"}
    recorder.scanner.start()
    assert recorder.found() == {"shared/input.json", "shared/input-new.json"}


def test_first_scan_reports_root_input_and_default_module_elsewhere(tmp_path: Path) -> None:
    """``INPUT_PATH`` and ``WASM_PATH`` may be outside of both directories."""
    outside = tmp_path / "outside"
    recorder = Recorder(
        tmp_path, input_path=str(outside / "in.json"), wasm_path=str(outside / "calc")
    )
    recorder.scanner.start()
    recorder.scanner.stop()
    assert recorder.files == ["outside/in.json", "outside/calc"]


def test_first_scan_calls_on_directory_for_each_directory(recorder: Recorder) -> None:
    """So that each is watched; not for ignored ones, nor for those that are too deep."""
    recorder.make("shared/a/b/c/d/input.json", "shared/.git/x", "wasm/group/fib.wasm")
    recorder.scanner.start()
    assert sorted(recorder.directories) == [
        "shared",
        "shared/a",
        "shared/a/b",
        "wasm",
        "wasm/group",
    ]
    assert recorder.too_deep == ["shared/a/b/c"]


def test_full_scan_finds_file_without_event(recorder: Recorder) -> None:
    """It does not add watches: new directories are reported by events, or rechecked."""
    recorder.scanner.start()
    recorder.directories.clear()
    recorder.make("shared/new/input.json")
    recorder.scanner.scan_soon()
    wait_until(lambda: "shared/new/input.json" in recorder.files, "the file")
    assert recorder.full_scans == 1
    assert recorder.directories == []


def test_full_scan_is_repeated_after_each_period(recorder: Recorder) -> None:
    """The first one counts as a scan, but calls no ``on_scan``."""
    scanner = recorder.with_period(0.01)
    scanner.start()
    wait_until(lambda: recorder.full_scans >= 3, "three full scans")
    scanner.stop()
    assert scanner.scans in {recorder.full_scans, recorder.full_scans + 1}


def test_scan_every_shortens_period_and_never_lengthens_it(recorder: Recorder) -> None:
    """A directory that can't be watched makes the scanner poll."""
    recorder.scanner.start()
    recorder.scanner.scan_every(0.01)
    recorder.scanner.scan_every(NEVER)
    assert recorder.scanner.period_seconds == 0.01
    wait_until(lambda: recorder.full_scans >= 2, "two full scans")


def test_recheck_file_is_reported(recorder: Recorder) -> None:
    """Also one that was taken: the caller has a reason to look again."""
    recorder.make("shared/input.json")
    recorder.scanner.start()
    recorder.files.clear()
    recorder.taken = {"shared/input.json"}
    recorder.scanner.recheck(str(recorder.shared / "input.json"), 0.0)
    wait_until(lambda: recorder.files, "the file")
    assert recorder.files == ["shared/input.json"]


def test_recheck_directory_is_scanned_and_watched(recorder: Recorder) -> None:
    """With what is below it, as after the swap of a volume."""
    recorder.scanner.start()
    recorder.directories.clear()
    recorder.make("shared/new/deep/input.json", "shared/other/input.json")
    recorder.scanner.recheck(str(recorder.shared / "new"), 0.0)
    wait_until(lambda: "shared/new/deep/input.json" in recorder.files, "the file")
    assert "shared/other/input.json" not in recorder.files
    assert recorder.directories == ["shared/new", "shared/new/deep"]


def test_recheck_directory_too_deep_is_not_scanned(recorder: Recorder) -> None:
    """Its depth counts from the shared directory."""
    recorder.scanner.start()
    recorder.make("shared/a/b/c/input.json")
    recorder.scanner.recheck(str(recorder.shared / "a/b/c"), 0.0)
    wait_until(lambda: recorder.too_deep, "the directory")
    assert recorder.too_deep == ["shared/a/b/c"]
    assert "shared/a/b/c/input.json" not in recorder.files


def test_stop_ends_reports(recorder: Recorder) -> None:
    """Nothing that was scheduled before is reported later."""
    recorder.scanner.start()
    recorder.scanner.stop()
    recorder.files.clear()
    recorder.scanner.recheck(str(recorder.shared / "input.json"), 0.0)
    recorder.scanner.scan_soon()
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("scan ")]
    assert names == []
    assert recorder.files == []


def test_first_scan_removes_leftovers_of_an_earlier_daemon_only(recorder: Recorder) -> None:
    """This daemon's own temporary files, and directories of that name, stay."""
    stale = f"shared/a/{TEMPORARY_PREFIX}0-0-0"
    own, directory = f"shared/a/{temporary_name()}", f"shared/{TEMPORARY_PREFIX}directory"
    recorder.make(stale, own, f"{directory}/file")
    recorder.scanner.start()
    base = recorder.shared.parent
    assert not (base / stale).exists()
    assert (base / own).exists()
    assert (base / directory / "file").exists()


def test_later_scan_removes_no_leftovers(recorder: Recorder) -> None:
    """They could be those of another daemon's slot that was moved here."""
    recorder.scanner.start()
    stale = f"shared/a/{TEMPORARY_PREFIX}0-0-0"
    recorder.make(stale, "shared/a/input.json")
    recorder.scanner.scan_soon()
    wait_until(lambda: "shared/a/input.json" in recorder.files, "the file")
    assert (recorder.shared.parent / stale).exists()
