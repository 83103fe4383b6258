"""The version of the package: that of the tag, and an honest one wherever there is none."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.require import require_root, require_tools

ROOT: Final = Path(__file__).parents[2]
with (ROOT / "pyproject.toml").open("rb") as _file:
    #: The version without tags.
    FALLBACK: Final = str(tomllib.load(_file)["tool"]["setuptools_scm"]["fallback_version"])


def git(tree: Path, *arguments: str) -> None:
    """Run git as somebody."""
    somebody = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    subprocess.run(["git", *somebody, *arguments], cwd=tree, check=True, capture_output=True)


def version_of(tree: Path, **variables: str) -> str:
    """Return the version that a build in a directory has."""
    clean = {name: value for name, value in os.environ.items() if "SCM" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "setuptools_scm"],
        cwd=tree,
        env=clean | variables,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Give a repository with one commit and no tag."""
    require_tools("git")
    path = tmp_path / "clone"
    path.mkdir()
    for name in ("pyproject.toml", ".git_archival.txt", ".gitattributes"):
        shutil.copy(ROOT / name, path)
    git(path, "init", "--quiet")
    git(path, "add", "--all")
    git(path, "commit", "--quiet", "--message=first")
    return path


def archive(clone: Path) -> Path:
    """Return the unpacked archive that a forge offers for download."""
    target = clone.parent / "archive"
    target.mkdir()
    git(clone, "archive", "--format=tar", "--output=../archive.tar", "HEAD")
    shutil.unpack_archive(clone.parent / "archive.tar", target, filter="data")
    return target


def test_version_of_a_tag_is_that_of_the_tag(clone: Path) -> None:
    """In a clone, and in an archive of it."""
    git(clone, "tag", "v3.2.1")
    assert version_of(clone) == "3.2.1"
    assert version_of(archive(clone)) == "3.2.1"


def test_version_of_changed_sources_is_no_release(clone: Path) -> None:
    """Neither after a commit nor with files that are not committed."""
    git(clone, "tag", "v3.2.1")
    (clone / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes() + b"\n")
    assert version_of(clone).startswith("3.2.2.dev0+g")
    git(clone, "commit", "--all", "--quiet", "--message=second")
    assert version_of(clone).startswith("3.2.2.dev1+g")


def test_version_without_tags_follows_the_newest_release(clone: Path) -> None:
    """With the commit in a clone; an archive has none."""
    base = FALLBACK.removesuffix("0")
    assert re.fullmatch(rf"{re.escape(base)}1\+g[0-9a-f]+", version_of(clone))
    assert version_of(archive(clone)) == FALLBACK


def test_version_without_a_repository_is_given_or_no_release(clone: Path) -> None:
    """An image is built from such a copy, with the version in the environment."""
    shutil.rmtree(clone / ".git")
    assert version_of(clone) == FALLBACK
    assert version_of(clone, SETUPTOOLS_SCM_PRETEND_VERSION_FOR_WASMDROP="3.2.1") == "3.2.1"


def test_version_without_git_is_no_release(clone: Path, tmp_path: Path) -> None:
    """The build does not fail."""
    git(clone, "tag", "v3.2.1")
    assert version_of(clone, PATH=str(tmp_path)) == FALLBACK


def test_version_of_another_users_clone_is_that_of_its_tag(clone: Path) -> None:
    """`sudo make install-systemd` builds as root in the clone of a user."""
    require_root()
    git(clone, "tag", "v3.2.1")
    for path in (clone, *clone.rglob("*")):
        os.chown(path, 65534, 65534)
    settings: dict[str, Any] = {"HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
    assert version_of(clone, **settings) == "3.2.1"


def test_version_of_a_source_distribution_is_its_own(clone: Path) -> None:
    """It has no repository, but its metadata."""
    shutil.rmtree(clone / ".git")
    (clone / ".git_archival.txt").unlink()
    (clone / "PKG-INFO").write_text("Metadata-Version: 2.4\nName: wasmdrop\nVersion: 3.2.1\n")
    assert version_of(clone) == "3.2.1"
