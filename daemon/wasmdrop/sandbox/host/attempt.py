"""The identity of an attempt of a job, for executors that outlive the daemon."""

import msgspec


class Attempt(msgspec.Struct, frozen=True):
    """One attempt of a job. An executor that runs it elsewhere finds it again by these values."""

    job_id: str
    number: int
    """Counted from 1."""
    is_resumed: bool = False
    """Whether an earlier daemon may have begun it."""
    directory: str = ""
    """The top directory of its slot: directories take turns."""
