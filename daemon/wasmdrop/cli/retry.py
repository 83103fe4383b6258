"""``wasmdrop retry``: run the input of a finished job again, by the drop protocol.

Only the daemon writes to the journal. This command drops the input again, so that the daemon runs
it now or when it starts. Guarantees that no input is lost before it has run: only ``--restore``
replaces the input in the slot, and only if the journal has a job of it.
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
from wasmdrop.cli.standard_streams import say
from wasmdrop.jobs import job_facts
from wasmdrop.jobs.job import Job
from wasmdrop.jobs.journal.reader import JournalEntry, JournalReader
from wasmdrop.protocol.errors import SettingsError
from wasmdrop.protocol.slot import FileVersion, InputFile
from wasmdrop.protocol.text import bounded_text
from wasmdrop.retention.withdrawal import DONE, FAILED, archive_name
from wasmdrop.system import openat2
from wasmdrop.system.descriptors import NotRegularError, open_regular
from wasmdrop.system.durable_files import replace_file

_OTHER_INPUT: Final = 1

_EPILOG: Final = """\
Drops the job's input again if the slot still has it, by its digest: only the modification
time of the file changes. The new run is a new job, which `wasmdrop jobs` lists. Prints the
path of the input.

With --restore an input that was changed or removed since is restored first, from done/ or
failed/ beside it (WASMDROP_AFTER), or from the journal, which keeps inputs of failed jobs,
up to 16 KiB, for WASMDROP_KEEP_DAYS. An input in the slot that has not run yet is never
replaced.

Exit status: 0 dropped; 1 the slot does not have the job's input, or it can't be restored;
2 no such job, or it is not finished, or its slot can't be reached from here.
"""


class _OtherInputError(Exception):
    """The slot no longer has the job's input; the text describes its present content."""


