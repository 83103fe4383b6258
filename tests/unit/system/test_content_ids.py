"""Content ids of files and directories on a disk."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wasmdrop.system.content_ids import LOOK_FLAGS, ContentIdError, content_link
from wasmdrop.unixfs.dag_pb import Link
from wasmdrop.unixfs.directories import tree_link
from wasmdrop.unixfs.files import raw_link
from wasmdrop.unixfs.profiles import UNIXFS_V1_2025

MIB = 1 << 20


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, LOOK_FLAGS)
    try:
        yield fd
    finally:
        os.close(fd)


def _link_of(path: Path, on_read: Callable[[int], None] = lambda _count: None) -> Link:
    with _opened(path) as fd:
        return content_link(fd, on_read=on_read)


def _raw(data: bytes) -> Link:
    return raw_link(hashlib.sha256(data).hexdigest(), len(data))


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a Path would be read lazily


def test_content_link_of_a_file_is_that_of_its_content(tmp_path: Path) -> None:
    """Neither the name nor the mode has an effect."""
    file = tmp_path / "any name"
    file.write_bytes(b"content")
    file.chmod(0o600)
    assert _link_of(file) == _raw(b"content")


def test_content_link_of_a_directory_is_that_of_its_tree(tmp_path: Path) -> None:
    """With hidden files, empty directories, and names that are not UTF-8."""
    files = {"b": b"1", "a/.hidden": b"2", "a/b/c/d": b"3", "z\udcff": b"4", "漢": b""}
    for path, data in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    (tmp_path / "a/empty").mkdir()
    expected = tree_link({path: _raw(data) for path, data in files.items()}, ["a/empty"])
    before = _open_descriptors()
    assert _link_of(tmp_path) == expected
    assert _open_descriptors() == before


def test_content_link_of_a_deep_tree_needs_no_deep_stack(tmp_path: Path) -> None:
    """A level costs a descriptor, and no call of a function."""
    depth = 200
    path = tmp_path
    for _ in range(depth):
        path /= "d"
        path.mkdir()
    assert _link_of(tmp_path) == tree_link({}, ["/".join("d" * depth)])


def _make_link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("make", "kind"),
    [(_make_link, "a link"), (os.mkfifo, "a FIFO")],
    ids=["link", "fifo"],
)
@pytest.mark.parametrize("name", ["special", "sub/special", ""])
def test_content_link_with_a_link_or_special_file_is_refused_with_its_path(
    tmp_path: Path, make: Callable[[Path], None], kind: str, name: str
) -> None:
    """It is neither followed nor opened; a FIFO would block."""
    (tmp_path / "tree/sub").mkdir(parents=True)
    start = tmp_path / "tree" if name else tmp_path / "special"
    make(tmp_path / "tree" / name if name else start)
    before = _open_descriptors()
    with pytest.raises(ContentIdError, match=f"is {kind}") as caught:
        _link_of(start)
    assert caught.value.path == name
    assert _open_descriptors() == before


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"X")
    os.utime(path, ns=(0, 0))


def _shorten(path: Path) -> None:
    os.truncate(path, MIB)


@pytest.mark.parametrize("change", [_append, _rewrite, _shorten])
def test_content_link_of_a_file_that_changes_meanwhile_is_refused(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """No CID is given of bytes that never were the file's content."""
    file = tmp_path / "file"
    file.write_bytes(bytes(2 * MIB))
    with pytest.raises(ContentIdError, match="changed while it was read"):
        _link_of(file, lambda _count: change(file))


def test_content_link_of_a_directory_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    """A name that appears after the others were listed is not left out silently."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/file").write_bytes(b"content")
    os.utime(tmp_path / "sub", ns=(0, 0))

    with pytest.raises(ContentIdError, match="changed while it was read") as caught:
        _link_of(tmp_path, lambda _count: (tmp_path / "sub/new").touch())
    assert caught.value.path == "sub"


def test_content_link_of_a_directory_whose_entry_disappears_is_refused(tmp_path: Path) -> None:
    """The directory has changed, and is named, whatever time of modification it shows."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())

    os.utime(tmp_path, ns=(0, 0))

    def remove_other(_count: int) -> None:
        for name in ("a", "b"):
            (tmp_path / name).unlink(missing_ok=True)
        os.utime(tmp_path, ns=(0, 0))

    with pytest.raises(ContentIdError, match="changed while it was read") as caught:
        _link_of(tmp_path, remove_other)
    assert caught.value.path == ""


def test_content_link_reports_each_byte_that_it_reads(tmp_path: Path) -> None:
    """Progress is shown of it."""
    (tmp_path / "a").write_bytes(bytes(3 * MIB + 1))
    (tmp_path / "b").write_bytes(b"12")
    counts: list[int] = []
    _link_of(tmp_path, counts.append)
    assert sum(counts) == 3 * MIB + 3


def test_content_link_of_a_large_directory_with_names_of_one_hash_is_refused(
    tmp_path: Path,
) -> None:
    """Two names with the same MurmurHash3 can't be sharded."""
    names = [
        bytes.fromhex(digits)
        for digits in (
            "1e0ec7c72421cecec8618a33c8e643898397d227a3603d62a876f9f601063372",
            "1ea6e9d4977d9b02e8ad834661bddfc62b56762e850d9580a876f9f601063372",
        )
    ]
    for name in names:
        (tmp_path / os.fsdecode(name)).touch()
    always = dataclasses.replace(UNIXFS_V1_2025, shard_above_bytes=0)
    with _opened(tmp_path) as fd, pytest.raises(ContentIdError, match="same hash"):
        content_link(fd, always)
