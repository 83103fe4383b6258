"""The mount table: which filesystem a path lies on."""

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


def test_every_path_is_on_some_mount(table: MountTable) -> None:
    """Also one that is not there."""
    assert table.of("/proc/self/status").kind == "proc"
    assert table.of("/nothing/here").point == "/"


def test_a_change_of_the_table_is_seen(table: MountTable, tmp_path: Path) -> None:
    """A mount that comes, and one that goes; the name has a character that the kernel escapes."""
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
