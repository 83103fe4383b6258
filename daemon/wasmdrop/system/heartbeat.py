"""Signs of life of a part of the daemon."""

import time

__all__ = ["Heartbeat"]


class Heartbeat:
    """When a part of the daemon was last heard from."""

    def __init__(self) -> None:
        self.heard_at: float | None = None
        """By the monotonic clock, in seconds; None before the first time."""

    def beat(self) -> None:
        """Note that the part is at work now."""
        self.heard_at = time.monotonic()
