"""The interface of a hook, and the state of a hook as the sender reports it."""

from collections.abc import Callable, Sequence
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


class Sent(msgspec.Struct, frozen=True):
    """How far a hook came with some events."""

    taken: int
    """How many of them, from the first on, it has taken."""
    failure: HookFailedError | None = None
    """Why it did not take the next one; None if that one was not tried."""


class Hook(Protocol):
    """Tells another program that jobs have finished."""

    @property
    def at_once(self) -> int:
        """Return how many calls of :meth:`send` it takes at a time."""

    @property
    def most_events(self) -> int:
        """Return how many events a call takes at most."""

    async def send(self, events: Sequence[Event], may_go_on: Callable[[], bool]) -> Sent:
        """Pass on events, in order, until one fails.

        ``may_go_on`` is called on any thread before each event but the first.
        """


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
