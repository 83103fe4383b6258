"""Secret files: only root and the daemon's user may know or replace what is in them.

A file is secret by its own mode and by every directory and link on the way to it
(`system.trusted_path`). A group may read the file if no other user is in it: Kubernetes gives
Secret volumes to root and the group of the pod.
"""

import errno
import os
import stat
from pathlib import Path
from typing import Final

from wasmdrop.protocol.text import escaped
from wasmdrop.system.descriptors import NotRegularError, open_regular
from wasmdrop.system.trusted_path import WRITE, Step, UntrustedError, others, walk

_DESCRIPTORS: Final = "/proc/self/fd/"

_READ: Final = 4


class NotSecretError(UntrustedError):
    """A file that can't be read, or is not secret. The text gives the reason."""


def read_secret(path: Path, max_bytes: int) -> tuple[bytes, list[Step]]:
    """Read a file of 1 to ``max_bytes`` bytes, once; return its content and the way to it.

    The way is the directories that the path leads through, also by links, and last the file itself.

    Raises ``NotSecretError`` if it can't be read, is not a regular file, is empty or larger, has
    more than one name, or if other users can read it, change it, or replace anything on the way.
    """
    try:
        way = walk(str(path), "the secret")
        with os.fdopen(_open(way[-1].path), "rb", buffering=0) as file:
            _require_private(file.fileno())
            content = file.read(max_bytes + 1) or b""
    except NotSecretError:
        raise
    except UntrustedError as error:
        raise NotSecretError(str(error), error.advice) from None
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
    for who, permissions in others(fd, status):
        if permissions & WRITE:
            raise NotSecretError(f"{who.text} can change it (its mode is {mode:04o})", advice)
        if permissions & _READ and (reason := who.why_not_private()):
            raise NotSecretError(
                f"{who.text} can read it (its mode is {mode:04o}), and {reason}", advice
            )
