"""Move inputs that are done out of a directory, which a hostile user may own.

Guarantees that no unread drop is lost. An input is renamed first; then the renamed file must be the
version that ran, and no process may have it open for writing. Otherwise it gets its name back,
unless a newer drop has that name by now. A ready file goes before its input, so that it never
announces the next one.

If the daemon dies in between, :meth:`InputDirectory.recover` finds the file by its name.
"""

import contextlib
import errno
import hashlib
import os
import stat
from typing import Final, Self

import msgspec

from wasmdrop.intake.file_versions import digest_of, is_same_version, is_unreadable, with_digest
from wasmdrop.intake.layout import RootedPath
from wasmdrop.intake.write_detection import refuses_lease
from wasmdrop.protocol.slot import CANCEL_SUFFIX, FileVersion
from wasmdrop.system import openat2, renaming
from wasmdrop.system.tree_removal import is_daemon_directory

#: Archives: directories beside an input, for inputs of jobs that succeeded and that failed.
DONE: Final = "done"
FAILED: Final = "failed"

#: Begins the names of files that are about to be removed. Such names are ignored as inputs, and
#: not removed as temporary files.
REMOVING_PREFIX: Final = ".removing-"

_READY_SUFFIX: Final = ".ready"

#: Longest name of a file (NAME_MAX), in bytes.
_MAX_NAME_BYTES: Final = 255

_READ_BYTES: Final = 256 * 1024

_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY


class FinishedInput(msgspec.Struct, frozen=True):
    """An input whose job is done."""

    path: str
    job_id: str
    taken: bytes
    """The version that ran, as the journal stores it."""
    archive: str | None
    """The directory beside it to which it moves; None if it is removed."""

    @property
    def name(self) -> str:
        """Its name in its directory."""
        return os.path.basename(self.path)  # noqa: PTH119 - may hold any bytes


