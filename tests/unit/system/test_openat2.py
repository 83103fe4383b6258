"""openat2: paths never leave the root, and only allowed links are followed."""

import errno
import gc
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
    fd, _directory = openat2.open_in(str(root), relative, links)
    try:
        return Path(f"/proc/self/fd/{fd}").read_text()
    finally:
        os.close(fd)


def number_of(call: Callable[[], object]) -> int | None:
    """Return the number of the error that a call raises, and check that it leaves nothing open."""
    gc.collect()  # closes files of earlier tests
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is the point
        call()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    return caught.value.errno


@pytest.mark.parametrize(
    "path", ["../secret", "a/../../secret", "a/b/../../../secret", "/etc/passwd"]
)
def test_path_out_of_the_root_raises_exdev(root: Path, path: str) -> None:
    """However it is written, and by whichever function it is opened."""
    assert number_of(lambda: read(root, path)) == errno.EXDEV
    assert number_of(lambda: openat2.open_directory(str(root), path)) == errno.EXDEV
    assert number_of(lambda: openat2.lstat(str(root), path)) == errno.EXDEV


def test_open_in_returns_status_of_the_directory_with_the_last_name(root: Path) -> None:
    """Also of a path with a link, which is walked."""
    (root / "link").symlink_to("a/b/file")
    for relative, directory in (("a/b/file", root / "a" / "b"), ("link", root)):
        fd, found = openat2.open_in(str(root), relative)
        os.close(fd)
        assert found is not None
        assert os.path.samestat(found, directory.stat())


def test_open_in_that_stays_on_mounts_raises_at_a_mount() -> None:
    """Without a look at the mount, which may hang."""
    status = f"proc/{os.getpid()}/status"
    fd, _directory = openat2.open_in("/", status)
    os.close(fd)
    with openat2.staying_on_mounts():
        assert number_of(lambda: openat2.open_in("/", status)) == errno.EXDEV


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
def test_link_out_of_the_root_raises(root: Path, target: str, number: int) -> None:
    """At the end of the path or before it."""
    (root / "a" / "link").symlink_to(target)
    assert number_of(lambda: read(root, "a/link")) == number
    assert number_of(lambda: read(root, "a/link/below")) == number


def test_link_below_the_root_is_followed_if_allowed(root: Path) -> None:
    """No links, the last one with the links that it leads through, or any."""
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


def test_dangling_link_has_its_own_error(root: Path) -> None:
    """A missing file may appear later, but a dangling link is an error."""
    (root / "dangling").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError) as nothing:
        read(root, "nothing")
    assert not isinstance(nothing.value, DanglingLinkError)
    with pytest.raises(DanglingLinkError):
        read(root, "dangling")


def test_more_than_forty_links_raise_eloop(root: Path) -> None:
    """Forty links in a row are followed, as by Linux."""
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
def test_link_to_file_of_another_user_raises(
    root: Path, link_owner: int, file_owner: int, is_followed: bool
) -> None:
    """Links of root may lead to anyone's files."""
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
