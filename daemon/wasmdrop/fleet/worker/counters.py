"""The counters of a worker, which ``/metrics`` reads. Written by the event loop only."""

from enum import StrEnum

from wasmdrop.protocol.outcome import Code
from wasmdrop.system.histogram import Histogram


class Stage(StrEnum):
    """A part of the time that a job spends at a worker. The values are those of a daemon."""

    COMPILE = "compile"
    """Downloading and compiling its module, if it was not in memory."""
    RUN = "run"
    """In its process."""
    DELIVER = "deliver"
    """From the outcome to the stored answer."""
    TOTAL = "total"
    """From the receipt of the job to the stored answer."""


class Verdict(StrEnum):
    """What became of a received job."""

    RAN = "ran"
    """It ran to an outcome, which is stored."""
    RETURNED = "returned"
    """This worker could not run it, or stopped: another one is to."""
    GIVEN_UP = "given-up"
    """It was delivered too often, and did not run."""
    ANSWERED_BEFORE = "answered-before"
    """Another worker had answered it when this one did."""
    REVOKED = "revoked"
    """Its daemon had no use for it any more: it was cancelled, or ended elsewhere."""
    INVALID = "invalid"
    """Its message can't be read, so it can't be answered."""
    LAPSED = "lapsed"
    """Its answer could not be stored in time. It is delivered again."""


class WorkerCounters:
    """Counters since the start."""

    def __init__(self) -> None:
        self.codes: dict[Code, int] = dict.fromkeys(Code, 0)
        """Stored outcomes by code."""
        self.verdicts: dict[Verdict, int] = dict.fromkeys(Verdict, 0)
        self.redeliveries = 0
        """Deliveries of jobs that were delivered before."""
        self.stages = {stage: Histogram() for stage in Stage}
        self.running = 0
        """Jobs that were received and have no outcome yet."""
        self.module_hits = 0
        """Jobs that found their module's machine code in memory."""

    @property
    def answered(self) -> int:
        """Jobs that this worker answered."""
        return sum(
            self.verdicts[verdict] for verdict in (Verdict.RAN, Verdict.RETURNED, Verdict.GIVEN_UP)
        )
