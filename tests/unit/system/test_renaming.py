"""Renames that replace nothing, with and without renameat2(2)."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wasmdrop.system import libc, renaming


@pytest.fixture(params=[True, False], ids=["renameat2", "link"])
def directory(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[int]:
    """Give an open directory on a filesystem that has, or lacks, renameat2(2)."""

    def fail(*_args: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    if not request.param:
        monkeypatch.setattr(libc, "syscall", fail)
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_rename_to_new_name_moves_the_file(tmp_path: Path, directory: int) -> None:
    """The old name is gone."""
    (tmp_path / "old").write_text("content")
    renaming.rename_to_new("old", directory, "new", directory)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"new": "content"}


def test_rename_to_existing_name_changes_nothing(tmp_path: Path, directory: int) -> None:
    """Unlike rename(2)."""
    (tmp_path / "old").write_text("old")
    (tmp_path / "new").write_text("new")
    with pytest.raises(FileExistsError):
        renaming.rename_to_new("old", directory, "new", directory)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "old": "old",
        "new": "new",
    }


def test_rename_of_missing_file_is_an_error(directory: int) -> None:
    """As rename(2) reports it."""
    with pytest.raises(FileNotFoundError):
        renaming.rename_to_new("old", directory, "new", directory)
