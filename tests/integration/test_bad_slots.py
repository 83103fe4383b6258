"""Slots that can't take their results: hostile names, removed and read-only directories."""

import contextlib
import ctypes
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import GOOD, with_fib
from tests.support.require import require_root

pytestmark = pytest.mark.usefixtures("no_fault")

ANSWER: Final = bytes(wat2wasm('(module (func (export "run") (result i32) (i32.const 42)))'))

#: A job that waits until the test drops its module.
WAITING: Final = '{"module":"late"}'

#: A stop that takes longer waits for something that never happens.
PROMPT_SECONDS: Final = 30.0


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one running daemon for all cases; no case may change it."""
    it = _daemon(tmp_path_factory.mktemp("bad-slots"))
    with it.running():
        yield it


def _daemon(base: Path, **variables: str) -> Daemon:
    return with_fib(
        base,
        **{
            "WASMDROP_SETTLE_SEC": "0.1",
            "WASMDROP_DRAIN_SEC": "60",
            "WASMDROP_MODULE_WAIT_SEC": "60",
            **variables,
        },
    )


#: For jobs that are to run although their input is gone: it is not noticed before they begin.
LONG_SETTLE: Final = {"WASMDROP_SETTLE_SEC": "3600"}


def others_run(daemon: Daemon) -> None:
    """Check that other slots still run."""
    daemon.submit("input-good.json", {"entry": "fib", "args": [12], "id": os.urandom(8).hex()})
    assert daemon.result("input-good.json")["results"] == [144]


# A result's name is taken

SUFFIXES: Final = (".json", ".txt", ".done", ".stdout", ".stderr", ".receipt")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "kind", ["link", "dangling", "hard-link", "empty-directory", "directory", "fifo", "closed"]
)
def test_result_name_that_is_taken_is_replaced_and_never_opened(
    daemon: Daemon, kind: str, suffix: str
) -> None:
    """The target of a link stays untouched, and no directory's content is deleted."""
    name = f"{kind}{suffix}/input.json"
    place = daemon.result_path(name, suffix)
    place.parent.mkdir()
    outside = daemon.shared.parent / f"outside-{kind}{suffix}"
    outside.write_text("precious")
    if kind == "link":
        place.symlink_to(outside)
    elif kind == "dangling":
        place.symlink_to(daemon.shared.parent / "never-made")
    elif kind == "hard-link":
        place.hardlink_to(outside)
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "closed":
        place.write_text("old")
        place.chmod(0)
    else:
        place.mkdir()
        if kind == "directory":
            (place / "precious").write_text("precious")
    drop(daemon.shared / name, GOOD)
    wait_until(lambda: place_holds_marker(daemon, name), f"the marker of {name}")
    assert daemon.result(name)["results"] == [144]
    assert daemon.result_path(name, ".txt").read_text().splitlines()[-1] == "144"
    assert outside.read_text() == "precious"
    assert not (daemon.shared.parent / "never-made").exists()
    if kind == "directory":
        kept = [path.read_text() for path in place.parent.glob("*/precious")]
        assert kept == ["precious"]
    if suffix in {".stdout", ".stderr", ".receipt"}:
        assert not place.is_symlink()
        assert not place.exists()
    others_run(daemon)


def place_holds_marker(daemon: Daemon, name: str) -> bool:
    """Return whether the marker exists, and not the file that had its name."""
    path = daemon.result_path(name, ".done")
    return path.is_file() and path.read_bytes().startswith(b"{")


# The slot's directory is removed or replaced


def drop_waiting(daemon: Daemon, name: str) -> None:
    """Drop a job that waits for its module, and wait until its input was taken."""
    drop(daemon.shared / name, WAITING)
    others_run(daemon)  # inputs are taken in the order of their drops


def release(daemon: Daemon) -> None:
    """Let the waiting job run and be delivered."""
    drop(daemon.wasm / "late.wasm", ANSWER)


def told_of(daemon: Daemon, name: str) -> list[dict[str, Any]]:
    """Return the log's warnings and errors that name the slot."""
    return [
        event
        for event in daemon.events()
        if event.get("slot") == name and event["level"] in {"warning", "error"}
    ]


def test_slot_removed_before_its_result_does_no_harm(tmp_path: Path) -> None:
    """The daemon logs it and does not create the slot again; others go on, and a stop is prompt."""
    daemon = _daemon(tmp_path, **LONG_SETTLE)
    with daemon.running():
        drop_waiting(daemon, "gone/input.json")
        shutil.rmtree(daemon.shared / "gone")
        release(daemon)
        wait_until(lambda: told_of(daemon, "gone/input.json"), "a word in the log on the slot")
        others_run(daemon)
        assert not (daemon.shared / "gone").exists()
        began = time.monotonic()
    assert time.monotonic() - began < PROMPT_SECONDS


