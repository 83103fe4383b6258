"""``wasmdrop cancel``: end jobs that have not ended, by requests in the state directory.

The daemon takes the requests, now or when it starts: see :mod:`wasmdrop.service.cancel_requests`.
A request is durable before this command reports anything.
"""

import argparse
import contextlib
import errno
import itertools
import os
import stat
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from wasmdrop.cli import job_view
from wasmdrop.cli.exit_status import USAGE_ERROR
from wasmdrop.cli.standard_streams import say
from wasmdrop.jobs.job import Job, is_refused
from wasmdrop.jobs.journal.reader import JournalReader
from wasmdrop.protocol.errors import SettingsError
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import one_line
from wasmdrop.service.cancel_requests import REQUESTS_NAME, WAKE_NAME, opened_requests
from wasmdrop.system import openat2
from wasmdrop.system.durable_files import sync_directory

_ENDED: Final = 1

#: Time between two looks at the journal; each takes half a millisecond.
_POLL_SECONDS: Final = 0.05
#: The daemon is woken again after so many looks, because it may have been restarted.
_LOOKS_PER_WAKE: Final = 20

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

#: Errors that mean that no daemon reads the FIFO.
_NO_DAEMON: Final = frozenset({errno.ENXIO, errno.ENOENT})

_EPILOG: Final = """\
Cancels jobs that wait or run: a running one is killed, and one that waits does not begin. Each
ends with the code `cancelled` and gets result files that say so. The command waits until each
job has ended, or until only an earlier job of its slot has to end first. If no daemon is running,
the jobs are cancelled when one starts, if they had not ended. Prints the ids of the cancelled jobs.

Exit status: 0 cancelled; 1 a job had already ended; 2 no such job, or the journal can't be read.

Only root and the user of the daemon can cancel jobs. Producers: see docs/protocol.md.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "jobs", nargs="+", metavar="JOB", help="id of a job, or a unique part of it"
    )
    job_view.add_state_dir(parser)


def run(options: argparse.Namespace) -> int:
    """Cancel the jobs; return the exit status."""
    state_dir = job_view.load(options).state_dir
    status = 0
    wanted: dict[str, Job] = {}
    for name in options.jobs:
        try:
            with JournalReader(state_dir) as history:
                job = history.find(name).job
        except SettingsError as error:
            say(str(error))
            status = USAGE_ERROR
        else:
            wanted[job.id] = job
    if open_ids := [job.id for job in wanted.values() if not _has_ended(job)]:
        _request(state_dir, open_ids)
    for job_id in wanted:
        status = max(status, _await_end(state_dir, job_id))
    return status


def _request(state_dir: Path, job_ids: Iterable[str]) -> None:
    """Create the requests durably."""
    try:
        with opened_requests(state_dir) as directory:
            for job_id in job_ids:
                with contextlib.suppress(FileExistsError):  # requested before
                    os.close(os.open(job_id, _CREATE, 0o600, dir_fd=directory))
            os.fsync(directory)
        sync_directory(state_dir)
    except OSError as error:
        raise SettingsError(
            f"{state_dir / REQUESTS_NAME}: requests can't be created there by user"
            f" {os.geteuid()}: {error.strerror}; jobs are cancelled by root and by the user that"
            " runs the daemon"
        ) from None


def _wake(state_dir: Path) -> bool:
    """Wake the daemon; return whether one runs."""
    state = openat2.open_directory(str(state_dir), "")
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fifo = os.open(WAKE_NAME, flags, dir_fd=state)
    except OSError as error:
        if error.errno in _NO_DAEMON:
            return False
        raise SettingsError(
            f"{state_dir / WAKE_NAME}: the daemon can't be woken: {error.strerror}; expected a"
            " FIFO that root and the user of the daemon can write to"
        ) from None
    finally:
        os.close(state)
    try:
        if stat.S_ISFIFO(os.fstat(fifo).st_mode):
            with contextlib.suppress(BlockingIOError):  # it has enough to read
                os.write(fifo, b"\n")
    finally:
        os.close(fifo)
    return True


def _await_end(state_dir: Path, job_id: str) -> int:
    """Wait until a job has ended, or is certain to end as cancelled; return the exit status."""
    for look in itertools.count():
        with JournalReader(state_dir) as history:
            job = history.find(job_id).job
            first = history.first_open(job.slot.key)
        if _has_ended(job):
            if job.code is Code.CANCELLED:
                break
            say(f"job {job.id}: it had already ended: {_end_of(job)}")
            return _ENDED
        if job.end is not None and first is not None and first.id != job.id:
            say(f"job {job.id}: its results follow those of job {first.id} in its slot")
            break
        if look % _LOOKS_PER_WAKE == 0 and not _wake(state_dir):
            hint = "the next one cancels the job if it had not ended"
            say(f"job {job.id}: no daemon is running; {hint}")
            break
        time.sleep(_POLL_SECONDS)
    sys.stdout.write(f"{job_id}\n")
    return 0


def _has_ended(job: Job) -> bool:
    return job.state.has_outcome or is_refused(job)


def _end_of(job: Job) -> str:
    end = job if job.code is not None else job.end
    if end is None or end.code is None:
        return job.state
    reason = one_line(end.message.partition("\n")[0])
    return f"{end.code}: {reason}" if reason else end.code
