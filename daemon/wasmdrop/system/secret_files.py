"""Secret files: only root and the daemon's user may know or replace what is in them.

A file is secret by its own mode and by every directory and link on the way to it: a user who can
rename a directory can put another file in its place. The rules are those of ssh for its keys, with
two additions. A directory with the sticky bit may be writable for all, because only the owner of an
entry can replace it. A group may read the file if no other user is in it: Kubernetes gives Secret
volumes to root and the group of the pod.
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
from wasmdrop.system.descriptors import NotRegularError, open_regular

#: Links on one path, as in Linux (path_resolution(7)).
_MAX_LINKS: Final = 40

_DESCRIPTORS: Final = "/proc/self/fd/"

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
_READ: Final = 4
_WRITE: Final = 2
#: Errors of a filesystem without access control lists, and of a file without one.
_NO_ACL: Final = frozenset({errno.ENODATA, errno.ENOTSUP, errno.ENOSYS})


class NotSecretError(StorageError):
    """A file that can't be read, or is not secret. The text gives the reason."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(reason)
        self.advice = advice
        """What to do."""


class Step(msgspec.Struct, frozen=True):
    """A directory or file on the way to a file."""

    path: str
    """Absolute, without links."""
    status: os.stat_result


def read_secret(path: Path, max_bytes: int) -> tuple[bytes, list[Step]]:
    """Read a file of 1 to ``max_bytes`` bytes, once; return its content and the way to it.

    The way is the directories that the path leads through, also by links, and last the file itself.

    Raises ``NotSecretError`` if it can't be read, is not a regular file, is empty or larger, has
    more than one name, or if other users can read it, change it, or replace anything on the way.
    """
    try:
        way = _walk(str(path))
        with os.fdopen(_open(way[-1].path), "rb", buffering=0) as file:
            _require_private(file.fileno())
            content = file.read(max_bytes + 1) or b""
    except NotRegularError as error:
        raise NotSecretError(f"it is {error.strerror}", "name a regular file") from None
    except OSError as error:
        raise _unreadable(error) from None
    if not content:
        raise NotSecretError("it is empty", "write the secret into it")
    if len(content) > max_bytes:
        raise NotSecretError(f"it is larger than {max_bytes} bytes", "name the file of the secret")
    return content, way


def _unreadable(error: OSError) -> NotSecretError:
    if error.errno in {errno.EACCES, errno.EPERM}:
        place = error.filename if isinstance(error.filename, str) else ""
        # A file that was found is opened by its descriptor, whose path says nothing to a reader.
        shown = f" ({escaped(place)})" if place and not place.startswith(_DESCRIPTORS) else ""
        user = os.geteuid()
        return NotSecretError(
            f"user {user}, who runs the daemon, can't read it: {error.strerror}{shown}",
            f"give it to that user (chown {user})",
        )
    if error.errno == errno.ENOENT:
        return NotSecretError("there is no such file", "make the file, or correct the path")
    return NotSecretError(f"it can't be read: {error.strerror}", "name a file that can be read")


def _walk(path: str) -> list[Step]:
    """Return the directories that ``path`` leads through, and last what is at its end.

    Each is checked before the next one is looked up, so that no other user can change the way
    after the check.
    """
    left = _parts(path)[::-1]
    here = "/"
    way = [_checked("/")]
    links = 0
    while left:
        name = left.pop()
        if name == "..":
            here = os.path.dirname(here)  # noqa: PTH120 - no link is left in it
            continue
        step = _checked(os.path.join(here, name))  # noqa: PTH118
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


def _checked(path: str) -> Step:
    """Look at one name; raise ``NotSecretError`` if another user can replace it or its content."""
    status = os.lstat(path)
    user = os.geteuid()
    shown = escaped(path)
    if status.st_uid not in {0, user}:
        raise NotSecretError(
            f"{shown} belongs to user {status.st_uid}, and only root and user {user}, who runs the"
            " daemon, must be able to replace the secret",
            f"chown it to root or {user}",
        )
    if (
        stat.S_ISDIR(status.st_mode)
        and status.st_mode & _OTHERS_WRITE
        and not status.st_mode & stat.S_ISVTX
    ):
        mode = stat.S_IMODE(status.st_mode)
        raise NotSecretError(
            f"other users can write to the directory {shown} (its mode is {mode:04o}), and so"
            " replace the secret",
            f"chmod go-w {shown}, or keep the secret elsewhere",
        )
    return Step(path, status)


def _open(path: str) -> int:
    path_fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return open_regular(path_fd)[0]
    finally:
        os.close(path_fd)


def _require_private(fd: int) -> None:
    """Raise ``NotSecretError`` if other users can read, change or reach the open file."""
    status = os.fstat(fd)
    if status.st_nlink != 1:
        reason = f"it has {status.st_nlink} names, and others may be able to reach one of them"
        raise NotSecretError(reason, "copy it to a new file, and remove all its names")
    mode = stat.S_IMODE(status.st_mode)
    advice = "chmod 600 (or 400) the file"
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        what = "read" if mode & stat.S_IROTH else "change"
        raise NotSecretError(f"any user can {what} it (its mode is {mode:04o})", advice)
    for who, permissions in _others(fd, status):
        if permissions & _WRITE:
            raise NotSecretError(f"{who.text} can change it (its mode is {mode:04o})", advice)
        if permissions & _READ and (reason := who.why_no_reader()):
            raise NotSecretError(
                f"{who.text} can read it (its mode is {mode:04o}), and {reason}", advice
            )


class _User(msgspec.Struct, frozen=True):
    uid: int

    @property
    def text(self) -> str:
        return f"user {self.uid}"

    def why_no_reader(self) -> str:
        return "" if self.uid in {0, os.geteuid()} else "that is another user than the daemon's"


class _Group(msgspec.Struct, frozen=True):
    gid: int

    @property
    def text(self) -> str:
        return f"group {self.gid}"

    def why_no_reader(self) -> str:
        """Return why the group must not read the file: not the daemon's, or not its alone."""
        if self.gid not in {os.getegid(), *os.getgroups()}:
            return "the daemon is not in that group"
        trusted = {0, os.geteuid()}
        users = {user.pw_name: user for user in pwd.getpwall()}
        members = [name for name, user in users.items() if user.pw_gid == self.gid]
        with contextlib.suppress(KeyError):  # a number without a name, as in a container
            members += grp.getgrgid(self.gid).gr_mem
        others = [
            name for name in members if name not in users or users[name].pw_uid not in trusted
        ]
        return f"{escaped(min(others))} is in that group, too" if others else ""


def _others(fd: int, status: os.stat_result) -> Iterator[tuple[_User | _Group, int]]:
    """Yield the users and groups with permissions of their own, and these permissions.

    If the file has an access control list, the group's bits of its mode are the list's mask.
    """
    try:
        acl = os.getxattr(fd, _ACL)
    except OSError as error:
        if error.errno not in _NO_ACL:
            raise
        yield _Group(status.st_gid), status.st_mode >> 3 & 7
        return
    entries = list(_ACL_ENTRY.iter_unpack(acl[_ACL_HEADER.size :]))
    mask = next((allowed for tag, allowed, _id in entries if tag == _ACL_MASK), 7)
    for tag, allowed, number in entries:
        if tag == _ACL_USER:
            yield _User(number), allowed & mask
        elif tag in {_ACL_OWNING_GROUP, _ACL_GROUP}:
            yield _Group(status.st_gid if tag == _ACL_OWNING_GROUP else number), allowed & mask


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in {"", "."}]
