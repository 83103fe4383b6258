"""Reading a secret file: what is on the way to it, and who may read and change it."""

import grp
import os
import pwd
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.support.require import require_root
from tests.support.users import ALICE, BOB
from wasmdrop.system.secret_files import NotSecretError, read_secret

MAX_BYTES: Final = 1000
CONTENT: Final = b"a secret"

#: Tags of an access control list (acl(5)).
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NO_ID: Final = 0xFFFFFFFF


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Give a file that only this user may read, in a directory of its own."""
    path = tmp_path / "keys" / "secret"
    path.parent.mkdir(mode=0o700)
    path.write_bytes(CONTENT)
    path.chmod(0o600)
    return path


def reason(path: Path) -> str:
    """Return why the file is refused, and the advice."""
    with pytest.raises(NotSecretError) as refused:
        read_secret(path, MAX_BYTES)
    assert refused.value.advice
    return str(refused.value)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_secret_of_its_owner_alone_is_read(secret: Path, mode: int) -> None:
    """The way ends in the file and begins at the root."""
    secret.chmod(mode)
    content, way = read_secret(secret, MAX_BYTES)
    assert content == CONTENT
    assert (way[0].path, way[-1].path) == ("/", str(secret))
    assert os.path.samestat(way[-1].status, secret.stat())


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o606])
def test_secret_that_any_user_may_use_is_refused(secret: Path, mode: int) -> None:
    """The reason gives the mode."""
    secret.chmod(mode)
    assert f"{mode:04o}" in reason(secret)


def test_secret_that_its_group_may_change_is_refused(secret: Path) -> None:
    """Whatever the group is."""
    secret.chmod(0o620)
    assert f"group {secret.stat().st_gid} can change it" in reason(secret)


def with_members(
    monkeypatch: pytest.MonkeyPatch, gid: int, *, groups: list[int], **members: int
) -> None:
    """Have the user database say that a group has these members."""
    users = [
        pwd.struct_passwd((name, "x", uid, uid, "", "/", "/bin/sh"))
        for name, uid in {"root": 0, "me": os.geteuid(), **members}.items()
        if not (name == "root" and gid == 0)
    ]
    found = grp.struct_group(("some", "x", gid, ["me", *members]))
    monkeypatch.setattr(os, "getegid", lambda: 77)
    monkeypatch.setattr(os, "getgroups", lambda: groups)
    monkeypatch.setattr(pwd, "getpwall", lambda: users)
    monkeypatch.setattr(grp, "getgrgid", lambda _gid: found)


def test_secret_of_a_group_without_other_members_is_read(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a pod of Kubernetes, with or without a name for the group."""
    secret.chmod(0o440)
    gid = secret.stat().st_gid
    with_members(monkeypatch, gid, groups=[gid])
    assert read_secret(secret, MAX_BYTES)[0] == CONTENT

    def nameless(_gid: int) -> grp.struct_group:
        raise KeyError

    monkeypatch.setattr(grp, "getgrgid", nameless)
    assert read_secret(secret, MAX_BYTES)[0] == CONTENT


