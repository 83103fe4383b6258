"""Counters of intake, read by metrics."""

__all__ = ["IntakeCounters"]


class IntakeCounters:
    """Counts since the daemon started. Each is written by one thread."""

    def __init__(self) -> None:
        self.events_lost = 0
        """Times that the kernel dropped events, which a full scan made up for."""
        self.names_ignored = 0
        """Log lines about ignored files whose names are almost those of inputs or modules."""
