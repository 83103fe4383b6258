"""What the daemon counts of its jobs in the fleet; plain counters, read by ``/metrics``.

Each is written by the event loop's thread. A reader on another thread sees recent values.
"""

from enum import StrEnum


class Reason(StrEnum):
    """Why a job is published."""

    NEW = "new"
    RESUMED = "resumed"
    """An earlier daemon may have published it; the fleet keeps it once."""
    LOST = "lost"
    """It is neither in its stream nor answered."""
    OVERDUE = "overdue"
    """A worker began it, and did not answer in time."""
    RETURNED = "returned"
    """A worker gave it back."""
    GIVEN_UP = "given-up"
    """Leases lapsed, but not as many workers began it."""
    INVALID = "invalid"
    """Its answer was not valid."""


class Verdict(StrEnum):
    """What became of an answer."""

    RAN = "ran"
    RETURNED = "returned"
    GIVEN_UP = "given-up"
    INVALID = "invalid"
    """It does not decode, or does not fit the job."""
    UNKNOWN = "unknown"
    """Its ticket is not that of the job it names."""
    LATE = "late"
    """Its job was answered before, or is not open any more."""


class FleetMetrics:
    """The counters of one daemon."""

    def __init__(self) -> None:
        self.published = dict.fromkeys(Reason, 0)
        self.answers = dict.fromkeys(Verdict, 0)
        self.unanswered = 0
        """Jobs that are in the fleet and not answered."""
        self.waiting = 0
        """Jobs that wait for room in the window, or for the fleet."""
        self.fallback_runs = 0
        """Jobs that ran here because the fleet could not take them, or did not answer."""
        self.is_connected = False
        self.is_away = False
        """Whether the fleet does not answer for so long that jobs run elsewhere or wait."""
        self.answered = 0
        """Accepted answers to jobs that this daemon published itself."""
        self.answer_seconds = 0.0
        """The sum of their times from the publication to the answer."""
