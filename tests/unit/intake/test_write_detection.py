"""The rules by which a file counts as complete."""

import os
import time
from pathlib import Path

import pytest

from wasmdrop.intake.layout import RootedPath
from wasmdrop.intake.write_detection import UnclosedFile, WriteDetector

SETTLE_SECONDS = 2.0
QUIET_SECONDS = 60.0


class Bench:
    """A detector with a clock and a watcher under control, and one file."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        self.path = directory / "input.json"
        self.file = RootedPath(str(directory), self.path.name)
        self.unclosed: UnclosedFile | None = None
        self.rechecks: list[float] = []
        self.is_polling = False
        self.detector = WriteDetector(
            SETTLE_SECONDS,
            QUIET_SECONDS,
            lambda _path: self.unclosed,
            lambda _path, seconds: self.rechecks.append(seconds),
            lambda: self.is_polling,
        )

    def will_close(self) -> bool:
        """Return whether the detector expects the file to be closed."""
        return self.detector.will_close(str(self.path), self.file)

    def has_settled(self, version: bytes = b"1") -> bool:
        """Return whether the detector takes an invalid file for complete."""
        return self.detector.has_settled(str(self.path), self.file, version)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return a detector for one file that no process has open."""
    bench = Bench(tmp_path, monkeypatch)
    bench.path.write_text("{")
    return bench


def test_will_close_without_record_is_false(bench: Bench) -> None:
    """The watcher saw it closed, or knows nothing of it."""
    assert not bench.will_close()


def test_will_close_written_file_is_true_until_it_is_quiet(bench: Bench) -> None:
    """A writer that hangs, or a close that was lost, delays it no longer."""
    bench.unclosed = UnclosedFile(bench.now, is_written=True)
    bench.now += QUIET_SECONDS - 1
    assert bench.will_close()
    bench.now += 1
    assert not bench.will_close()


def test_will_close_created_file_with_content_waits_for_the_settle_time(bench: Bench) -> None:
    """It may have been linked into place, and then no close comes."""
    bench.unclosed = UnclosedFile(bench.now, is_written=False)
    bench.now += 0.5
    assert bench.will_close()
    assert bench.rechecks == [SETTLE_SECONDS - 0.5]
    bench.now += SETTLE_SECONDS
    assert not bench.will_close()


def test_will_close_created_empty_file_is_true(bench: Bench) -> None:
    """Its writer has not begun."""
    bench.path.write_text("")
    bench.unclosed = UnclosedFile(bench.now, is_written=False)
    bench.now += QUIET_SECONDS - 1
    assert bench.will_close()


def test_will_close_created_link_is_false(bench: Bench) -> None:
    """No close comes for a hard link or a symbolic link."""
    bench.unclosed = UnclosedFile(bench.now, is_written=False)
    os.link(bench.path, bench.path.with_name("other"))
    assert not bench.will_close()
    bench.path.unlink()
    bench.path.symlink_to("other")
    assert not bench.will_close()


def test_has_settled_unchanged_for_the_settle_time_is_true(bench: Bench) -> None:
    """Until then it is rechecked; afterwards its time starts again."""
    assert not bench.has_settled()
    bench.now += 0.5
    assert not bench.has_settled()
    assert bench.rechecks == [SETTLE_SECONDS, SETTLE_SECONDS - 0.5]
    bench.now += SETTLE_SECONDS
    assert bench.has_settled()
    assert not bench.has_settled()


def test_has_settled_changed_version_restarts_the_time(bench: Bench) -> None:
    """A file that keeps changing is not judged."""
    bench.has_settled(b"1")
    bench.now += SETTLE_SECONDS
    assert not bench.has_settled(b"2")
    bench.now += SETTLE_SECONDS
    assert bench.has_settled(b"2")


def test_has_settled_forgotten_file_restarts_the_time(bench: Bench) -> None:
    """Another file may have the path later."""
    bench.has_settled()
    bench.now += SETTLE_SECONDS
    bench.detector.forget(str(bench.path))
    assert not bench.has_settled()


def test_has_settled_with_a_writer_waits_until_it_is_quiet(bench: Bench) -> None:
    """The watcher knows the writer."""
    bench.unclosed = UnclosedFile(bench.now, is_written=True)
    bench.has_settled()
    bench.now += QUIET_SECONDS - 1
    assert not bench.has_settled()
    assert bench.rechecks == [SETTLE_SECONDS, SETTLE_SECONDS]
    bench.now += 1
    assert bench.has_settled()


def test_has_settled_with_an_open_file_waits(bench: Bench) -> None:
    """The kernel knows the writer: it refuses a lease."""
    bench.has_settled()
    bench.now += SETTLE_SECONDS
    with bench.path.open("a"):
        assert not bench.has_settled()
    assert bench.has_settled()


def test_may_have_writer_recent_change_counts_only_while_polling(bench: Bench) -> None:
    """A poll can't see a writer between two writes."""
    path, mtime_ns = str(bench.path), bench.path.stat().st_mtime_ns
    assert not bench.detector.may_have_writer(path, bench.file, mtime_ns, 3600.0)
    bench.is_polling = True
    assert bench.detector.may_have_writer(path, bench.file, mtime_ns, 3600.0)
    assert not bench.detector.may_have_writer(path, bench.file, mtime_ns - 10**13, 3600.0)
