"""File metadata of deterministic jobs, through WASI preview 1 and WASI 0.2.

The guest is a second instance of the relay, linked like a job's module or component. The files are
created and changed from outside.
"""

import os
import struct
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from wasmtime import Memory, Store, WasiConfig, component, wat2wasm
from wasmtime.component import Record, Variant

from wasmdrop.protocol.outcome import DETERMINISTIC_CLOCK_NS
from wasmdrop.sandbox.guest.deterministic import wasi_preview1
from wasmdrop.sandbox.guest.deterministic.relayed_files import WasiError
from wasmdrop.sandbox.guest.deterministic.wasi_preview2_relay import compile_relay
from wasmdrop.sandbox.guest.engine import Engine
from wasmdrop.sandbox.wire import EngineOptions

FUEL: Final = 10**15
BILLION: Final = 10**9
STEP_NS: Final = 10**6
ROOT_FD: Final = 3
#: Addresses in the guest's memory.
PATH, OTHER_PATH, ANSWER = 1 << 16, 1 << 17, 0


class Stat(NamedTuple):
    """A file's metadata as the guest sees it."""

    number: int
    links: int
    size: int
    accessed_ns: int
    modified_ns: int
    changed_ns: int


class Guest:
    """A store of a deterministic job, whose directory is ``root``."""

    is_component = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self.engine = Engine(EngineOptions(deterministic=True))
        self.engine.use_deterministic_files(of_component=self.is_component)
        self.store = Store(self.engine.wasmtime_engine)
        self.store.set_fuel(FUEL)
        config = WasiConfig()
        config.preopen_dir(str(root), "/")
        self.store.set_wasi(config)
        assert self.engine.files is not None
        self.engine.files.enter(self.store)
        self.engine.files.begin()

    def stat(self, path: str) -> Stat:
        """Return a file's metadata; do not follow a link."""
        raise NotImplementedError

    def names(self) -> list[str]:
        """List the directory."""
        raise NotImplementedError

    def set_times(self, path: str, accessed_ns: int | None, modified_ns: int | str) -> None:
        """Set times of a file; the second may be ``now``."""
        raise NotImplementedError

    def remove(self, path: str) -> None:
        """Remove a file, or an empty directory."""
        raise NotImplementedError


class ModuleGuest(Guest):
    """A module."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        relay = wasi_preview1.compile_relay(self.engine.wasmtime_engine)
        self.exports = self.engine.linker.instantiate(self.store, relay).exports(self.store)
        memory = self.exports["memory"]
        assert isinstance(memory, Memory)
        self.memory = memory

    def call(self, name: str, *args: int) -> int:
        """Call one of the functions; return its error number."""
        function: Any = self.exports[name]
        error: int = function(self.store, *args)
        return error

    def path(self, path: str, at: int = PATH) -> tuple[int, int]:
        """Write a path to memory; return its address and size."""
        return at, self.memory.write(self.store, path.encode(), at)

    def read(self, at: int, size: int) -> bytes:
        """Read from memory."""
        return bytes(self.memory.read(self.store, at, at + size))

    def stat(self, path: str) -> Stat:
        """Return a file's metadata; do not follow a link."""
        assert self.call("path_filestat_get", ROOT_FD, 0, *self.path(path), ANSWER) == 0
        _device, number, _kind, *others = struct.unpack("<QQB7xQQQQQ", self.read(ANSWER, 64))
        return Stat(number, *others)

    def names(self) -> list[str]:
        """List the directory in parts of a few entries."""
        names, cookie, used, room = [], 0, 200, 200
        while used == room:
            assert self.call("fd_readdir", ROOT_FD, ANSWER, room, cookie, 1024) == 0
            (used,) = struct.unpack("<I", self.read(1024, 4))
            data = self.read(ANSWER, used)
            while len(data) >= 24:
                following, _number, size = struct.unpack("<QQI4x", data[:24])
                if len(data) < 24 + size:
                    break
                names.append(data[24 : 24 + size].decode())
                data, cookie = data[24 + size :], following
        assert names[:2] == [".", ".."]
        return names[2:]

    def set_times(self, path: str, accessed_ns: int | None, modified_ns: int | str) -> None:
        """Set times of a file; the second may be ``now``."""
        flags = (accessed_ns is not None) | (8 if modified_ns == "now" else 4)
        times = (accessed_ns or 0, 0 if isinstance(modified_ns, str) else modified_ns)
        where = (ROOT_FD, 0, *self.path(path))
        assert self.call("path_filestat_set_times", *where, *times, flags) == 0

    def remove(self, path: str) -> None:
        """Remove a file, or an empty directory."""
        name = "path_remove_directory" if (self.root / path).is_dir() else "path_unlink_file"
        assert self.call(name, ROOT_FD, *self.path(path)) == 0

    def rename(self, path: str, new_path: str) -> None:
        """Rename a file."""
        old, new = self.path(path), self.path(new_path, OTHER_PATH)
        assert self.call("path_rename", ROOT_FD, *old, ROOT_FD, *new) == 0


