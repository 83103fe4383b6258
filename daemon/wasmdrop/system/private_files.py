"""Private files: directories and files that only the daemon's user can change.

A user who can write a file of machine code can run code as the user that loads it. So owner and
mode of everything in the state directory are checked before use. Processes of the daemon's own user
are trusted. Others, in particular producers, are not.
"""

import contextlib
import os
import shutil
import stat
from pathlib import Path
from typing import Final

from wasmdrop.protocol.errors import StorageError
from wasmdrop.system.descriptors import file_kind, open_regular

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH

#: Advice in messages: how the daemon becomes the owner of a file.
RUN_AS_OWNER: Final = (
    "run the daemon as that user (User= of systemd, --user of docker, runAsUser of Kubernetes)"
)


class NotPrivateError(StorageError):
    """A file that other users own or may change. The text gives the reason, without the name."""


def describe_permissions(status: os.stat_result) -> str:
    """Return owner and mode of the file with this status, and who the daemon is, for a message."""
    mode = stat.S_IMODE(status.st_mode)
    return (
        f"it belongs to user {status.st_uid} and group {status.st_gid}, its mode is {mode:04o};"
        f" the daemon is user {os.geteuid()} and group {os.getegid()}"
    )


def why_not_private(status: os.stat_result) -> str | None:
    """Return why other users may have changed the file with this status, or may yet; else None.

    An access control list that lets others write shows in the mode too: its mask takes the place
    of the group's bits (acl(5)).
    """
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}, not to user {os.geteuid()}"
    if status.st_mode & _OTHERS_WRITE:
        return f"others may write to it (its mode is {stat.S_IMODE(status.st_mode):04o})"
    return None


def make_private_directory(path: Path) -> None:
    """Create ``path`` in a private directory, if it does not exist, and check it.

    Raises ``StorageError`` if it can't be created, is not a directory, or is not private.
    """
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        status = path.lstat()
    except OSError as error:
        raise StorageError(f"{path}: can't be created: {error.strerror}") from error
    _require(path, status)


def require_private_directory(path: Path) -> None:
    """Check ``path``, which may be a link that the operator made.

    Raises ``StorageError`` if it is not a directory or not private.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise StorageError(f"{path}: can't be examined: {error.strerror}") from error
    _require(path, status)


def open_private(path: Path) -> int:
    """Open a file for reading and return its descriptor.

    Raises ``FileNotFoundError``, and ``NotPrivateError`` if it is not a regular file, has more than
    one name, or is not private.
    """
    path_fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(path_fd)
        reason = why_not_private(status)
        if (kind := file_kind(status)) is not None:
            reason = f"it is {kind}, not a regular file"
        elif status.st_nlink != 1:
            reason = f"it has {status.st_nlink} names, and another user may have made one of them"
        if reason is not None:
            raise NotPrivateError(reason)
        try:
            return open_regular(path_fd)[0]
        except OSError as error:
            raise NotPrivateError(f"it can't be opened: {error.strerror}") from None
    finally:
        os.close(path_fd)


def remove(path: Path) -> None:
    """Remove a file, a directory with its content, or a link itself."""
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        shutil.rmtree(path)


def _require(path: Path, status: os.stat_result) -> None:
    reason = why_not_private(status)
    if not stat.S_ISDIR(status.st_mode):
        reason = "it is not a directory"
    elif status.st_uid != os.geteuid():
        reason = f"{reason}; chown -R {os.geteuid()} it, or {RUN_AS_OWNER}"
    elif reason is not None:
        reason = f"{reason}; chmod go-w it"
    if reason is not None:
        raise StorageError(
            f"{path}: expected a directory that only user {os.geteuid()} can write to: {reason}"
        )
