"""``wasmdrop retry``: runs a finished job's input again, by the drop protocol.

The journal has one writer, the daemon, and stays untouched: the input is dropped once more, which
runs it again whether the daemon runs now or later. Promises that no input is lost that has not been
run yet: what lies in the slot is written over only with ``--restore``, and only after the journal
has had it.
"""

import argparse
import contextlib
import hashlib
import os
import secrets
import sys
from collections.abc import Iterator
from typing import Final

import msgspec

from wasmdrop.cli import job_view
from wasmdrop.jobs.job import Job
from wasmdrop.jobs.journal.reader import JournalEntry, JournalReader
from wasmdrop.protocol.errors import SettingsError
from wasmdrop.protocol.slot import FileVersion, InputFile
from wasmdrop.protocol.text import bounded_text
from wasmdrop.system import openat2
from wasmdrop.system.descriptors import NotRegularError, open_regular
from wasmdrop.system.durable_files import replace_file

__all__ = ["add_arguments", "run"]

_NOT_THAT_INPUT: Final = 1

_EPILOG: Final = """\
Drops the job's input again if it still lies in its slot, which is known by its digest: the
file gets a new modification time, nothing else. The new run is a new job; `wasmdrop jobs`
shows it. What is printed is the path of the input.

With --restore an input that was changed or removed since is put back first, if the journal
has kept it: it does so for jobs that failed, up to 16 KiB, for WASMDROP_KEEP_DAYS. An input
that lies there and has not been run yet is never replaced.

Exit status: 0 dropped; 1 the slot does not hold the job's input, or it can't be put back;
2 no such job, or it is not finished, or its slot can't be reached from here.
"""


class _NotThatInputError(Exception):
    """The slot's input is not the job's any more; the text says what it is."""


class _Found(msgspec.Struct, frozen=True):
    """The regular file that lies at an input's place."""

    sha256: str
    status: os.stat_result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("job", metavar="JOB", help="a job's id, or a part of it that no other has")
    parser.add_argument(
        "--restore", action="store_true", help="put the job's input back if another one is there"
    )
    job_view.add_state_dir(parser)


def run(options: argparse.Namespace) -> int:
    """Drop the job's input again; return the exit status."""
    loaded = job_view.load(options)
    with JournalReader(loaded.state_dir) as history:
        entry = history.find(options.job)
        first = history.first_open(entry.job.slot.key)
        latest = history.latest(entry.job.slot.key)
        kept = history.kept_input(entry.job)
    job = entry.job
    _require_finished(entry, first)
    path = job.slot.input_path
    try:
        with _slot_directory(job) as directory:
            _drop_again(job, directory, latest, kept if options.restore else None)
            ready = path + loaded.ready_suffix
            is_ready = _is_there(os.path.basename(ready), directory)  # noqa: PTH119 - any bytes
    except _NotThatInputError as reason:
        _say(f"job {job.id}: {path}: {reason}; {_advice(entry, is_restoring=options.restore)}")
        return _NOT_THAT_INPUT
    except OSError as error:
        raise SettingsError(
            f"job {job.id}: {bounded_text(path)}: can't be dropped again from here:"
            f" {error.strerror}"
        ) from None
    if not is_ready:
        _say(f"the daemon takes it once {ready} is there")
    sys.stdout.buffer.write(os.fsencode(path) + b"\n")
    return 0


def _require_finished(entry: JournalEntry, first: Job | None) -> None:
    job = entry.job
    if not job.state.is_final:
        raise SettingsError(
            f"job {job.id}: it is {job.state} and goes on by itself: {job_view.why(entry, first)}"
        )
    if job.input is None:
        module = "its module" if job.module is None else job.module.path
        raise SettingsError(f"job {job.id}: it had no input; drop {bounded_text(module)} again")