#: Returns the component's directories.
PREOPENS: Final = """(component
  (import "wasi:filesystem/types@0.2.0" (instance $types
    (export "descriptor" (type (sub resource)))))
  (alias export $types "descriptor" (type $descriptor))
  (import "wasi:filesystem/preopens@0.2.0" (instance $preopens
    (alias outer 1 $descriptor (type $d))
    (export "descriptor" (type $mine (eq $d)))
    (export "get-directories" (func (result (list (tuple (own $mine) string)))))))
  (core module $room (memory (export "memory") 1) (global $next (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (global.get $next)
      (global.set $next (i32.add (global.get $next) (local.get 3)))))
  (core instance $room (instantiate $room))
  (alias core export $room "memory" (core memory $memory))
  (alias core export $room "realloc" (core func $realloc))
  (core func $get (canon lower (func $preopens "get-directories")
    (memory $memory) (realloc $realloc)))
  (core module $main (import "" "get" (func $get (param i32)))
    (func (export "get") (result i32) (call $get (i32.const 64)) (i32.const 64)))
  (core instance $main (instantiate $main (with "" (instance (export "get" (func $get))))))
  (func (export "get-directories") (result (list (tuple (own $descriptor) string)))
    (canon lift (core func $main "get") (memory $memory))))"""


class ComponentGuest(Guest):
    """A component."""

    is_component = True

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        engine, linker = self.engine.wasmtime_engine, self.engine.component_linker
        self.relay = linker.instantiate(self.store, compile_relay(engine))
        text = bytes(wat2wasm(PREOPENS))
        preopens = linker.instantiate(self.store, component.Component(engine, text))
        ((self.descriptor, _name),) = self.function(preopens, "get-directories")(self.store)

    def function(self, instance: component.Instance, name: str) -> component.Func:
        """Return an exported function."""
        index = instance.get_export_index(self.store, name)
        assert index is not None
        function = instance.get_func(self.store, index)
        assert function is not None
        return function

    def call(self, name: str, *args: Any) -> Any:
        """Call one of the methods."""
        return self.function(self.relay, name)(self.store, self.descriptor, *args)

    def stat(self, path: str) -> Stat:
        """Return a file's metadata; do not follow a link."""
        stat = self.call("stat-at", set(), path)
        number = self.call("metadata-hash-at", set(), path).lower
        times = (
            getattr(stat, f"{name}-timestamp")
            for name in ("data-access", "data-modification", "status-change")
        )
        moments = (time.seconds * BILLION + time.nanoseconds for time in times)
        return Stat(number, getattr(stat, "link-count"), stat.size, *moments)

    def names(self) -> list[str]:
        """List the directory."""
        stream = self.call("read-directory")
        next_entry = self.function(self.relay, "read-directory-entry")
        names = []
        while (entry := next_entry(self.store, stream)) is not None:
            names.append(entry.name)
        stream.drop(self.store)
        return names

    def set_times(self, path: str, accessed_ns: int | None, modified_ns: int | str) -> None:
        """Set times of a file; the second may be ``now``."""
        given = []
        for time in (accessed_ns, modified_ns):
            if isinstance(time, int):
                moment: Any = Record()
                moment.seconds, moment.nanoseconds = divmod(time, BILLION)
                given.append(Variant("timestamp", moment))
            else:
                given.append(Variant(time or "no-change"))
        assert self.call("set-times-at", set(), path, *given) is None

    def remove(self, path: str) -> None:
        """Remove a file, or an empty directory."""
        is_directory = (self.root / path).is_dir()
        name = "remove-directory-at" if is_directory else "unlink-file-at"
        assert self.call(name, path) is None


