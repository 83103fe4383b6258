"""The parts of watchdog that the daemon uses: private ones, and what its public ones do."""

import ast
import errno
import inspect
import os
import threading
from pathlib import Path

import pytest
from watchdog.observers import inotify_c

import wasmdrop
from tests.support.daemon import wait_until
from wasmdrop.intake.watchdog_adapter import InotifyEvent, InotifyReader

PACKAGE = Path(wasmdrop.__file__).parent


class Callback:
    """A callback that keeps the names of events."""

    def __init__(self) -> None:
        self.names: list[bytes] = []
        self.last = threading.Event()

    def on_event(self, event: InotifyEvent) -> None:
        """Keep the name."""
        self.names.append(event.name)
        if event.name == b"last":
            self.last.set()

    def on_watch_deleted(self, wd: int) -> None:
        """Do nothing."""

    def on_queue_overflow(self) -> None:
        """Do nothing."""


def test_watchdog_private_parts_are_as_the_adapter_uses_them() -> None:
    """Two names: a change in a later version of watchdog is found here first."""
    signature = str(inspect.signature(inotify_c.InotifyFD._read_event_buffer))
    assert signature == "(self, event_buffer_size: 'int') -> 'bytes'"
    reader = inotify_c.InotifyFD()
    try:
        link = Path(f"/proc/self/fd/{reader._inotify_fd}").readlink()
        assert str(link) == "anon_inode:inotify"
    finally:
        reader.start()
        reader.stop()
        reader.join()


def test_watchdog_ignores_eacces_and_the_adapter_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watchdog returns -1 then, as a descriptor of an instance and of a watch."""
    reader = InotifyReader()
    try:
        monkeypatch.setattr(inotify_c, "inotify_add_watch", lambda *_arguments: -1)
        monkeypatch.setattr("ctypes.get_errno", lambda: errno.EACCES)
        with pytest.raises(PermissionError):
            reader.watch_directory(b"/", Callback())
        monkeypatch.setattr(inotify_c, "inotify_init", lambda: -1)
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(PermissionError):
            InotifyReader()
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    finally:
        monkeypatch.undo()
        reader.start()
        reader.stop()
        reader.join()


def test_reader_events_of_files_that_do_not_matter_are_dropped(tmp_path: Path) -> None:
    """Directories and the link of an atomic writer are reported whatever their names."""
    callback = Callback()
    reader = InotifyReader(lambda name: name in {"input.json", "last"})
    reader.start()
    try:
        reader.watch_directory(os.fsencode(tmp_path), callback)
        for name in ("result.json", ".hidden", ".last", "input.json"):
            (tmp_path / name).touch()
        (tmp_path / "directory").mkdir()
        (tmp_path / "..data").symlink_to("directory")
        (tmp_path / "last").touch()
        assert callback.last.wait(60)
    finally:
        reader.stop()
        reader.join()
    assert set(callback.names) == {b"input.json", b"directory", b"..data", b"last"}


def test_reader_watch_file_reports_writes(tmp_path: Path) -> None:
    """An event of a file that is watched itself has no name."""
    callback = Callback()
    path = tmp_path / "file"
    path.touch()
    reader = InotifyReader(lambda _name: False)
    reader.start()
    try:
        reader.watch_file(os.fsencode(path), callback)
        path.write_bytes(b".")
        wait_until(lambda: callback.names, "the event")
        assert set(callback.names) == {b""}
    finally:
        reader.stop()
        reader.join()


def test_adapter_is_the_only_module_that_imports_watchdog() -> None:
    """So that this file tests every use of it."""
    importing = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names.append(node.module)
            if any(name.partition(".")[0] == "watchdog" for name in names):
                importing.add(path.name)
    assert importing == {"watchdog_adapter.py"}


def test_reader_event_behind_many_of_another_owner_is_among_the_first(tmp_path: Path) -> None:
    """All events are returned, those of one directory in order."""
    owners: dict[int, str] = {}
    reader = InotifyReader(owner_of=lambda wd: owners[wd])
    try:
        for owner in ("many", "few"):
            (tmp_path / owner).mkdir()
            wd = reader.watch_directory(os.fsencode(tmp_path / owner), Callback())
            owners[wd] = owner
        names = [f"{number:04}".encode() for number in range(1000)]
        for name in names:
            os.mkfifo(tmp_path / "many" / os.fsdecode(name))  # one event each
        os.mkfifo(tmp_path / "few" / "one")
        first = reader.read_events()
        if b"one" not in [event.name for event in first]:
            first += reader.read_events()  # the kernel's queue was read in two parts
        assert b"one" in [event.name for event in first]
        assert len(first) < 100
        found = [event.name for event in first]
        while len(found) <= len(names):
            found += [event.name for event in reader.read_events()]
        assert [name for name in found if name != b"one"] == names
    finally:
        reader.start()
        reader.stop()
        reader.join()
