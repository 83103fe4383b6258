"""The events of a journal, as the sender of a completion hook sees them."""

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Sequence
from functools import partial

from wasmdrop.jobs.journal import events
from wasmdrop.jobs.journal.commit_thread import CommitThread


class EventQueue:
    """The events of a journal; used from one event loop. ``is_busy``: see :class:`CommitThread`."""

    def __init__(
        self, connection: sqlite3.Connection, thread: CommitThread, is_busy: Callable[[], bool]
    ) -> None:
        self.pending: int = connection.execute("SELECT count(*) FROM events").fetchone()[0]
        """Events in the journal."""
        self.trimmed = 0
        """Events that were removed because the journal was too large."""
        self.changed = asyncio.Event()
        """Set when an event was recorded."""
        self.is_busy = is_busy
        self._thread = thread

    def note_recorded(self) -> None:
        """Count an event that the journal is about to record."""
        self.pending += 1
        self.changed.set()

    def note_trimmed(self, count: int) -> None:
        """Count events that the journal removed because it was too large."""
        self.trimmed += count
        self._note_removed(count)

    def _note_removed(self, count: int) -> None:
        self.pending = max(0, self.pending - count)

    def due(
        self, now_ns: int, longest_pause_ns: int, but: Collection[str], limit: int, max_bytes: int
    ) -> "asyncio.Future[events.DueEvents]":
        """Return at most ``limit`` events that are due, except those of the jobs ``but``.

        Returns no more after ``max_bytes`` of markers. An event that is due in more than
        ``longest_pause_ns`` is due now: the clock was set back.
        """
        return self._thread.submit(
            partial(
                events.due,
                now_ns=now_ns,
                latest_ns=now_ns + longest_pause_ns,
                but=frozenset(but),
                limit=limit,
                max_bytes=max_bytes,
            )
        )

    def remove(self, job_ids: Sequence[str]) -> None:
        """Remove events that the hook took. They are sent again if the daemon is killed before."""
        self._note_removed(len(job_ids))
        self._thread.submit_lazily(partial(events.remove, job_ids=job_ids))

    def postpone(self, job_id: str, failures: int, due_ns: int) -> None:
        """Record that the hook failed, and when the event is due again."""
        self._thread.submit_lazily(
            partial(events.postpone, job_id=job_id, failures=failures, due_ns=due_ns)
        )

    async def expire(self, before_ns: int) -> list[str]:
        """Remove some events that were recorded before that time; return the ids of their jobs.

        Removes some hundred at a time, the oldest first: call it until it removes none.
        """
        expired: list[str] = await self._thread.submit(partial(events.expire, before_ns=before_ns))
        self._note_removed(len(expired))
        return expired