@pytest.fixture(params=[ModuleGuest, ComponentGuest])
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Guest:
    """Return a guest of each kind, with an input file and a granted file."""
    for name, time_ns in (("input", DETERMINISTIC_CLOCK_NS), ("granted", 1)):
        (tmp_path / name).write_bytes(b"content")
        os.utime(tmp_path / name, ns=(time_ns, time_ns))
    kind: type[Guest] = request.param
    return kind(tmp_path)


def make(guest: Guest, *names: str) -> None:
    """Create files, or write new content of the same size."""
    for name in names:
        (guest.root / name).write_bytes(b"x")


def test_directory_is_listed_in_order_of_names(guest: Guest) -> None:
    """Whatever the order on the disk, and in however many parts it is read."""
    names = [f"{number * 7 % 50:02}-file" for number in range(50)]
    make(guest, *names)
    assert guest.names() == sorted([*names, "input", "granted"])


def test_listing_continues_when_files_are_removed(tmp_path: Path) -> None:
    """So that a program can remove files as it lists them."""
    guest = ModuleGuest(tmp_path)
    make(guest, "a", "b", "c")
    one_entry = 25
    seen = []
    for cookie in range(5):
        assert guest.call("fd_readdir", ROOT_FD, ANSWER, one_entry, cookie, 1024) == 0
        seen.append(guest.read(ANSWER + 24, 1))
        if cookie > 1:
            guest.remove(seen[-1].decode())
    assert seen == [b".", b".", b"a", b"b", b"c"]
    assert guest.names() == []


def test_files_are_numbered_in_order_of_lookups(guest: Guest) -> None:
    """A file has one number, under all its names."""
    make(guest, "z", "a")
    (guest.root / "link").hardlink_to(guest.root / "z")
    assert [guest.stat(name).number for name in ("z", "a", ".", "link", "a")] == [1, 2, 3, 1, 2]
    assert guest.stat("link").links == 2


def test_number_of_removed_file_is_not_reused(guest: Guest) -> None:
    """Some disks, such as ext4, reuse their numbers."""
    seen = set()
    for _ in range(20):
        make(guest, "file")
        (guest.root / "directory").mkdir()
        seen |= {guest.stat("file").number, guest.stat("directory").number}
        guest.remove("file")
        guest.remove("directory")
    assert seen == set(range(1, 41))


def test_file_renamed_over_another_keeps_its_number(tmp_path: Path) -> None:
    """The number of the replaced file is not reused."""
    guest = ModuleGuest(tmp_path)
    make(guest, "target")
    numbers = [guest.stat("target").number]
    for _ in range(20):
        make(guest, "new")
        before = guest.stat("new").number
        guest.rename("new", "target")
        assert guest.stat("target").number == before
        numbers.append(before)
    assert numbers == list(range(1, 22))


def test_file_that_loses_one_of_two_names_keeps_its_number(guest: Guest) -> None:
    """It still exists."""
    make(guest, "file")
    (guest.root / "link").hardlink_to(guest.root / "file")
    number = guest.stat("file").number
    guest.remove("file")
    assert guest.stat("link").number == number


def test_times_of_existing_file_are_start_of_clock(guest: Guest) -> None:
    """Of an input file, and of a granted file whatever its time on the disk."""
    for name in ("input", "granted"):
        assert guest.stat(name)[3:] == (DETERMINISTIC_CLOCK_NS,) * 3


def test_times_of_changed_file_are_those_of_next_lookup(guest: Guest) -> None:
    """Each change with a lookup after it has a later time; nothing else advances the clock."""
    make(guest, "file")
    times = []
    for _ in range(20):
        times.append(guest.stat("file").modified_ns)
        assert guest.stat("file")[3:] == (times[-1],) * 3
        make(guest, "file")
    assert times == [DETERMINISTIC_CLOCK_NS + STEP_NS * n for n in range(1, 21)]


