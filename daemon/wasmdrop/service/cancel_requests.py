"""Requests to cancel jobs: files that ``wasmdrop cancel`` creates in the state directory.

A request is a regular file ``STATE/cancel/JOB`` of root or of the daemon's user. Its content is
not read. The FIFO ``STATE/cancel.wake`` tells the daemon that there are new ones. A request is
removed when its cancellation is durable, or if the job has ended. The state directory is private,
so no other user can make one.
"""

import asyncio
import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

import structlog

from wasmdrop.jobs.job import DecidedEnd, Job, is_job_id, is_refused
from wasmdrop.protocol.outcome import Code
from wasmdrop.system import openat2
from wasmdrop.system.descriptors import file_kind
from wasmdrop.system.private_files import why_not_private

_log = structlog.get_logger()

#: The directory of the requests and the FIFO, in the state directory.
REQUESTS_NAME: Final = "cancel"
WAKE_NAME: Final = "cancel.wake"

#: How the results explain a cancellation that was requested.
_REASON: Final = "cancelled with `wasmdrop cancel`"

#: Requests that are handled at a time.
_AT_ONCE: Final = 200

_WAKE_BYTES: Final = 4096


_Cancel: TypeAlias = "Callable[[str, str], asyncio.Future[bool]]"
_FindJob: TypeAlias = "Callable[[str], asyncio.Future[Job | None]]"


@contextlib.contextmanager
def opened_requests(state_dir: Path) -> Iterator[int]:
    """Open the directory of the requests, which is created if there is none."""
    state = openat2.open_directory(str(state_dir), "")
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(REQUESTS_NAME, 0o700, dir_fd=state)
            # The daemon removes the requests, also if root creates the directory.
            owner = os.fstat(state)
            if owner.st_uid != os.geteuid():
                os.chown(REQUESTS_NAME, owner.st_uid, owner.st_gid, dir_fd=state)
    finally:
        os.close(state)
    directory = openat2.open_directory(str(state_dir), REQUESTS_NAME)
    try:
        yield directory
    finally:
        os.close(directory)


class CancelRequests:
    """Takes requests; used from one event loop.

    If the directory or the FIFO can't be used, the daemon goes on without them, with a warning.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ignored: set[str] = set()
        """Names that were logged, so that each is logged once."""
        self._fifo: int | None = None

    def ends(self) -> dict[str, DecidedEnd]:
        """Return how the requested jobs are to end, by their ids. Blocks.

        A later request finds a daemon: its command waits for the job, whose end is not certain.
        """
        self._open_fifo()
        return dict.fromkeys(self._pending(), DecidedEnd(Code.CANCELLED, _REASON))

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Notice new requests during a block."""
        self._open_fifo()
        fifo = self._fifo
        if fifo is None:
            yield
            return
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(fifo, _WAKE_BYTES)
            self._woken.set()

        loop.add_reader(fifo, wake)
        try:
            yield
        finally:
            loop.remove_reader(fifo)
            self._close_fifo()

    def start(self, cancel: _Cancel, find_job: _FindJob, period_seconds: float) -> None:
        """Take all requests now, when new ones come, and every period.

        ``cancel``: see :meth:`Dispatcher.cancel`; ``find_job``: :meth:`Journal.find_job`.
        """
        self._task = asyncio.create_task(self._serve(cancel, find_job, period_seconds))

    def stop(self) -> None:
        """Take no more requests; the next daemon does."""
        if self._task is not None:
            self._task.cancel()
        else:
            self._close_fifo()

    async def _serve(self, cancel: _Cancel, find_job: _FindJob, period_seconds: float) -> None:
        # First, so that the daemon notices each request that comes after it has looked.
        with self._listening():
            while True:
                self._woken.clear()
                try:
                    await self._take(cancel, find_job)
                except Exception:  # noqa: BLE001 - jobs do not need it; the next round retries
                    _log.exception("cancel-requests-failed")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), period_seconds)

    async def _take(self, cancel: _Cancel, find_job: _FindJob) -> None:
        pending = await asyncio.to_thread(self._pending)
        for start in range(0, len(pending), _AT_ONCE):
            some = pending[start : start + _AT_ONCE]
            cancelled = [(job_id, cancel(job_id, _REASON)) for job_id in some]
            done = [
                job_id
                for job_id, future in cancelled
                if await future or _is_over(job_id, await find_job(job_id))
            ]
            await asyncio.to_thread(self._remove, done)

    # On a thread

    def _pending(self) -> list[str]:
        """Return the ids of the requested jobs, in the order of their drops."""
        try:
            with self._opened() as directory, os.scandir(directory) as entries:
                names = [entry.name for entry in entries]
                return sorted(name for name in names if self._counts(name, directory))
        except OSError as error:
            self._ignore(f"{REQUESTS_NAME}/", error.strerror or str(error))
            return []

    def _remove(self, job_ids: list[str]) -> None:
        with self._opened() as directory:
            for job_id in job_ids:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(job_id, dir_fd=directory)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        with opened_requests(self._state_dir) as directory:
            if (reason := why_not_private(os.fstat(directory))) is not None:
                raise PermissionError(0, reason)
            yield directory

    def _counts(self, name: str, directory: int) -> bool:
        """Whether a file is a request."""
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        reason = None
        if (kind := file_kind(status)) is not None:
            reason = f"it is {kind}, not a regular file"
        elif status.st_uid not in {0, os.geteuid()}:
            reason = f"it belongs to user {status.st_uid}"
        elif not is_job_id(name):
            reason = "its name is not the id of a job"
        if reason is not None:
            self._ignore(name, reason)
        return reason is None

    def _ignore(self, name: str, reason: str) -> None:
        if name not in self._ignored:
            self._ignored.add(name)
            _log.warning("cancel-request-ignored", request=name, reason=reason)

    def _open_fifo(self) -> None:
        if self._fifo is None:
            try:
                self._fifo = self._opened_fifo()
            except OSError as error:
                path = str(self._state_dir / WAKE_NAME)
                _log.warning("cancel-requests-unnoticed", path=path, error=error.strerror)

    def _close_fifo(self) -> None:
        if self._fifo is not None:
            os.close(self._fifo)
            self._fifo = None

    def _opened_fifo(self) -> int:
        state = openat2.open_directory(str(self._state_dir), "")
        try:
            with contextlib.suppress(FileExistsError):
                os.mkfifo(WAKE_NAME, 0o600, dir_fd=state)
            flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            fifo = os.open(WAKE_NAME, flags, dir_fd=state)
        finally:
            os.close(state)
        if not stat.S_ISFIFO(os.fstat(fifo).st_mode):
            os.close(fifo)
            raise OSError(0, "it is not a FIFO; remove it")
        return fifo


def _is_over(job_id: str, job: Job | None) -> bool:
    """Whether a job needs no cancellation; else its request waits for the next round or start."""
    if job is None:
        _log.warning("cancel-request-ignored", request=job_id, reason="there is no such job")
        return True
    if job.state.has_outcome or is_refused(job):
        if job.code is not Code.CANCELLED:
            code = job.end.code if job.end is not None else job.code
            reason = f"the job had ended: {code or job.state}"
            _log.warning("cancel-request-ignored", request=job_id, reason=reason)
        return True
    return False
