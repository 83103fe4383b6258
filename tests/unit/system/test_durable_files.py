"""Durable files: complete or absent, and synced before they are visible."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wasmdrop.system.durable_files import (
    is_stale_temporary,
    replace_file,
    temporary_name,
    write_durably,
)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    """Yield the open directory ``tmp_path``."""
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_write_durably_syncs_file_then_renames_then_syncs_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Any other order may leave an empty or missing file after a power cut."""
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(fd: int) -> None:
        calls.append("sync " + Path(f"/proc/self/fd/{fd}").readlink().name[:9])
        real_fsync(fd)

    def replace(*args: Any, **kwargs: Any) -> None:
        calls.append("rename")
        real_replace(*args, **kwargs)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    with write_durably(tmp_path / "a") as file:
        file.write(b"content")
        assert os.listdir(tmp_path) != ["a"]  # noqa: PTH208 - names only
    assert calls == ["sync .wasmdrop", "rename", f"sync {tmp_path.name[:9]}"]
    assert (tmp_path / "a").read_bytes() == b"content"


def test_write_durably_that_raises_keeps_the_old_file(tmp_path: Path) -> None:
    """And leaves no temporary file."""
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(UnicodeEncodeError), write_durably(path) as file:
        file.write("\udcff".encode())
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {"a": b"old"}


def test_replace_file_over_existing_temporary_name_fails(tmp_path: Path, directory: int) -> None:
    """A link that another user put there is not followed, and stays."""
    (tmp_path / "work").symlink_to("elsewhere")
    with pytest.raises(FileExistsError), replace_file(directory, "a", "work"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["work"]


def test_is_stale_temporary_of_own_name_is_false() -> None:
    """Only names of earlier daemons are stale."""
    name = temporary_name()
    assert name != temporary_name()
    assert not is_stale_temporary(name)
    assert is_stale_temporary(".wasmdrop-0-0")
    assert not is_stale_temporary("input.json")
