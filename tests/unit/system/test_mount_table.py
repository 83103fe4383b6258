"""MountTable: the filesystem of a path."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.require import require_root
from wasmdrop.system.mount_table import MountTable


@pytest.fixture
def table() -> Iterator[MountTable]:
    """Give the table of this process."""
    it = MountTable()
    yield it
    it.close()


def test_mount_table_of_any_path_finds_a_mount(table: MountTable) -> None:
    """Also for a path that does not exist."""
    assert table.of("/proc/self/status").kind == "proc"
    assert table.of("/nothing/here").point == "/"


def test_mount_table_after_mount_and_umount_is_current(table: MountTable, tmp_path: Path) -> None:
    """The name has a character that the kernel escapes."""
    require_root()
    point = tmp_path / "a place"
    point.mkdir()
    before = table.of(f"{point}/below")
    assert before.point != str(point)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(point)], check=True)
    try:
        found = table.of(f"{point}/below")
        assert (found.point, found.kind) == (str(point), "tmpfs")
        assert table.of(f"{point}-beside") == before
    finally:
        subprocess.run(["umount", str(point)], check=True)
    assert table.of(f"{point}/below") == before