def test_changes_are_detected_if_disk_times_can_not_be_set(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a job with grants, and in a directory of another user."""

    def refuse(*_args: object) -> None:
        raise WasiError("not-permitted")

    monkeypatch.setattr(guest.engine.files, "_set_times_on_disk", refuse)
    times = []
    for number in range(20):
        make(guest, f"{number}")
        times.append(guest.stat(".").modified_ns)
    assert times == [DETERMINISTIC_CLOCK_NS + STEP_NS * n for n in range(1, 21)]


def test_times_set_by_program_stay_until_change(guest: Guest) -> None:
    """Also if the file is read."""
    make(guest, "file")
    guest.set_times("file", 5 * BILLION + 1, 7 * BILLION + 2)
    assert guest.stat("file")[3:] == (5 * BILLION + 1, 7 * BILLION + 2, 7 * BILLION + 2)
    (guest.root / "file").read_bytes()
    guest.set_times("file", None, 4_000_000_000 * BILLION)
    assert guest.stat("file")[3:5] == (5 * BILLION + 1, 4_000_000_000 * BILLION)
    make(guest, "file")
    assert guest.stat("file").accessed_ns == guest.stat("file").modified_ns
    assert guest.stat("file").modified_ns < DETERMINISTIC_CLOCK_NS + BILLION


def test_setting_time_to_now_uses_clock_of_job(guest: Guest) -> None:
    """Not the time of day."""
    make(guest, "file")
    first = guest.stat("file").modified_ns
    guest.set_times("file", None, "now")
    assert guest.stat("file").modified_ns == first + STEP_NS


def test_directory_has_no_size_and_one_link(guest: Guest) -> None:
    """Both depend on the disk."""
    (guest.root / "directory").mkdir()
    assert guest.stat("directory")[1:3] == (1, 0)
    assert guest.stat(".")[1:3] == (1, 0)


def test_lookup_of_changed_file_uses_no_more_fuel(guest: Guest) -> None:
    """It does more work than other lookups."""
    make(guest, "file")
    used = []
    for _ in range(3):
        before = guest.store.get_fuel()
        guest.stat("file")
        used.append(before - guest.store.get_fuel())
    assert len(set(used)) == 1
    assert 0 < used[0] < 1000


def test_invalid_arguments_of_module_return_errors(tmp_path: Path) -> None:
    """Addresses, paths and descriptors: the same errors as from WASI's own functions."""
    guest = ModuleGuest(tmp_path)
    beyond, fault, bad_descriptor, too_long = guest.memory.data_len(guest.store), 21, 8, 37
    path = guest.path(".")
    assert guest.call("fd_filestat_get", ROOT_FD, beyond - 63) == fault
    assert guest.call("fd_filestat_get", ROOT_FD, -1) == fault
    assert guest.call("path_filestat_get", ROOT_FD, 0, beyond, 1, ANSWER) == fault
    assert guest.call("path_filestat_get", ROOT_FD, 0, 0, 1 << 17, ANSWER) == too_long
    assert guest.call("path_rename", ROOT_FD, *path, ROOT_FD, beyond, 1) == fault
    assert guest.call("fd_readdir", ROOT_FD, beyond, 100, 0, ANSWER) == fault
    assert guest.call("fd_readdir", ROOT_FD, ANSWER, 100, 0, beyond) == fault
    assert guest.call("fd_filestat_get", 77, ANSWER) == bad_descriptor
    assert guest.call("fd_readdir", 77, ANSWER, 100, 0, 1024) == bad_descriptor


def test_failed_calls_of_component_return_errors(tmp_path: Path) -> None:
    """By name, and the component can continue."""
    guest = ComponentGuest(tmp_path)
    assert guest.call("stat-at", set(), "absent") == "no-entry"
    assert guest.call("metadata-hash-at", set(), "absent") == "no-entry"
    assert guest.call("unlink-file-at", "absent") == "no-entry"
    assert guest.call("stat-at", set(), "../absent") == "not-permitted"
    assert guest.call("stat-at", set(), "x" * 70_000) == "name-too-long"
    assert guest.call("stat").type == "directory"