def test_slot_that_comes_back_gets_its_result(tmp_path: Path) -> None:
    """A directory may be renamed for a moment, or its mount may go and come."""
    daemon = _daemon(tmp_path, **LONG_SETTLE)
    with daemon.running():
        drop_waiting(daemon, "away/input.json")
        (daemon.shared / "away").rename(tmp_path / "elsewhere")
        release(daemon)
        wait_until(lambda: told_of(daemon, "away/input.json"), "the failed delivery")
        (tmp_path / "elsewhere").rename(daemon.shared / "away")
        wait_until(lambda: daemon.marker("away/input.json"), "the marker")
        assert daemon.result("away/input.json")["results"] == [42]


@pytest.mark.parametrize("target", ["outside", "shared/inside"])
def test_slot_replaced_by_a_link_is_not_written_through(tmp_path: Path, target: str) -> None:
    """Neither out of the shared directory nor into another slot; the log says what is wrong."""
    daemon = _daemon(tmp_path, **LONG_SETTLE)
    victim = tmp_path / target
    victim.mkdir(parents=True)
    (victim / "result.json").write_text("precious")
    with daemon.running():
        drop_waiting(daemon, "swapped/input.json")
        shutil.rmtree(daemon.shared / "swapped")
        (daemon.shared / "swapped").symlink_to(victim)
        release(daemon)
        wait_until(lambda: told_of(daemon, "swapped/input.json"), "a word in the log on the slot")
        others_run(daemon)
        assert [path.name for path in victim.iterdir()] == ["result.json"]
        assert (victim / "result.json").read_text() == "precious"
        began = time.monotonic()
    assert time.monotonic() - began < PROMPT_SECONDS


def test_subdirectory_that_is_a_link_has_no_slots(daemon: Daemon) -> None:
    """Links to directories are not followed, wherever they lead."""
    (daemon.shared.parent / "foreign").mkdir()
    (daemon.shared / "linked").symlink_to(daemon.shared.parent / "foreign")
    drop(daemon.shared / "linked" / "input.json", GOOD)
    others_run(daemon)
    foreign = daemon.shared.parent / "foreign"
    assert [path.name for path in foreign.iterdir()] == ["input.json"]


# The slot can't be written to

_MS_RDONLY, _MS_REMOUNT = 0x1, 0x20  # mount(2)
_MNT_DETACH: Final = 2
_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: Path, kind: str, flags: int) -> None:
    if _libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, b"size=1m") != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


@contextlib.contextmanager
def _mounted(target: Path) -> Iterator[None]:
    """Mount a small file system for a block."""
    require_root()
    target.mkdir(parents=True)
    _mount("tmpfs", target, "tmpfs", 0)
    try:
        yield
    finally:
        # Detached: an open file must not keep the test from cleaning up.
        assert _libc.umount2(os.fsencode(target), _MNT_DETACH) == 0


@pytest.mark.parametrize("way", ["read-only", "full"])
def test_result_waits_for_storage_and_is_delivered_when_it_is_back(
    tmp_path: Path, way: str
) -> None:
    """The daemon says what it waits for, others go on, and nothing is lost."""
    with _mounted(tmp_path / "shared" / "mounted"):
        daemon = _daemon(tmp_path)
        mounted = daemon.shared / "mounted"
        with daemon.running():
            drop_waiting(daemon, "mounted/input.json")
            if way == "read-only":
                _mount("tmpfs", mounted, "tmpfs", _MS_REMOUNT | _MS_RDONLY)
            else:
                _fill(mounted / ".filler")
            release(daemon)
            wait_until(lambda: told_of(daemon, "mounted/input.json"), "the failed delivery")
            others_run(daemon)
            if way == "read-only":
                _mount("tmpfs", mounted, "tmpfs", _MS_REMOUNT)
            else:
                (mounted / ".filler").unlink()
            wait_until(lambda: daemon.marker("mounted/input.json"), "the delivery")
            assert daemon.result("mounted/input.json")["results"] == [42]
            assert not list(mounted.glob(".wasmdrop-*"))


def _fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("ab", 0) as file:
        while True:
            file.write(bytes(1024))


def test_result_that_waits_survives_a_kill(tmp_path: Path) -> None:
    """The next daemon delivers it without rerunning the job."""
    with _mounted(tmp_path / "shared" / "mounted"):
        daemon = _daemon(tmp_path)
        mounted = daemon.shared / "mounted"
        daemon.start()
        drop_waiting(daemon, "mounted/input.json")
        _mount("tmpfs", mounted, "tmpfs", _MS_REMOUNT | _MS_RDONLY)
        release(daemon)
        wait_until(lambda: daemon.events("delivery-postponed"), "the wait")
        daemon.kill()
        _mount("tmpfs", mounted, "tmpfs", _MS_REMOUNT)
        with daemon.running():
            marker = wait_until(lambda: daemon.marker("mounted/input.json"), "the delivery")
            assert marker["attempt"] == 1
            assert daemon.result("mounted/input.json")["results"] == [42]
