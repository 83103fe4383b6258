"""Delivery: the order of writing, and whatever may already lie at the names."""

import asyncio
import os
from pathlib import Path

import pytest

from wasmdrop.delivery import Delivery
from wasmdrop.job import Slot
from wasmdrop.report import Package

PACKAGE = Package({".json": b"{}\n", ".txt": b"1\n"}, b'{"marker":1}\n')


def deliver(directory: Path, package: Package = PACKAGE, shared: Path | None = None) -> None:
    """Deliver into ``directory``."""
    seen: list[Package] = []
    delivery = Delivery(str(shared or directory), seen.append)
    slot = Slot("input.json", str(directory / "input.json"), str(directory), "result")

    async def place() -> None:
        await delivery.deliver(slot, package)

    try:
        asyncio.run(place())
    finally:
        delivery.close()
    assert seen == [package]


def content(directory: Path) -> dict[str, bytes]:
    """Return the files of a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def test_a_delivery_puts_all_files_and_leaves_no_other(tmp_path: Path) -> None:
    """Also over an earlier one, whose further files go."""
    (tmp_path / "result.stdout").write_bytes(b"of an earlier job")
    (tmp_path / "result.done").write_bytes(b"old")
    deliver(tmp_path)
    assert content(tmp_path) == {
        "result.json": b"{}\n",
        "result.txt": b"1\n",
        "result.done": b'{"marker":1}\n',
    }


def test_the_old_marker_goes_first_and_the_new_one_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever a result file changes, no marker is there, and that is durable."""
    deliver(tmp_path)
    calls: list[str] = []
    real = {name: getattr(os, name) for name in ("unlink", "fsync", "replace")}

    def kind(fd: int) -> str:
        target = Path(f"/proc/self/fd/{fd}").readlink()
        return "directory" if target == tmp_path else "file"

    def unlink(name: str, *, dir_fd: int) -> None:
        real["unlink"](name, dir_fd=dir_fd)
        calls.append(f"unlink {name}")

    def replace(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        calls.append(f"rename {target}")
        real["replace"](source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    def fsync(fd: int) -> None:
        calls.append(f"sync {kind(fd)}")
        real["fsync"](fd)

    for name, stand_in in (("unlink", unlink), ("fsync", fsync), ("replace", replace)):
        monkeypatch.setattr(os, name, stand_in)
    deliver(tmp_path)
    order = [
        "unlink result.done",
        "sync directory",
        "rename result.json",
        "rename result.txt",
        "sync directory",
        "rename result.done",
        "sync directory",
    ]
    assert [call for call in calls if call != "sync file"] == order
    first_rename = calls.index("rename result.json")
    assert calls[:first_rename].count("sync file") == 3


def test_what_lies_at_the_names_is_replaced_and_never_opened(tmp_path: Path) -> None:
    """A link's target, a FIFO and a directory's content are left as they are."""
    shared, outside = tmp_path / "shared", tmp_path / "outside"
    shared.mkdir()
    outside.write_bytes(b"precious")
    (shared / "result.json").symlink_to(outside)
    os.mkfifo(shared / "result.txt")
    (shared / "result.done").mkdir()
    (shared / "result.done" / "kept").write_bytes(b"kept")
    (shared / "result.stdout").mkdir()
    deliver(shared)
    assert outside.read_bytes() == b"precious"
    assert content(shared)["result.json"] == b"{}\n"
    assert content(shared)["result.txt"] == b"1\n"
    assert content(shared)["result.done"] == b'{"marker":1}\n'
    (aside,) = shared.glob("result.done.aside-*")
    assert (aside / "kept").read_bytes() == b"kept"
    assert not (shared / "result.stdout").exists()


def test_a_slot_that_became_a_link_is_not_followed(tmp_path: Path) -> None:
    """Nothing is written through it."""
    shared, elsewhere = tmp_path / "shared", tmp_path / "elsewhere"
    shared.mkdir()
    elsewhere.mkdir()
    (shared / "slot").symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic"):
        deliver(shared / "slot", shared=shared)
    assert list(elsewhere.iterdir()) == []


def test_a_delivery_that_fails_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no marker: what was there may be half of the old and half of the new."""
    deliver(tmp_path)

    def replace(*_arguments: object, **_more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="No space"):
        deliver(tmp_path)
    assert sorted(content(tmp_path)) == ["result.json", "result.txt"]
