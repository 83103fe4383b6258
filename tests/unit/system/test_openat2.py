"""Walking untrusted paths: never out of the root, through no link that is not allowed."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.require import require_root
from wasmdrop.system import openat2
from wasmdrop.system.openat2 import DanglingLinkError, ForeignLinkError, Links

STRANGER = 4001


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Give a directory with files in it, and a secret beside it."""
    path = tmp_path / "root"
    (path / "a" / "b").mkdir(parents=True)
    (path / "a" / "b" / "file").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    return path


def read(root: Path, relative: str, links: Links = Links.ANY) -> str:
    """Return the content of a file."""
    fd = openat2.open_path(str(root), relative, links)
    try:
        return Path(f"/proc/self/fd/{fd}").read_text()
    finally:
        os.close(fd)


def number_of(call: Callable[[], object]) -> int | None:
    """Return the number of the error that a call raises, and check that it leaves nothing open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is the point
        call()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    return caught.value.errno


@pytest.mark.parametrize(
    "path", ["../secret", "a/../../secret", "a/b/../../../secret", "/etc/passwd"]
)
def test_path_out_of_the_root_is_refused(root: Path, path: str) -> None:
    """However it is written, and whoever opens it."""
    assert number_of(lambda: read(root, path)) == errno.EXDEV
    assert number_of(lambda: openat2.open_directory(str(root), path)) == errno.EXDEV
    assert number_of(lambda: openat2.lstat(str(root), path)) == errno.EXDEV


@pytest.mark.parametrize(
    ("target", "number"),
    [
        ("../../secret", errno.EXDEV),
        ("/etc/passwd", errno.EXDEV),
        ("link", errno.ELOOP),
        ("../a/../../secret", errno.EXDEV),
        ("/proc/self/root/etc/passwd", errno.EXDEV),
    ],
)
def test_link_out_of_the_root_is_refused(root: Path, target: str, number: int) -> None:
    """Whether it is the end of the path or on the way."""
    (root / "a" / "link").symlink_to(target)
    assert number_of(lambda: read(root, "a/link")) == number
    assert number_of(lambda: read(root, "a/link/below")) == number


def test_links_inside_are_followed_as_allowed(root: Path) -> None:
    """None, the last with what it leads through, or any."""
    (root / "a" / "data").symlink_to("b")
    (root / "a" / "link").symlink_to("data/file")
    (root / "up").symlink_to("a/../a/link")
    assert read(root, "a/link", Links.LAST) == read(root, "up", Links.LAST) == "inside"
    assert read(root, "a/data/file") == "inside"
    assert number_of(lambda: read(root, "a/data/file", Links.LAST)) == errno.ELOOP
    assert number_of(lambda: read(root, "a/link", Links.NONE)) == errno.ELOOP
    assert number_of(lambda: openat2.open_directory(str(root), "a/data")) == errno.ELOOP
    assert number_of(lambda: openat2.open_directory(str(root), "a/data/x")) == errno.ELOOP
    assert stat.S_ISLNK(openat2.lstat(str(root), "a/link").st_mode)


def test_nothing_is_told_from_a_link_to_nothing(root: Path) -> None:
    """The first is no file yet, the second one that can't be read."""
    (root / "dangling").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError) as nothing:
        read(root, "nothing")
    assert not isinstance(nothing.value, DanglingLinkError)
    with pytest.raises(DanglingLinkError):
        read(root, "dangling")


def test_more_links_than_linux_follows_are_refused(root: Path) -> None:
    """Forty in a row are followed, one more is not."""
    (root / "0").symlink_to("a/b/file")
    for number in range(1, 41):
        (root / str(number)).symlink_to(str(number - 1))
    assert read(root, "39") == "inside"
    assert number_of(lambda: read(root, "40")) == errno.ELOOP


@pytest.mark.parametrize(
    ("link_owner", "file_owner", "is_followed"),
    [
        (STRANGER, STRANGER, True),
        (STRANGER, 0, False),
        (STRANGER, STRANGER + 1, False),
        (0, STRANGER, True),
    ],
)
def test_link_is_followed_to_files_of_its_owner(
    root: Path, link_owner: int, file_owner: int, is_followed: bool
) -> None:
    """Or wherever root's leads."""
    require_root()
    (root / "link").symlink_to("a/b/file")
    os.chown(root / "link", link_owner, -1, follow_symlinks=False)
    os.chown(root / "a" / "b" / "file", file_owner, -1)
    if is_followed:
        assert read(root, "link") == "inside"
        return
    with pytest.raises(ForeignLinkError) as there:
        read(root, "link")
    (root / "a" / "b" / "file").unlink()
    with pytest.raises(ForeignLinkError) as gone:
        read(root, "link")
    assert str(there.value) == str(gone.value)
