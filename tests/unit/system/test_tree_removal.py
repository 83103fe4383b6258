"""Removal of trees of any depth and size, in small steps, and of nothing beside them."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.require import require_root
from wasmdrop.system.tree_removal import (
    is_daemon_directory,
    make_daemon_directory,
    removal,
    remove_tree,
)


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[int]:
    """Give the open directory ``tmp_path``."""
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_removal_of_deep_and_wide_tree_takes_small_steps(tmp_path: Path, parent: int) -> None:
    """Each step removes at most some hundred entries."""
    tree = tmp_path / "tree"
    deep = tree / "/".join("d" * 100)
    deep.mkdir(parents=True)
    for number in range(3000):
        (deep / str(number)).touch()
    left = 3000
    steps = 0
    for _ in removal(parent, "tree"):
        steps += 1
        now = sum(len(files) for _path, _directories, files in os.walk(tree))
        assert left - now <= 256
        left = now
    assert not tree.exists()
    assert steps > 3000 // 256


def test_removal_of_unreadable_directory_restores_its_mode(
    tmp_path: Path, parent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never the mode of a directory that a link in its place leads to."""
    closed = tmp_path / "tree" / "closed"
    closed.mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    victim.chmod(0o644)
    real = os.open

    def refuse_once(path: Any, flags: int, *args: Any, **more: Any) -> int:
        if path == "closed" and not closed.is_symlink():
            closed.rmdir()
            closed.symlink_to(victim)
            raise PermissionError(path)
        return real(path, flags, *args, **more)

    monkeypatch.setattr(os, "open", refuse_once)
    with pytest.raises(OSError):  # noqa: PT011 - of what kind does not matter
        remove_tree(parent, "tree")
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644


def test_remove_tree_only_own_keeps_directories_of_others(tmp_path: Path, parent: int) -> None:
    """A directory that another user made is not recognized."""
    require_root()
    os.close(make_daemon_directory(parent, "own"))
    assert is_daemon_directory((tmp_path / "own").stat())
    for name, owner, mode in (("foreign", 4001, 0o1700), ("plain", 0, 0o700)):
        (tmp_path / name / "inner").mkdir(parents=True)
        os.chown(tmp_path / name, owner, -1)
        (tmp_path / name).chmod(mode)
        with pytest.raises(PermissionError, match="did not make"):
            remove_tree(parent, name, only_own=True)
        assert (tmp_path / name / "inner").is_dir()
    remove_tree(parent, "own", only_own=True)
    assert not (tmp_path / "own").exists()
