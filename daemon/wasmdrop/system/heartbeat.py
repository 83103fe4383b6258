"""Heartbeats: show that a part of the daemon makes progress."""

import time


class Heartbeat:
    """The time at which a part of the daemon last made progress."""

    def __init__(self) -> None:
        self.heard_at: float | None = None
        """By the monotonic clock, in seconds; None before the first time."""

    def beat(self) -> None:
        """Record that the part makes progress now."""
        self.heard_at = time.monotonic()
