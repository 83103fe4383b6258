"""Claims: one daemon for a state directory, and one for a shared directory.

A claim is a lock on a file (flock(2)), so it ends with the process, however that ends. The file
says who holds it, for the message that the second daemon gives.
"""

import contextlib
import errno
import fcntl
import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_fixed

from wasmdrop.errors import SettingsError
from wasmdrop.private import require_private_directory

__all__ = ["SHARED_CLAIM_NAME", "claim_shared_directory", "claim_state_directory"]

_log = structlog.get_logger()

#: Begins with a dot, so that nobody looks at it; stays, as a lock on a removed file is none.
SHARED_CLAIM_NAME: Final = ".wasmdrop.lock"

#: Filesystems that know no locks.
_WITHOUT_LOCKS: Final = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)

#: How long to wait for a claim, in seconds: processes of a daemon that was killed take a moment to
#: end, and longer where their disk does, which they may have to wait for.
_PATIENCE_SECONDS: Final = 1.0
_PATIENCE_WITH_DEAD_SECONDS: Final = 15.0

#: Longest name of a holder that is shown: in a shared directory anybody may have written it.
_HOLDER_BYTES: Final = 200


@contextlib.contextmanager
def claim_state_directory(state_dir: Path) -> Iterator[int]:
    """Hold the state directory for this process alone, and those that inherit the descriptor given.

    Raises ``SettingsError`` where another one has it; ``StorageError`` where others can write to
    it: what is opened by name in there, and written to, might then be a link of theirs.
    """
    require_private_directory(state_dir)
    with _claim(state_dir / "lock", "state directory") as claim:
        yield claim


@contextlib.contextmanager
def claim_shared_directory(shared_dir: Path) -> Iterator[int]:
    """Hold the shared directory for this daemon alone, be the other one on another machine.

    So do processes that inherit the descriptor given.

    Raises ``SettingsError`` where another one has it.
    """
    with _claim(shared_dir / SHARED_CLAIM_NAME, "shared directory") as claim:
        yield claim


@contextlib.contextmanager
def _claim(path: Path, what: str) -> Iterator[int]:
    while True:
        fd = _open(path, what)
        try:
            try:
                _lock(fd)
            except BlockingIOError:
                holder = _holder(fd)
                raise SettingsError(
                    f"the {what} {path.parent} is in use by {holder or 'another process'}"
                ) from None
            except OSError as error:
                if error.errno not in _WITHOUT_LOCKS:
                    raise
                # Better than no daemon at all; the operator is told once.
                _log.warning("no-locks-here", path=str(path), error=error.strerror)
            if not _is_at(path, fd):
                continue  # somebody removed it before it was ours
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            yield fd
        finally:
            os.close(fd)
        return


def _lock(fd: int) -> None:
    """Lock the file; ``BlockingIOError`` where another one has it, and does not let go of it."""

    def gives_up(state: RetryCallState) -> bool:
        patience = _PATIENCE_WITH_DEAD_SECONDS if _is_of_dead(fd) else _PATIENCE_SECONDS
        return (state.seconds_since_start or 0.0) >= patience

    Retrying(
        retry=retry_if_exception_type(BlockingIOError),
        wait=wait_fixed(0.01),
        stop=gives_up,
        reraise=True,
    )(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(fd: int) -> str:
    holder = os.pread(fd, _HOLDER_BYTES, 0).decode("ascii", "replace").strip()
    return "".join(one if one.isprintable() else "?" for one in holder)


def _is_of_dead(fd: int) -> bool:
    """Whether a daemon of this host claimed it that is no more, but for what it started."""
    found = re.fullmatch(r"process ([0-9]{1,10}) on (.*)", _holder(fd))
    if found is None or found[2] != socket.gethostname():
        return False
    pid = int(found[1])
    # In a container that was started again it had the number that this process has now.
    return pid == os.getpid() or not Path(f"/proc/{pid}").exists()


def _open(path: Path, what: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o644)
    except OSError as error:
        raise SettingsError(f"the {what} can't be claimed: {path}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise SettingsError(f"the {what} can't be claimed: {path} is no regular file; remove it")
    return fd


def _is_at(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(fd))
    except FileNotFoundError:
        return False
