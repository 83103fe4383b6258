"""The seam to those parts that follow jobs: they see each outcome and change nothing."""

from typing import Protocol

from wasmdrop.jobs.job import Job
from wasmdrop.protocol.outcome import Outcome


class JobObserver(Protocol):
    """Follows jobs. Called on the event loop, on the path of every job: it must be quick."""

    def executed(self, job: Job, outcome: Outcome) -> None:
        """Note a job that has an outcome; its results are not in place yet."""

    def delivered(self, job: Job) -> None:
        """Note a job whose results are in place."""