class _SlotFile(msgspec.Struct, frozen=True):
    """The regular file at the path of an input."""

    sha256: str
    status: os.stat_result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.epilog = _EPILOG
    parser.add_argument("job", metavar="JOB", help="id of a job, or a unique part of it")
    parser.add_argument(
        "--restore",
        action="store_true",
        help="restore an input that was changed or removed",
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
    archive: str | None = None
    try:
        with _slot_directory(job) as directory:
            archive = _archive_of(job, directory)
            if archive is not None and (data := _archived(job, directory, archive)) is not None:
                kept = data
            _drop_again(job, directory, latest, kept if options.restore else None)
            ready = path + loaded.ready_suffix
            is_ready = _is_there(os.path.basename(ready), directory)  # noqa: PTH119 - any bytes
    except _OtherInputError as reason:
        advice = _advice(entry, archive, is_restoring=options.restore)
        say(f"job {job.id}: {path}: {reason}; {advice}")
        return _OTHER_INPUT
    except OSError as error:
        raise SettingsError(
            f"job {job.id}: {bounded_text(path)}: can't be dropped again from here:"
            f" {error.strerror}"
        ) from None
    if not is_ready:
        say(f"the daemon takes it when {ready} exists")
    sys.stdout.buffer.write(os.fsencode(path) + b"\n")
    return 0


def _require_finished(entry: JournalEntry, first: Job | None) -> None:
    job = entry.job
    if not job.state.is_final:
        raise SettingsError(
            f"job {job.id}: it is {job.state}, so it needs no retry: {job_facts.why(entry, first)}"
        )
    if job.input is None:
        module = "its module" if job.module is None else job.module.path
        raise SettingsError(f"job {job.id}: it had no input; drop {bounded_text(module)} again")


@contextlib.contextmanager
def _slot_directory(job: Job) -> Iterator[int]:
    """Open the directory of the job's input, without following links below the shared one."""
    path, key = job.slot.input_path, job.slot.key
    root = path.removesuffix(f"/{key}")
    directory, relative = os.path.dirname(path), os.path.dirname(key)  # noqa: PTH120 - any bytes
    if root == path:  # INPUT_PATH is outside of the shared directory
        root, relative = directory, ""
    fd = openat2.open_directory(root, relative)
    try:
        yield fd
    finally:
        os.close(fd)


def _archive_of(job: Job, directory: int) -> str | None:
    """Return where the job's input is, below its directory, if the daemon archived it."""
    name = archive_name(job.id, os.path.basename(job.slot.input_path))  # noqa: PTH119 - any bytes
    for archive in (DONE, FAILED):
        with contextlib.suppress(OSError):
            os.close(openat2.open_at(directory, f"{archive}/{name}", os.O_PATH))
            return f"{archive}/{name}"
    return None


def _archived(job: Job, directory: int, archive: str) -> bytes | None:
    """Return the archived input if it is the job's, by its digest."""
    assert job.input is not None  # noqa: S101 - checked before
    try:
        fd, status = openat2.open_regular_at(directory, archive)
    except NotRegularError:
        return None
    with os.fdopen(fd, "rb") as file:
        if status.st_size != job.input.size_bytes:
            return None
        data = file.read(status.st_size)
    return data if hashlib.sha256(data).hexdigest() == job.input.sha256 else None


def _drop_again(job: Job, directory: int, latest: Job | None, restored: bytes | None) -> None:
    """Give the input a new version, or restore it. Raises ``_OtherInputError``."""
    assert job.input is not None  # noqa: S101 - checked before
    name = os.path.basename(job.slot.input_path)  # noqa: PTH119 - may hold any bytes
    with _opened(name, directory) as fd:
        sizes = {one.input.size_bytes for one in (job, latest) if one and one.input}
        found = None if fd is None else _found(fd, sizes)
        if fd is not None and found is not None and _is_same(found, job.input):
            if found.status.st_nlink == 1:
                # As touch(1) does: closing a file that was open for writing is an event.
                os.utime(fd)
            else:
                # Its other names, which may be inputs, must not get a new time.
                _put(name, directory, _content(fd), found.status)
            return
    if restored is None:
        raise _OtherInputError("it is gone" if found is None else "it is another input now")
    last_run = None if latest is None else latest.input
    if found is not None and (last_run is None or not _is_same(found, last_run)):
        raise _OtherInputError("the slot has another input, which has not run yet")
    _put(name, directory, restored, None if found is None else found.status)


@contextlib.contextmanager
def _opened(name: str, directory: int) -> Iterator[int | None]:
    """Open a regular file for reading and writing; yield None if nothing is there."""
    try:
        path_fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        yield None
        return
    try:
        fd, _status = open_regular(path_fd, os.O_RDWR)
    except NotRegularError as error:
        reason = f"it is {error.strerror}, not a regular file; only its producer can drop it again"
        raise _OtherInputError(reason) from None
    finally:
        os.close(path_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def _found(fd: int, sizes: set[int | None]) -> _SlotFile:
    """Return the file open at ``fd``; if its size is not in ``sizes``, it is no input that ran."""
    status = os.fstat(fd)
    if status.st_size not in sizes:
        return _SlotFile("", status)
    with open(fd, "rb", closefd=False) as file:
        return _SlotFile(hashlib.file_digest(file, "sha256").hexdigest(), status)


def _is_same(found: _SlotFile, input_: InputFile) -> bool:
    if input_.sha256 is None:
        return FileVersion.of(found.status) == input_.version
    return found.sha256 == input_.sha256


def _content(fd: int) -> bytes:
    os.lseek(fd, 0, os.SEEK_SET)
    with open(fd, "rb", closefd=False) as file:
        return file.read()


def _put(name: str, directory: int, data: bytes, replaced: os.stat_result | None) -> None:
    """Drop ``data`` at ``name``, unless ``replaced`` is no longer there."""
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
            raise _OtherInputError("another input was dropped just now")
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


def _advice(entry: JournalEntry, archive: str | None, *, is_restoring: bool) -> str:
    if archive is not None:
        where = f"{bounded_text(archive)} beside it has the job's input"
        return where if is_restoring else f"{where}: --restore restores it"
    if not entry.has_input:
        return "the journal has no copy: it keeps only small inputs of failed jobs"
    if is_restoring:
        return "the journal has a copy of the job's input"
    return "--restore restores the job's input"
