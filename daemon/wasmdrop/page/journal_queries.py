"""Queries of the page to the journal, on threads, so that they delay no event loop."""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.job_facts import facts_of
from wasmdrop.jobs.journal.reader import JobFilter, JournalEntry, JournalReader
from wasmdrop.page.model import NAME_LIMIT, REASON_LIMIT
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import MESSAGE_LIMIT, bounded_text, describe_value

_Answer = TypeVar("_Answer")
_Kind = TypeVar("_Kind", JobState, Code)

#: Queries at a time. One of all jobs by a condition without an index may take a second of a core.
_AT_ONCE: Final = 2

#: Jobs of one answer.
MAX_LISTED: Final = 200


class JournalQueries:
    """Reads the journal in ``state_dir``; used from one event loop.

    The methods raise ``SettingsError`` and ``StorageError`` if the journal can't be read.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def jobs(self, wanted: JobFilter, limit: int) -> list[dict[str, Any]]:
        """Return at most ``limit`` jobs as `wasmdrop jobs` does, with bounded texts."""

        def read(journal: JournalReader) -> list[dict[str, Any]]:
            return [
                _bounded(facts_of(entry, _first(journal, entry)), REASON_LIMIT)
                for entry in journal.jobs(wanted, min(limit, MAX_LISTED))
            ]

        return await self._read(read)

    async def job(self, job_id: str) -> dict[str, Any] | None:
        """Return a job by its id, with its whole message; None if there is none."""

        def read(journal: JournalReader) -> dict[str, Any] | None:
            entry = journal.by_id(job_id)
            if entry is None:
                return None
            return _bounded(facts_of(entry, _first(journal, entry)), MESSAGE_LIMIT)

        return await self._read(read)

    async def notes(self, job_ids: Iterable[str]) -> dict[str, str]:
        """Return why jobs stay in their state, by id, if that is known."""
        ids = list(job_ids)
        return await self._read(lambda journal: journal.notes(ids)) if ids else {}

    async def _read(self, read: Callable[[JournalReader], _Answer]) -> _Answer:
        async with self._turns:
            return await asyncio.to_thread(self._open_and, read)

    def _open_and(self, read: Callable[[JournalReader], _Answer]) -> _Answer:
        with JournalReader(self._state_dir) as journal:
            return read(journal)


def ended_jobs(state_dir: Path, limit: int) -> list[Job]:
    """Return the jobs that ended last, the oldest first. Blocks."""
    wanted = JobFilter(states=frozenset({JobState.DELIVERED}))
    with JournalReader(state_dir) as journal:
        return [entry.job for entry in journal.jobs(wanted, limit)]


def filter_of(fields: dict[str, list[str]]) -> JobFilter:
    """Return the filter with these ``state``, ``code`` and ``slot``. Raises ``ValueError``."""
    return JobFilter(
        frozenset(_member(JobState, "state", text) for text in fields.get("state", ())),
        frozenset(_member(Code, "code", text) for text in fields.get("code", ())),
        frozenset(fields.get("slot", ())),
    )


def _member(kind: type[_Kind], name: str, text: str) -> _Kind:
    try:
        return kind(text)
    except ValueError:
        expected = ", ".join(kind)
        found = describe_value(text)
        raise ValueError(f"{name}: expected one of {expected}; found {found}") from None


def _first(journal: JournalReader, entry: JournalEntry) -> Job | None:
    """Return the job that an open job may wait for."""
    return None if entry.job.state.is_final else journal.first_open(entry.job.slot.key)


def _bounded(facts: dict[str, Any], message_limit: int) -> dict[str, Any]:
    """Return facts with bounded and printable texts."""
    bounded: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, str):
            limit = message_limit if name in {"message", "why"} else NAME_LIMIT
            bounded[name] = bounded_text(value, limit, keep="\n" if name == "message" else "")
        elif isinstance(value, dict):
            bounded[name] = _bounded(value, message_limit)
        else:
            bounded[name] = value
    return bounded
