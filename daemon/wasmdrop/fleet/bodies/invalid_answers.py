"""Answers that a worker must not give, by their flaw."""

from enum import StrEnum


class Flaw(StrEnum):
    """What is wrong with an answer."""

    MALFORMED = "malformed"
    """It does not decode."""
    VALUE = "value"
    """A code or a value that no run of this job can have."""
    SIZE = "size"
    """It is larger than the job's limits allow, or not as large as announced."""
    PATH = "path"
    """An output file whose path is not plain, or is given twice."""
    DIGEST = "digest"
    """Bytes that do not match their digest."""
    MISSING = "missing"
    """Chunks that are not there."""


class InvalidAnswerError(Exception):
    """An answer that the daemon does not take. The text says why, in one line."""

    def __init__(self, flaw: Flaw, reason: str) -> None:
        super().__init__(reason)
        self.flaw = flaw