def test_secret_of_a_group_with_another_member_is_refused(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The members of the daemon's group under systemd are producers."""
    secret.chmod(0o440)
    gid = secret.stat().st_gid
    with_members(monkeypatch, gid, groups=[gid], alice=ALICE)
    assert "alice is in that group" in reason(secret)


def test_secret_of_a_group_that_is_the_first_one_of_another_user_is_refused(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group database does not list such a user."""
    secret.chmod(0o440)
    gid = secret.stat().st_gid
    with_members(monkeypatch, gid, groups=[gid])
    alice = pwd.struct_passwd(("alice", "x", ALICE, gid, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwall", lambda: [alice])
    assert "alice is in that group" in reason(secret)


def test_secret_of_a_group_that_the_daemon_is_not_in_is_refused(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some other service's group."""
    secret.chmod(0o440)
    with_members(monkeypatch, secret.stat().st_gid, groups=[])
    assert "not in that group" in reason(secret)


def set_acl(path: Path, *entries: tuple[int, int, int]) -> None:
    """Give a file an access control list: tag, permissions, number."""
    whole = [(USER_OBJ, 6, NO_ID), *entries, (OTHER, 0, NO_ID)]
    packed = b"".join(struct.pack("<HHI", *entry) for entry in whole)
    os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + packed)


def test_secret_whose_acl_lets_the_daemon_alone_read_is_read(secret: Path) -> None:
    """As systemd gives credentials: the mode shows the list's mask as rights of the group."""
    set_acl(secret, (USER, 4, os.geteuid()), (GROUP_OBJ, 0, NO_ID), (MASK, 4, NO_ID))
    assert secret.stat().st_mode & 0o777 == 0o640
    assert read_secret(secret, MAX_BYTES)[0] == CONTENT


def test_secret_whose_acl_lets_another_user_read_is_refused(secret: Path) -> None:
    """A named user and a named group; the mask takes rights away."""
    set_acl(secret, (USER, 4, ALICE), (GROUP_OBJ, 0, NO_ID), (MASK, 4, NO_ID))
    assert f"user {ALICE} can read it" in reason(secret)
    set_acl(secret, (GROUP_OBJ, 0, NO_ID), (GROUP, 4, BOB), (MASK, 4, NO_ID))
    assert f"group {BOB} can read it" in reason(secret)
    set_acl(secret, (USER, 6, os.geteuid()), (GROUP_OBJ, 0, NO_ID), (MASK, 6, NO_ID))
    assert "can change it" in reason(secret)
    set_acl(secret, (USER, 6, ALICE), (GROUP_OBJ, 6, NO_ID), (MASK, 0, NO_ID))
    assert read_secret(secret, MAX_BYTES)[0] == CONTENT


def make_fifo(path: Path) -> None:
    """Make a FIFO, which would block a process that opens it."""
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    """Make a socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize(
    ("make", "kind"),
    [(Path.mkdir, "a directory"), (make_fifo, "a FIFO"), (make_socket, "a socket")],
)
def test_secret_that_is_no_regular_file_is_refused(
    secret: Path, make: Callable[[Path], None], kind: str
) -> None:
    """It is not opened."""
    secret.unlink()
    make(secret)
    assert kind in reason(secret)


def test_secret_that_is_a_device_is_refused(secret: Path) -> None:
    """It is not opened."""
    require_root()
    secret.unlink()
    os.mknod(secret, 0o020600, os.makedev(1, 5))
    assert "a device" in reason(secret)


def test_secret_of_a_wrong_size_is_refused(secret: Path) -> None:
    """The bound is inclusive."""
    secret.write_bytes(b"k" * MAX_BYTES)
    assert len(read_secret(secret, MAX_BYTES)[0]) == MAX_BYTES
    secret.write_bytes(b"k" * (MAX_BYTES + 1))
    assert f"larger than {MAX_BYTES} bytes" in reason(secret)
    secret.write_bytes(b"")
    assert "empty" in reason(secret)


def test_secret_with_two_names_is_refused(secret: Path) -> None:
    """The other name may be in a directory of others."""
    secret.with_name("other").hardlink_to(secret)
    assert "2 names" in reason(secret)


def test_secret_that_is_missing_is_refused(secret: Path) -> None:
    """Also if a part of the path is a file."""
    assert "no such file" in reason(secret.with_name("missing"))
    assert "no such file" in reason(secret.parent / "missing" / "secret")
    assert "Not a directory" in reason(secret / "below")


def test_secret_behind_links_is_read(secret: Path) -> None:
    """As in a Secret volume of Kubernetes. The way includes the directories of the links."""
    volume = secret.parent / "volume"
    volume.mkdir(mode=0o755)
    volume.chmod(0o1777)
    (volume / "..1").mkdir(mode=0o755)
    secret.rename(volume / "..1" / "secret")
    (volume / "..data").symlink_to("..1")
    (volume / "secret").symlink_to("..data/secret")
    link = secret.with_name("link")
    link.symlink_to(volume / "secret")
    content, way = read_secret(link, MAX_BYTES)
    assert content == CONTENT
    paths = [step.path for step in way]
    assert {str(secret.parent), str(volume), str(volume / "..1")} <= set(paths)
    assert paths[-1] == str(volume / "..1" / "secret")


def test_secret_behind_a_loop_of_links_is_refused(secret: Path) -> None:
    """After as many links as Linux follows."""
    loop = secret.with_name("loop")
    loop.symlink_to("loop")
    assert "Too many levels" in reason(loop)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_secret_below_a_directory_of_others_is_refused(secret: Path, mode: int) -> None:
    """Who can write to a directory can replace what is in it. The sticky bit prevents that."""
    secret.parent.chmod(mode)
    assert f"(its mode is {mode:04o})" in reason(secret)
    secret.parent.chmod(mode | 0o1000)
    assert read_secret(secret, MAX_BYTES)[0] == CONTENT


def test_secret_through_a_link_below_a_directory_of_others_is_refused(secret: Path) -> None:
    """The link could be replaced, although the file could not."""
    others = secret.parent / "others"
    others.mkdir()
    others.chmod(0o777)
    link = others / "link"
    link.symlink_to(secret)
    assert str(others) in reason(link)


def test_secret_of_another_user_is_refused(secret: Path) -> None:
    """Also if a directory or a link on the way is another user's, although only they may write."""
    require_root()
    os.chown(secret, ALICE, ALICE)
    assert f"belongs to user {ALICE}" in reason(secret)
    os.chown(secret, 0, 0)
    os.chown(secret.parent, ALICE, ALICE)
    assert f"{secret.parent} belongs to user {ALICE}" in reason(secret)
    os.chown(secret.parent, 0, 0)
    link = secret.with_name("link")
    link.symlink_to(secret)
    os.chown(link, ALICE, ALICE, follow_symlinks=False)
    assert f"{link} belongs to user {ALICE}" in reason(link)


def test_reason_with_a_name_that_acts_on_a_terminal_is_escaped(secret: Path) -> None:
    """Names of directories and links come from others."""
    odd = secret.parent / "a\n\x1b[31mb"
    odd.mkdir()
    odd.chmod(0o777)
    text = reason(odd / "secret")
    assert text.isprintable()
    assert "\\x1b" in text