class InputDirectory:
    """An open directory with inputs; a context manager. All methods block.

    Raises ``OSError`` if the directory can't be opened, or if a link is on the way.
    ``ready_suffix``: that of ready files, may be empty.
    """

    def __init__(self, directory: RootedPath, ready_suffix: str) -> None:
        self._ready_suffix = ready_suffix
        self._fd = openat2.open_directory(directory.root, directory.relative)
        self._archives: dict[str, int] = {}
        self._others: dict[str, int] = {}
        """Archives in which a withdrawn input was looked for."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        for fd in self._all():
            os.close(fd)

    def status(self, path: str) -> os.stat_result | None:
        """Return the status of the input, or of a link, at ``path``; None if nothing is there."""
        return _status(os.path.basename(path), self._fd)  # noqa: PTH119 - may hold any bytes

    def removing_status(self, path: str) -> os.stat_result | None:
        """Return the status of an input that an earlier daemon was about to remove."""
        name = os.path.basename(path)  # noqa: PTH119 - may hold any bytes
        return _status(REMOVING_PREFIX + name, self._fd)

    def has_content(self, path: str, version: bytes) -> bool:
        """Return whether the input at ``path`` is that version, and is not being written."""
        return _is_content(version, os.path.basename(path), self._fd)  # noqa: PTH119 - any bytes

    def require_removable(self, status: os.stat_result) -> None:
        """Raise ``PermissionError`` if an input with that status can't be removed (unlink(2))."""
        directory = os.fstat(self._fd)
        is_sticky = directory.st_mode & stat.S_ISVTX
        may_remove = os.geteuid() in {0, status.st_uid, directory.st_uid}
        if is_sticky and not may_remove:
            reason = "the sticky bit of the directory keeps the daemon from removing inputs"
            raise PermissionError(errno.EPERM, reason)
        if not os.access(".", os.W_OK | os.X_OK, dir_fd=self._fd, effective_ids=True):
            raise PermissionError(errno.EACCES, "the daemon may not remove inputs from it")

    def withdraw(self, one: FinishedInput) -> bool:
        """Move an input to its archive, or remove it; return whether that was done.

        False if the version that ran is not there any more, or is being written. Raises
        ``OSError``. :meth:`sync` makes it durable.
        """
        ready = _status(one.name + self._ready_suffix, self._fd) if self._ready_suffix else None
        status = _status(one.name, self._fd)
        if status is None or not _is_version(one.taken, status):
            return False
        self.require_removable(status)
        target, name = self._target(one, status)
        if target != self._fd and _status(name, target) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        if ready is not None and not self._hide_ready(one, ready):
            return False
        is_moved = False
        try:
            os.rename(one.name, name, src_dir_fd=self._fd, dst_dir_fd=target)
            is_moved = self._keep_or_put_back(one, name, target)
        except FileNotFoundError:
            pass  # its producer removed it meanwhile
        finally:
            self._end_ready(one, is_moved=is_moved)
        return is_moved

    def remove_cancel_file(self, path: str, before_ns: int) -> None:
        """Remove the cancel file of the input at ``path`` if it is older than that time."""
        name = os.path.basename(path) + CANCEL_SUFFIX  # noqa: PTH119 - may hold any bytes
        status = _status(name, self._fd)
        if status is not None and max(status.st_mtime_ns, status.st_ctime_ns) < before_ns:
            # PermissionError: that of another user in a sticky directory.
            with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                os.unlink(name, dir_fd=self._fd)

    def recover(self, one: FinishedInput, *, archives: bool = True) -> bool:
        """Complete or undo a move of an earlier daemon; return whether the input is gone.

        ``archives``: whether it may have been about to archive the input. The caller syncs, and
        withdraws an input that is not gone.
        """
        status = _status(one.name, self._fd)
        if status is None:
            places = self._places(one) if archives else [(_removing(one), self._fd)]
            is_gone = any(
                _status(name, fd) is not None and self._keep_or_put_back(one, name, fd)
                for name, fd in places
            )
            self._end_ready(one, is_moved=_status(one.name, self._fd) is None)
            return is_gone
        # A later drop has replaced the input that was about to be removed.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_removing(one), dir_fd=self._fd)
        ready = _status(_removing(one) + _READY_SUFFIX, self._fd)
        if ready is not None:
            # One that is older than the drop has announced another.
            is_later = ready.st_mtime_ns >= status.st_mtime_ns
            self._end_ready(one, is_moved=not is_later and not _is_version(one.taken, status))
        return False

    def sync(self) -> None:
        """Make the moves durable: after a power cut, no forgotten version may be back.

        The archives come first, so that each file has a name at any time.
        """
        for fd in self._all():
            os.fsync(fd)

    def _all(self) -> list[int]:
        return [*self._archives.values(), *self._others.values(), self._fd]

    def _target(self, one: FinishedInput, status: os.stat_result) -> tuple[int, str]:
        """Return the directory and the name that the input gets."""
        if one.archive is None:
            return self._fd, _removing(one)
        if one.archive not in self._archives:
            self._archives[one.archive] = _open_archive(self._fd, one.archive)
        archive = self._archives[one.archive]
        _require_owner(archive, one.archive, {os.fstat(self._fd).st_uid, status.st_uid})
        return archive, archive_name(one.job_id, one.name)

    def _places(self, one: FinishedInput) -> list[tuple[str, int]]:
        """Return the names under which a withdrawn input may be, with their directories."""
        found = [(_removing(one), self._fd)]
        for archive in (DONE, FAILED):
            with contextlib.suppress(OSError):
                if archive not in self._others:
                    self._others[archive] = _open_in(self._fd, archive)
                found.append((archive_name(one.job_id, one.name), self._others[archive]))
        return found

    def _keep_or_put_back(self, one: FinishedInput, name: str, directory: int) -> bool:
        """Check the moved file: return whether it is the version that ran; else put it back."""
        if _is_content(one.taken, name, directory):
            if directory == self._fd:
                os.unlink(name, dir_fd=directory)
            return True
        # A file that is there now is a newer drop, and replaces this one as any drop does.
        with contextlib.suppress(FileExistsError):
            renaming.rename_to_new(name, directory, one.name, self._fd)
        return False

    def _hide_ready(self, one: FinishedInput, ready: os.stat_result) -> bool:
        """Rename the ready file with that status; return False if it is another one by now."""
        name, hidden = one.name + self._ready_suffix, _removing(one) + _READY_SUFFIX
        if stat.S_ISDIR(ready.st_mode):
            return True  # it stays
        try:
            os.rename(name, hidden, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except FileNotFoundError:
            return False
        moved = _status(hidden, self._fd)
        if moved is not None and FileVersion.of(moved) == FileVersion.of(ready):
            return True
        self._end_ready(one, is_moved=False)
        return False

    def _end_ready(self, one: FinishedInput, *, is_moved: bool) -> None:
        """Remove a hidden ready file if its input ``is_moved``; else give it its name back."""
        hidden = _removing(one) + _READY_SUFFIX
        if _status(hidden, self._fd) is None:
            return
        if not is_moved:
            with contextlib.suppress(FileExistsError):
                renaming.rename_to_new(hidden, self._fd, one.name + self._ready_suffix, self._fd)
                return
        os.unlink(hidden, dir_fd=self._fd)


def archive_name(job_id: str, name: str) -> str:
    """Return the name of an input in an archive. It is not that of an input, so it never runs."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - may hold any bytes
    room = _MAX_NAME_BYTES - len(os.fsencode(f"{job_id}-{suffix}"))
    if len(os.fsencode(stem)) > room:
        stem = os.fsencode(stem)[:room].decode(errors="ignore")
    return f"{job_id}-{stem}{suffix}"


def _removing(one: FinishedInput) -> str:
    return f"{REMOVING_PREFIX}{one.name}"


def _status(name: str, directory: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_version(taken: bytes, status: os.stat_result) -> bool:
    is_readable_file = stat.S_ISREG(status.st_mode) and not is_unreadable(taken)
    return is_readable_file and is_same_version(taken, status)


def _is_content(taken: bytes, name: str, directory: int) -> bool:
    """Whether a file is the version ``taken``, by its digest, too, and is not being written.

    Two writes within a tick of the kernel's clock have one modification time. A process that has
    the file open may still write the next drop into it.
    """
    try:
        fd, status = openat2.open_regular_at(directory, name)
    except OSError:
        return False
    with os.fdopen(fd, "rb") as file:
        if not _is_version(taken, status) or refuses_lease(fd):
            return False
        digest = hashlib.sha256()
        left_bytes = status.st_size  # the file's owner can make it grow faster than it is read
        while left_bytes and (data := file.read(min(left_bytes, _READ_BYTES))):
            digest.update(data)
            left_bytes -= len(data)
        is_changed = not _is_version(taken, os.fstat(fd))
    return not is_changed and digest_of(with_digest(b"", digest.digest())) == digest_of(taken)


def _open_in(directory: int, name: str) -> int:
    with openat2.staying_on_mounts():
        return openat2.open_at(directory, name, _OPEN_DIRECTORY)


def _open_archive(directory: int, name: str) -> int:
    """Open the archive ``name`` in a directory; make it if it is missing.

    The user who owns the directory gets it, because the inputs were theirs to remove.
    """
    parent = os.fstat(directory)
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, stat.S_ISVTX | 0o700, dir_fd=directory)
    fd = _open_in(directory, name)
    try:
        if is_daemon_directory(os.fstat(fd)):  # made just now, or by a daemon that died
            _give_away(fd, parent)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _require_owner(archive: int, name: str, owners: set[int]) -> None:
    """Raise ``PermissionError`` unless an archive belongs to one of ``owners``, root or the daemon.

    Another user could remove or replace the files in it.
    """
    owner = os.fstat(archive).st_uid
    if owner not in {0, os.geteuid(), *owners}:
        expected = " or ".join(map(str, sorted(owners)))
        reason = f"expected a directory of user {expected}, found one of {owner}"
        raise PermissionError(errno.EPERM, reason, name)


def _give_away(fd: int, parent: os.stat_result) -> None:
    """Give a new archive the owner and the permissions of the directory that it is in.

    Without the mark of :func:`is_daemon_directory`, because it holds files of others.
    """
    mode = stat.S_IMODE(parent.st_mode) & ~stat.S_ISUID
    if not mode & stat.S_IWOTH and mode & stat.S_ISVTX:
        mode &= ~(stat.S_ISVTX | stat.S_IWGRP)
    with contextlib.suppress(PermissionError):
        os.fchown(fd, parent.st_uid if os.geteuid() == 0 else -1, parent.st_gid)
    os.fchmod(fd, mode)
