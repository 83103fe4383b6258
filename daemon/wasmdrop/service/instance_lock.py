"""Instance locks: one daemon for each state directory and for each shared directory.

A lock is a locked file (flock(2)), so it ends with the process, however that ends. The file names
its holder, for the error message of a second daemon.

Other users may write to a shared directory, and lock any file that they can open. So a lock counts
only on a file that no other user can open and whose owner could stop the daemon anyway: root, the
daemon's user or the owner of the directory. Anything else at its name is set aside. The daemon
never writes to a file that was there before: it creates a new one.
"""

import contextlib
import errno
import fcntl
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_fixed

from wasmdrop.protocol.errors import SettingsError
from wasmdrop.system import openat2
from wasmdrop.system.descriptors import open_regular
from wasmdrop.system.durable_files import temporary_name
from wasmdrop.system.private_files import require_private_directory

_log = structlog.get_logger()

#: Begins with a dot, so that intake ignores it. It is never removed: a lock on a removed file does
#: not exclude anyone.
SHARED_LOCK_NAME: Final = ".wasmdrop.lock"
_STATE_LOCK_NAME: Final = "lock"

#: The first line of a lock file.
_PROCESS: Final = re.compile(r"process ([0-9]{1,10}) on (.*)")

#: Errors of filesystems without locks.
_WITHOUT_LOCKS: Final = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)

#: How long to wait for a lock, in seconds: the processes of a killed daemon take a moment to end,
#: longer if they wait for their disk.
_WAIT_SECONDS: Final = 1.0
_WAIT_FOR_DEAD_SECONDS: Final = 15.0

#: Longest name of a holder that is shown, in bytes.
_HOLDER_BYTES: Final = 200

#: Attempts to lock a file that changes meanwhile.
_MOST_ATTEMPTS: Final = 100

_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE: Final = 0o600
_OTHERS: Final = 0o077


class Holder(msgspec.Struct, frozen=True):
    """The daemon that holds the lock of a state directory, by the lock file."""

    name: str
    """``process 12 on host``; safe for a terminal."""
    version: str
    """The daemon's version; empty if its file does not say."""
    pid: int | None
    """Its process; None if it runs on another host, or not in this namespace of processes."""
    has_ended: bool
    """Whether the daemon has ended and only its children still hold the lock."""
    seconds: float
    """The age of the lock."""


def state_holder(state_dir: Path) -> Holder | None:
    """Return the holder of the lock of a state directory; None if it is free.

    Waits for nothing and writes nothing. Raises ``OSError``: a ``FileNotFoundError`` if no daemon
    has been there yet.
    """
    directory = openat2.open_directory(str(state_dir), "")
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(_STATE_LOCK_NAME, flags, dir_fd=directory)
    finally:
        os.close(directory)
    try:
        try:
            # A shared lock, so that two readers do not block each other.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _described(fd)
        return None
    finally:
        os.close(fd)


def _described(fd: int) -> Holder:
    name, _, program = _text(fd).partition("\n")
    found, has_ended = _PROCESS.fullmatch(name), _is_holder_dead(fd)
    is_here = found is not None and found[2] == socket.gethostname() and not has_ended
    return Holder(
        _printable(name) or "another process",
        _printable(program.strip().removeprefix("wasmdrop ")),
        int(found[1]) if found is not None and is_here else None,
        has_ended,
        max(0.0, time.time() - os.fstat(fd).st_mtime),
    )


@contextlib.contextmanager
def lock_state_directory(state_dir: Path) -> Iterator[int]:
    """Lock the state directory for this process and those that inherit the yielded descriptor.

    Raises ``SettingsError`` if another daemon holds it; ``StorageError`` if other users can write
    to it: a file that the daemon opens there by name might be their link.
    """
    require_private_directory(state_dir)
    with _InstanceLock(state_dir, _STATE_LOCK_NAME, "state directory", is_shared=False) as lock:
        yield lock


@contextlib.contextmanager
def lock_shared_directory(shared_dir: Path) -> Iterator[int]:
    """Lock the shared directory for this daemon, also against daemons on other machines.

    Processes that inherit the yielded descriptor hold the lock, too. If another user prevents the
    daemon from creating the file, it goes on without a lock, with a warning.

    Raises ``SettingsError`` if another daemon holds it, or no file can be created there.
    """
    with _InstanceLock(shared_dir, SHARED_LOCK_NAME, "shared directory", is_shared=True) as lock:
        yield lock


