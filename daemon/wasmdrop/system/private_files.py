"""What is the daemon's alone: directories and files that nobody else can change.

Running machine code from a file is running whatever its last writer wished, so before anything of
the state directory is used, its owner and mode are looked at. A process of the daemon's own user
is trusted; others, the producers above all, are not.
"""

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Final

from wasmdrop.protocol.errors import StorageError

__all__ = [
    "RUN_AS_OWNER",
    "NotPrivateError",
    "describe_permissions",
    "make_private_directory",
    "open_private",
    "remove",
    "require_private_directory",
    "why_not_private",
]

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH

#: Advice in messages: how the daemon becomes the owner of a file.
RUN_AS_OWNER: Final = (
    "run the daemon as that user (User= of systemd, --user of docker, runAsUser of Kubernetes)"
)


class NotPrivateError(StorageError):
    """A file that others made or may change; its text says why, without the file's name."""


def describe_permissions(status: os.stat_result) -> str:
    """Return owner and mode of the file with this status, and who the daemon is, for a message."""
    mode = stat.S_IMODE(status.st_mode)
    return (
        f"it belongs to user {status.st_uid} and group {status.st_gid}, its mode is {mode:04o};"
        f" the daemon is user {os.geteuid()} and group {os.getegid()}"
    )


def why_not_private(status: os.stat_result) -> str | None:
    """Return why others may have changed, or may yet change, what has this status.

    None where they can't. An access control list that lets others write shows in the mode too: its
    mask takes the place of the group's bits (acl(5)).
    """
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}, not to user {os.geteuid()}"
    if status.st_mode & _OTHERS_WRITE:
        return f"others may write to it (its mode is {stat.S_IMODE(status.st_mode):04o})"
    return None


def make_private_directory(path: Path) -> None:
    """Make ``path`` below a private directory, if it is not there, and check it.

    Raises ``StorageError`` for what is no directory, a link, or not private, and where it can't be
    made.
    """
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        status = path.lstat()
    except OSError as error:
        raise StorageError(f"{path}: can't be made: {error.strerror}") from error
    _require(path, status)


def require_private_directory(path: Path) -> None:
    """Check ``path``, which may be the operator's link to a directory.

    Raises ``StorageError`` for what is no directory, or not private.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise StorageError(f"{path}: can't be looked at: {error.strerror}") from error
    _require(path, status)


def open_private(path: Path) -> int:
    """Open a file for reading and return its descriptor.

    Raises ``FileNotFoundError`` where nothing is there; ``NotPrivateError`` where it is a link, no
    regular file, has another name too, or belongs to others.
    """
    try:
        # Without O_NONBLOCK a FIFO would be waited for.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotPrivateError("it is a link") from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.ENXIO):
            raise NotPrivateError(f"it can't be opened: {error.strerror}") from None
        raise
    status = os.fstat(fd)
    reason = why_not_private(status)
    if not stat.S_ISREG(status.st_mode):
        reason = "it is no regular file"
    elif status.st_nlink != 1:
        reason = f"it has {status.st_nlink} names, of which others may be another's"
    if reason is not None:
        os.close(fd)
        raise NotPrivateError(reason)
    return fd


def remove(path: Path) -> None:
    """Remove ``path``, whatever it is; what a link points to stays."""
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        shutil.rmtree(path)


def _require(path: Path, status: os.stat_result) -> None:
    reason = why_not_private(status)
    if not stat.S_ISDIR(status.st_mode):
        reason = "it is no directory"
    elif status.st_uid != os.geteuid():
        reason = f"{reason}; chown -R {os.geteuid()} it, or {RUN_AS_OWNER}"
    elif reason is not None:
        reason = f"{reason}; chmod go-w it"
    if reason is not None:
        raise StorageError(
            f"{path}: expected a directory that only user {os.geteuid()} can write to: {reason}"
        )
