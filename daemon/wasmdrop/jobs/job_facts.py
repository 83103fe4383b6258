"""Facts of a job for other programs and for people: its JSON, why it waits, how long it took."""

import json
import time
from typing import Any, Final

from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.reader import JournalEntry
from wasmdrop.protocol.marker import timestamp
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import InputFile, PinnedModule
from wasmdrop.protocol.text import one_line

#: Digits after the point of seconds in JSON.
_DIGITS: Final = 3


def as_json(entry: JournalEntry, first: Job | None) -> str:
    """Return all facts of a job in one line."""
    # Only ASCII: names of slots may have any bytes.
    return json.dumps(facts_of(entry, first), separators=(",", ":"))


def facts_of(entry: JournalEntry, first: Job | None) -> dict[str, Any]:
    """Return all facts of a job. Times are in UTC, and None if they did not happen."""
    job = entry.job
    is_open = not job.state.is_final
    return {
        "job": job.id,
        "id": job.producer_id,
        "slot": job.slot.key,
        "state": job.state,
        "why": why(entry, first) if is_open else None,
        "state_seconds": round(seconds_of(entry), _DIGITS) if is_open else None,
        "status": None if job.code is None else job.code.status,
        "code": job.code,
        "message": job.message,
        "attempt": job.attempt,
        "worker": job.worker,
        "module_reference": job.module_reference,
        "module": _file(job.module),
        "input": _file(job.input),
        "input_is_kept": entry.has_input,
        "dropped_at": timestamp(job.dropped_at_ns),
        "started_at": _time(job.started_at_ns),
        "finished_at": _time(job.finished_at_ns),
        "changed_at": timestamp(entry.changed_at_ns),
    }


def why(entry: JournalEntry, first: Job | None) -> str:
    """Return the reason why an open job waits, or why a finished one failed.

    ``first`` is the first open job of its slot. The text is one line, safe for a terminal.
    """
    return one_line(_why_it_ends(entry.job) or entry.note or _why(entry.job, first))


def _why_it_ends(job: Job) -> str:
    """Return the decided end of an open job that has not come to it; empty without one."""
    if job.end is None or job.state.has_outcome:
        return ""
    how = "is being cancelled" if job.end.code is Code.CANCELLED else f"ends as {job.end.code}"
    return f"{how}: {job.end.message}"


def _why(job: Job, first: Job | None) -> str:
    match job.state:
        case JobState.QUEUED if first is not None and first.id != job.id:
            return f"waits in its slot behind job {first.id}"
        case JobState.QUEUED:
            return "waits for a worker"
        case JobState.WAITING:
            return "its module is not there yet"
        case JobState.COMPILING:
            module = "" if job.module is None else f": {job.module.path}"
            return f"its module is being compiled{module}"
        case JobState.RUNNING if job.is_remote:
            return f"attempt {job.attempt} is in the fleet"
        case JobState.RUNNING:
            return f"attempt {job.attempt} is running"
        case JobState.EXECUTED:
            return "its results are being delivered"
        case JobState.DISCARDED if job.code is not None:
            return "its results were discarded because its slot was missing for too long"
        case JobState.DISCARDED:
            return "its module needs an input, and the slot has none"
    return job.message.partition("\n")[0]


def seconds_of(entry: JournalEntry) -> float:
    """Return the time an open job has been in its state, or a finished one took in total."""
    job = entry.job
    end_ns = job.finished_at_ns
    if not job.state.is_final:
        since_ns = end_ns if job.state is JobState.EXECUTED and end_ns else entry.changed_at_ns
        return seconds_since(since_ns)
    return max(0.0, ((end_ns or entry.changed_at_ns) - job.dropped_at_ns) / 1e9)


def seconds_since(nanoseconds: int) -> float:
    """Return the age of a time since 1970; 0 for one in the future."""
    return max(0.0, (time.time_ns() - nanoseconds) / 1e9)


def _file(file: InputFile | PinnedModule | None) -> dict[str, Any] | None:
    if file is None:
        return None
    return {"path": file.path, "sha256": file.sha256, "bytes": file.size_bytes}


def _time(nanoseconds: int | None) -> str | None:
    return None if nanoseconds is None else timestamp(nanoseconds)