class _InstanceLock:
    def __init__(self, path: Path, name: str, what: str, *, is_shared: bool) -> None:
        self._path = path
        self._name = name
        self._what = what
        self._is_shared = is_shared
        self._trusted = {os.geteuid()}
        self._open_to_others = _OTHERS

    def __enter__(self) -> int:
        path = self._path / self._name
        with contextlib.ExitStack() as undo:
            try:
                self._directory = openat2.open_directory(str(self._path), "")
                undo.callback(os.close, self._directory)
                if self._is_shared:
                    own = self._own_file()
                    self._trusted = {0, os.fstat(self._directory).st_uid, own.st_uid}
                    self._open_to_others = own.st_mode & _OTHERS
                for _ in range(_MOST_ATTEMPTS):
                    fd = self._try()
                    if fd is not None:
                        undo.callback(os.close, fd)
                        self._fds = undo.pop_all()
                        return fd
            except OSError as error:
                raise SettingsError(
                    f"the {self._what} can't be locked: {path}: {error.strerror}"
                ) from None
        raise SettingsError(f"the {self._what} can't be locked: {path} changes all the time")

    def __exit__(self, *_exc: object) -> None:
        self._fds.close()

    def _own_file(self) -> os.stat_result:
        """Return the status of a file that this process creates there.

        On network mounts its owner and its mode may differ from those requested.
        """
        name = temporary_name()
        fd = os.open(name, _NEW, _MODE, dir_fd=self._directory)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)
            with contextlib.suppress(OSError):  # another user may have renamed it
                os.unlink(name, dir_fd=self._directory)

    def _try(self) -> int | None:
        """Return the locked file, or None if another attempt may succeed."""
        with contextlib.suppress(FileExistsError):
            return self._make()
        try:
            path_fd = os.open(
                self._name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory
            )
        except FileNotFoundError:
            return None
        try:
            reason = self._why_untrusted(os.fstat(path_fd))
            if reason is not None:
                return self._set_aside(reason)
            fd, _status = open_regular(path_fd, os.O_RDWR)
        finally:
            os.close(path_fd)
        try:
            self._lock(fd)
            # It may be a file that others have open, or not a lock file: a new one replaces it.
            if self._is_at(fd):
                os.unlink(self._name, dir_fd=self._directory)
        finally:
            os.close(fd)
        return None

    def _make(self) -> int | None:
        fd = os.open(self._name, _NEW, _MODE, dir_fd=self._directory)
        try:
            self._lock(fd)
            if self._is_at(fd):  # otherwise another daemon locked it first
                holder = f"process {os.getpid()} on {socket.gethostname()}"
                os.pwrite(fd, f"{holder}\nwasmdrop {version('wasmdrop')}\n".encode(), 0)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def _why_untrusted(self, status: os.stat_result) -> str | None:
        if not stat.S_ISREG(status.st_mode):
            return "it is not a regular file"
        if status.st_nlink != 1:
            return "it has other hard links"
        if status.st_uid not in self._trusted:
            return f"it belongs to user {status.st_uid}"
        if status.st_mode & _OTHERS & ~self._open_to_others:
            # For example a result of the daemon, which others can open, lock and move here.
            return f"other users may open it (its mode is {stat.S_IMODE(status.st_mode):04o})"
        return None

    def _set_aside(self, reason: str) -> int | None:
        aside = f"{self._name}.aside-{os.urandom(4).hex()}"
        path = str(self._path / self._name)
        try:
            os.rename(self._name, aside, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except FileNotFoundError:
            return None
        except PermissionError as error:
            # In a sticky directory only its owner may rename it. Better no lock than no daemon.
            _log.warning("instance-lock-skipped", path=path, reason=reason, error=error.strerror)
            return os.dup(self._directory)
        _log.warning("lock-file-set-aside", path=path, reason=reason, now=aside)
        return None

    def _lock(self, fd: int) -> None:
        try:
            _lock(fd)
        except BlockingIOError:
            holder = _holder(fd)
            raise SettingsError(
                f"the {self._what} {self._path} is in use by {holder or 'another process'}"
            ) from None
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            # Better no lock than no daemon; the operator is warned.
            path = str(self._path / self._name)
            _log.warning("locks-unsupported", path=path, error=error.strerror)

    def _is_at(self, fd: int) -> bool:
        try:
            status = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(status, os.fstat(fd))


def _lock(fd: int) -> None:
    """Lock the file. Raises ``BlockingIOError`` if another process holds it for too long."""

    def has_waited(state: RetryCallState) -> bool:
        wait_seconds = _WAIT_FOR_DEAD_SECONDS if _is_holder_dead(fd) else _WAIT_SECONDS
        return (state.seconds_since_start or 0.0) >= wait_seconds

    Retrying(
        retry=retry_if_exception_type(BlockingIOError),
        wait=wait_fixed(0.01),
        stop=has_waited,
        reraise=True,
    )(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(fd: int) -> str:
    return _printable(_text(fd).partition("\n")[0])


def _text(fd: int) -> str:
    return os.pread(fd, _HOLDER_BYTES, 0).decode("ascii", "replace")


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in text.strip())


def _is_holder_dead(fd: int) -> bool:
    """Whether its holder is a daemon of this host that has ended, except its children."""
    found = _PROCESS.fullmatch(_holder(fd))
    if found is None or found[2] != socket.gethostname():
        return False
    pid = int(found[1])
    # In a restarted container it had the process id that this process has now.
    return pid == os.getpid() or not Path(f"/proc/{pid}").exists()
