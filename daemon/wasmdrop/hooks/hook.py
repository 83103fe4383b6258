"""The interface of a hook, and the state of a hook as the sender reports it."""

from typing import Protocol

import msgspec

from wasmdrop.jobs.journal.events import Event
from wasmdrop.protocol.errors import WasmdropError


class HookFailedError(WasmdropError):
    """The hook did not take an event, which is sent again later. The text is one line."""

    def __init__(self, reason: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds
        """The pause that the receiver asked for; None if it did not."""


class Hook(Protocol):
    """Tells another program that a job has finished."""

    @property
    def at_once(self) -> int:
        """Return how many events it takes at a time."""

    async def send(self, event: Event) -> None:
        """Return when the hook has taken the event. Raises ``HookFailedError``."""


class HookBacklog(msgspec.Struct, frozen=True):
    """The state of a hook."""

    pending: int
    """Events that the hook has not taken yet."""
    oldest_seconds: float
    """Age of the oldest of them; 0 without one."""
    delivered: int
    """Events that it took since the start of the daemon."""
    failed: int
    """Attempts that failed since then."""
    given_up: int
    """Events that were given up since then."""
