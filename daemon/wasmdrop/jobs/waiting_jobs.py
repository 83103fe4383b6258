"""The waiting jobs of each top directory, and the refusal of more than a directory may have."""

from wasmdrop.jobs.job import DecidedEnd, Job
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import top_directory
from wasmdrop.protocol.text import one_line


class WaitingJobs:
    """Counts the accepted jobs of each top directory that wait; refuses drops beyond ``limit``.

    Without a limit nothing is counted. Used from one event loop.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._by_top: dict[str, set[str]] = {}

    def add(self, job: Job) -> None:
        """Count a job that waits, unless its end is decided."""
        if self._limit is not None and job.end is None:
            self._by_top.setdefault(top_directory(job.slot.key), set()).add(job.id)

    def remove(self, job: Job) -> None:
        """Count a job no more, if it was counted."""
        if self._limit is not None:
            top = top_directory(job.slot.key)
            waiting = self._by_top.get(top, set())
            waiting.discard(job.id)
            if not waiting:
                self._by_top.pop(top, None)

    def why_refused(self, key: str) -> DecidedEnd | None:
        """Return the end of a job that is dropped into a slot now; None if there is room for it."""
        if self._limit is None or self._count(top_directory(key)) < self._limit:
            return None
        return DecidedEnd(
            Code.QUEUE_LIMIT,
            f"the job was refused: {described(top_directory(key))} is at its limit of waiting jobs,"
            f" {self._limit} (WASMDROP_DIRECTORY_QUEUED); drop the input again when some of them"
            " have ended",
        )

    def full_directories(self) -> int:
        """Return how many top directories have as many waiting jobs as they may have.

        Thread-safe.
        """
        if self._limit is None:
            return 0
        return sum(len(waiting) >= self._limit for waiting in self._by_top.copy().values())

    def _count(self, top: str) -> int:
        return len(self._by_top.get(top, ()))


def described(top: str) -> str:
    """Return the name of a top directory for a message. The name is not trusted."""
    return f"the directory {one_line(top)}" if top else "the shared directory itself"
