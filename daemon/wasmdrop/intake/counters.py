"""Counters of intake, for the metrics."""


class IntakeCounters:
    """Counts since the daemon started. Each is written by one thread at a time."""

    def __init__(self) -> None:
        self.events_lost = 0
        """Times that events were lost, each followed by a full scan."""
        self.names_ignored = 0
        """Log lines about ignored names."""