@contextlib.contextmanager
def _slot_directory(job: Job) -> Iterator[int]:
    """Open the directory of the job's input; below the shared one no link is followed to it."""
    path, key = job.slot.input_path, job.slot.key
    root = path.removesuffix(f"/{key}")
    directory, relative = os.path.dirname(path), os.path.dirname(key)  # noqa: PTH120 - any bytes
    if root == path:  # that of INPUT_PATH, elsewhere
        root, relative = directory, ""
    fd = openat2.open_directory(root, relative)
    try:
        yield fd
    finally:
        os.close(fd)


def _drop_again(job: Job, directory: int, latest: Job | None, restored: bytes | None) -> None:
    """Make the input a new version of itself, or put ``restored`` in its place.

    Raises ``_NotThatInputError``.
    """
    assert job.input is not None  # noqa: S101 - asked before
    name = os.path.basename(job.slot.input_path)  # noqa: PTH119 - may hold any bytes
    with _opened(name, directory) as fd:
        sizes = {one.input.size_bytes for one in (job, latest) if one and one.input}
        found = None if fd is None else _found(fd, sizes)
        if fd is not None and found is not None and _is_same(found, job.input):
            if found.status.st_nlink == 1:
                # As touch(1) does: closing a file that was open for writing is an event.
                os.utime(fd)
            else:
                # A new time would be one of its other names' too, and these may be inputs.
                _put(name, directory, _content(fd), found.status)
            return
    if restored is None:
        raise _NotThatInputError("it is gone" if found is None else "it is another input now")
    last_run = None if latest is None else latest.input
    if found is not None and (last_run is None or not _is_same(found, last_run)):
        raise _NotThatInputError("another input lies there, and has not been run yet")
    _put(name, directory, restored, None if found is None else found.status)


@contextlib.contextmanager
def _opened(name: str, directory: int) -> Iterator[int | None]:
    """Open a regular file for reading and writing; None where nothing is there."""
    try:
        path_fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        yield None
        return
    try:
        fd, _status = open_regular(path_fd, os.O_RDWR)
    except NotRegularError as error:
        reason = f"it is {error.strerror}, not a regular file; only its producer can drop it again"
        raise _NotThatInputError(reason) from None
    finally:
        os.close(path_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def _found(fd: int, sizes: set[int | None]) -> _Found:
    """Return what is open at ``fd``; of another size than ``sizes`` it is no input that ran."""
    status = os.fstat(fd)
    if status.st_size not in sizes:
        return _Found("", status)
    with open(fd, "rb", closefd=False) as file:
        return _Found(hashlib.file_digest(file, "sha256").hexdigest(), status)


def _is_same(found: _Found, input_: InputFile) -> bool:
    if input_.sha256 is None:
        return FileVersion.of(found.status) == input_.version
    return found.sha256 == input_.sha256


def _content(fd: int) -> bytes:
    os.lseek(fd, 0, os.SEEK_SET)
    with open(fd, "rb", closefd=False) as file:
        return file.read()


def _put(name: str, directory: int, data: bytes, replaced: os.stat_result | None) -> None:
    """Drop ``data`` at ``name``, unless something else than ``replaced`` is there by now."""
    mode = 0o666 if replaced is None else replaced.st_mode & 0o777
    temporary = f".dropping-{secrets.token_hex(16)}"
    with replace_file(directory, name, temporary, mode) as file:
        file.write(data)
        file.flush()
        if replaced is not None:
            with contextlib.suppress(PermissionError):
                os.fchown(file.fileno(), replaced.st_uid, replaced.st_gid)
            os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())  # before the check, which is to be the last step
        if _identity(name, directory) != (
            None if replaced is None else (replaced.st_ino, replaced.st_mtime_ns)
        ):
            raise _NotThatInputError("another input was dropped just now")
    os.fsync(directory)


def _is_there(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _identity(name: str, directory: int) -> tuple[int, int] | None:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _advice(entry: JournalEntry, *, is_restoring: bool) -> str:
    if not entry.has_input:
        return "the journal has not kept the job's, as it does for small ones of jobs that failed"
    if is_restoring:
        return "the journal keeps the job's for now"
    return "--restore puts the job's back"


def _say(message: str) -> None:
    sys.stderr.write(f"wasmdrop: {job_view.one_line(message, 4000)}\n")
