"""The way to a file: every directory and link that a path leads through.

A user who can rename a directory can put another file in its place, so a file is as safe as
everything on the way to it. The rules are those of ssh for its keys. A directory with the sticky
bit may be writable for all, because only the owner of an entry can replace it.
"""

import contextlib
import errno
import grp
import os
import pwd
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from wasmdrop.protocol.errors import StorageError
from wasmdrop.protocol.text import escaped

#: Links on one path, as in Linux (path_resolution(7)).
_MAX_LINKS: Final = 40

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH

#: The extended attribute with a file's access control list, and its format: a version, then entries
#: of a tag, permissions and a number (acl(5), include/uapi/linux/posix_acl_xattr.h).
_ACL: Final = "system.posix_acl_access"
_ACL_HEADER: Final = struct.Struct("<I")
_ACL_ENTRY: Final = struct.Struct("<HHI")
_ACL_USER: Final = 0x02
_ACL_OWNING_GROUP: Final = 0x04
_ACL_GROUP: Final = 0x08
_ACL_MASK: Final = 0x10
#: The permission to write, as in a mode.
WRITE: Final = 2

#: Errors of a filesystem without access control lists, and of a file without one.
_NO_ACL: Final = frozenset({errno.ENODATA, errno.ENOTSUP, errno.ENOSYS})


class UntrustedError(StorageError):
    """Another user can replace a file, or owns it. The text gives the reason."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(reason)
        self.advice = advice
        """What to do."""


class Step(msgspec.Struct, frozen=True):
    """A directory or file on the way to a file."""

    path: str
    """Absolute, without links."""
    status: os.stat_result


def walk(
    path: str, what: str, *, allows_private_groups: bool = False, allows_volumes: bool = False
) -> list[Step]:
    """Return the directories that ``path`` leads through, and last the file at its end.

    Each is checked before the next one is looked up, so that no other user can change the way
    after the check. ``what`` is a noun for messages, as in "the secret". With
    ``allows_private_groups`` a group may write to directories if this user alone is in it. With
    ``allows_volumes`` all users may write to a directory that is mounted read-only here.

    Raises ``UntrustedError`` if another user can replace anything on the way, and ``OSError``.
    """
    allowed = (allows_private_groups, allows_volumes)
    left = _parts(path)[::-1]
    here = "/"
    way = [_checked("/", what, *allowed)]
    links = 0
    while left:
        name = left.pop()
        if name == "..":
            here = os.path.dirname(here)  # noqa: PTH120 - no link is left in it
            continue
        step = _checked(os.path.join(here, name), what, *allowed)  # noqa: PTH118
        if stat.S_ISLNK(step.status.st_mode):
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            target = str(Path(step.path).readlink())
            here = "/" if target.startswith("/") else here
            left += _parts(target)[::-1]
            continue
        way.append(step)
        here = step.path
    return way


def _checked(path: str, what: str, allows_private_groups: bool, allows_volumes: bool) -> Step:
    """Look at one name; raise ``UntrustedError`` if another user can replace it or its content."""
    status = os.lstat(path)
    user = os.geteuid()
    shown = escaped(path)
    if status.st_uid not in {0, user}:
        raise UntrustedError(
            f"{shown} belongs to user {status.st_uid}, and only root and user {user}, who runs"
            f" the daemon, must be able to replace {what}",
            f"chown it to root or {user}",
        )
    mode = stat.S_IMODE(status.st_mode)
    is_writable = stat.S_ISDIR(status.st_mode) and mode & _OTHERS_WRITE and not mode & stat.S_ISVTX
    if (
        is_writable
        and (not allows_private_groups or mode & stat.S_IWOTH or _writing_others(path, status))
        and not (allows_volumes and _is_read_only_mount(path))
    ):
        raise UntrustedError(
            f"other users can write to the directory {shown} (its mode is {mode:04o}), and so"
            f" replace {what}",
            f"chmod go-w {shown}, or keep {what} elsewhere",
        )
    return Step(path, status)


def _is_read_only_mount(path: str) -> bool:
    # Of another device than its parent, so that no other name here leads to it.
    return os.path.ismount(path) and bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def why_others_can_write(fd: int, status: os.stat_result) -> str | None:
    """Return why users other than root and this one can change an open file; else None."""
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IWOTH:
        return f"any user can change it (its mode is {mode:04o})"
    if writer := _writing_others(fd, status):
        return f"{writer} can change it (its mode is {mode:04o})"
    return None


def _writing_others(file: int | str, status: os.stat_result) -> str | None:
    """Return a user or group that may write by the mode or the access control list."""
    return next(
        (
            who.text
            for who, permissions in others(file, status)
            if permissions & WRITE and who.why_not_private()
        ),
        None,
    )


class User(msgspec.Struct, frozen=True):
    """A user that an access control list names."""

    uid: int

    @property
    def text(self) -> str:
        """Return it as in a message."""
        return f"user {self.uid}"

    def why_not_private(self) -> str:
        """Return why that user is another one; empty if it is root or this user."""
        return "" if self.uid in {0, os.geteuid()} else "that is another user than the daemon's"


class Group(msgspec.Struct, frozen=True):
    """The group of a file, or one that its access control list names."""

    gid: int

    @property
    def text(self) -> str:
        """Return it as in a message."""
        return f"group {self.gid}"

    def why_not_private(self) -> str:
        """Return why other users are in the group, or may be; empty if none is."""
        if self.gid not in {os.getegid(), *os.getgroups()}:
            return "the daemon is not in that group"
        trusted = {0, os.geteuid()}
        users = {user.pw_name: user for user in pwd.getpwall()}
        members = [name for name, user in users.items() if user.pw_gid == self.gid]
        with contextlib.suppress(KeyError):  # a number without a name, as in a container
            members += grp.getgrgid(self.gid).gr_mem
        strangers = [
            name for name in members if name not in users or users[name].pw_uid not in trusted
        ]
        return f"{escaped(min(strangers))} is in that group, too" if strangers else ""


def others(file: int | str, status: os.stat_result) -> Iterator[tuple[User | Group, int]]:
    """Yield the users and groups with permissions of their own, and these permissions.

    If the file has an access control list, the group's bits of its mode are the list's mask.
    """
    try:
        acl = os.getxattr(file, _ACL)
    except OSError as error:
        if error.errno not in _NO_ACL:
            raise
        yield Group(status.st_gid), status.st_mode >> 3 & 7
        return
    entries = list(_ACL_ENTRY.iter_unpack(acl[_ACL_HEADER.size :]))
    mask = next((allowed for tag, allowed, _id in entries if tag == _ACL_MASK), 7)
    for tag, allowed, number in entries:
        if tag == _ACL_USER:
            yield User(number), allowed & mask
        elif tag in {_ACL_OWNING_GROUP, _ACL_GROUP}:
            yield Group(status.st_gid if tag == _ACL_OWNING_GROUP else number), allowed & mask


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in {"", "."}]
