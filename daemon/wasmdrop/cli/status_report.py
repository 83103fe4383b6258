"""Collects what ``wasmdrop status`` shows. Nothing here waits for long, or writes.

Everything that touches storage or the network runs in a child process with a time limit: a mount
whose server is gone must not hang the command.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from wasmdrop.jobs import job_facts
from wasmdrop.jobs.job import JobState
from wasmdrop.jobs.journal.reader import JobFilter, JournalEntry, JournalReader
from wasmdrop.jobs.journal.summary import Summary
from wasmdrop.protocol.errors import StorageError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import one_line
from wasmdrop.service.instance_lock import Holder, state_holder
from wasmdrop.settings import Settings
from wasmdrop.system.bounded_calls import BoundedCall, NoAnswerError
from wasmdrop.system.process_facts import process_facts

__all__ = ["NoAnswerError", "Report", "collect", "within_limit"]

T = TypeVar("T")

#: Time limits in seconds: of storage and of the daemon's answer, and of the journal, which may have
#: a million jobs on a slow disk.
_ANSWER_SECONDS: Final = 5.0
_JOURNAL_SECONDS: Final = 20.0

#: Figures of finished jobs are of the last hour.
_HOUR_NS: Final = 3600 * 1_000_000_000

#: Listed jobs that run, and that failed last.
_RUNNING: Final = 20
_FAILURES: Final = 3

#: Free space below which a disk needs attention, in bytes, whatever is reserved.
_LITTLE_BYTES: Final = 64 * MEBIBYTE

#: An answer of ``/readyz``, in bytes.
_ANSWER_BYTES: Final = 1 << 16


class DaemonFacts(msgspec.Struct, frozen=True):
    """The daemon of the state directory."""

    is_running: bool
    name: str = ""
    """``process 12 on host``."""
    pid: int | None = None
    """None if the daemon runs on another host or in another container."""
    user: str | None = None
    version: str | None = None
    uptime_seconds: float | None = None
    has_ended: bool = False
    """Whether the daemon has ended and only its children still hold its lock."""


class Readiness(msgspec.Struct, frozen=True):
    """The answer of ``/readyz``."""

    address: str
    is_ready: bool | None
    """None if there is no answer."""
    reasons: tuple[str, ...]


class Folder(msgspec.Struct, frozen=True):
    """A directory and the free space of its filesystem."""

    name: str
    path: str
    free_bytes: int | None = None
    total_bytes: int | None = None
    problem: str = ""
    """Why it is not usable; empty if it is."""


class JobLine(msgspec.Struct, frozen=True):
    """A job that runs or failed."""

    job: str
    slot: str
    code: str | None
    why: str
    seconds: float
    """Since it began to run, or since it failed."""


class JournalFacts(msgspec.Struct, frozen=True):
    """The journal in figures."""

    summary: Summary
    running: tuple[JobLine, ...]
    failures: tuple[JobLine, ...]


class Report(msgspec.Struct, frozen=True):
    """Everything that the command shows."""

    daemon: DaemonFacts
    ready: Readiness | None
    """None if ``WASMDROP_HTTP`` is not set."""
    folders: tuple[Folder, ...]
    journal: JournalFacts
    attention: tuple[str, ...]
    """What needs attention, the gravest first; each one line that is safe for a terminal."""


def within_limit(function: Callable[[], T]) -> T:
    """Return the result of a function that may hang. Raises ``NoAnswerError``."""
    return BoundedCall(function).result(time.monotonic() + _ANSWER_SECONDS)


def collect(settings: Settings, is_hanging: bool) -> Report:
    """Return the report. Raises ``SettingsError`` and ``StorageError`` if there is no journal.

    ``is_hanging``: only the state directory answered when the settings were loaded.
    """
    named = {"state": settings.state_dir}
    if not is_hanging:
        named = {"shared": settings.shared_dir, "wasm": settings.wasm_dir} | named
    begun = time.monotonic()
    journal_call = BoundedCall(lambda: _journal(settings.state_dir))
    daemon_call = BoundedCall(lambda: _daemon(settings.state_dir))
    folder_calls = {
        name: BoundedCall(lambda name=name, path=path: _folder(name, path))  # type: ignore[misc]
        for name, path in named.items()
    }
    ready_call = None
    if settings.http is not None and not settings.http.endswith(":0"):
        address = settings.http
        ready_call = BoundedCall(lambda: _readiness(address))
    soon = begun + _ANSWER_SECONDS
    folders = tuple(
        _answer(call, soon, Folder(name, str(named[name]), problem=_silence()))
        for name, call in folder_calls.items()
    )
    if is_hanging:
        folders = (Folder("shared", "(or wasm, or a grant)", problem=_silence()), *folders)
    ready = None
    if ready_call is not None:
        silent = Readiness(settings.http or "", None, (_silence(),))
        ready = _answer(ready_call, soon, silent)
    try:
        journal = journal_call.result(begun + _JOURNAL_SECONDS)
        daemon = daemon_call.result(soon)
    except NoAnswerError:
        reason = f"the journal can't be read: {_silence()}"
        raise StorageError(f"{settings.state_dir}: {reason}") from None
    attention = tuple(_attention(settings, daemon, ready, folders, journal.summary))
    return Report(daemon, ready, folders, journal, attention)


def _answer(call: BoundedCall[Any], deadline: float, otherwise: Any) -> Any:
    try:
        return call.result(deadline)
    except NoAnswerError:
        return otherwise


def _silence() -> str:
    return "no answer: its storage hangs"


# --- In child processes


def _journal(state_dir: Path) -> JournalFacts:
    with JournalReader(state_dir) as journal:
        running = journal.open_jobs(JobFilter(frozenset({JobState.RUNNING})), _RUNNING)
        return JournalFacts(
            journal.summary(time.time_ns() - _HOUR_NS),
            tuple(map(_line, running)),
            tuple(map(_line, journal.last_failures(_FAILURES))),
        )


def _line(entry: JournalEntry) -> JobLine:
    job = entry.job
    seconds = job_facts.seconds_since(entry.changed_at_ns)
    return JobLine(job.id, job.slot.key, job.code, job_facts.why(entry, None), seconds)


def _daemon(state_dir: Path) -> DaemonFacts:
    try:
        holder = state_holder(state_dir)
    except FileNotFoundError:
        holder = None
    except OSError as error:
        raise StorageError(f"{state_dir}/lock: can't be read: {error.strerror}") from None
    return DaemonFacts(is_running=False) if holder is None else _facts(holder)


def _facts(holder: Holder) -> DaemonFacts:
    process = None if holder.pid is None else process_facts(holder.pid)
    return DaemonFacts(
        not holder.has_ended,
        holder.name,
        holder.pid,
        process.user if process else None,
        holder.version or None,
        process.age_seconds if process else holder.seconds,
        holder.has_ended,
    )


def _folder(name: str, path: Path) -> Folder:
    try:
        if not path.is_dir():
            return Folder(name, str(path), problem="it is not there, or no directory")
        disk = os.statvfs(path)
    except OSError as error:
        return Folder(name, str(path), problem=error.strerror or str(error))
    full = "no more files can be made on it" if disk.f_files and not disk.f_favail else ""
    free_bytes, total_bytes = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    return Folder(name, str(path), free_bytes, total_bytes, full)


def _readiness(address: str) -> Readiness:
    import http.client  # noqa: PLC0415 - slow to import, and not needed without HTTP

    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    # The address that the daemon listens on; these are all of this host's.
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    connection = http.client.HTTPConnection(host, int(port), timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", "/readyz")
        body = json.loads(connection.getresponse().read(_ANSWER_BYTES))
        return Readiness(address, bool(body["ok"]), tuple(map(str, body["reasons"])))
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Readiness(address, None, (f"no answer at {address}: {reason}",))
    finally:
        connection.close()


# --- What needs attention


def _attention(
    settings: Settings,
    daemon: DaemonFacts,
    ready: Readiness | None,
    folders: tuple[Folder, ...],
    summary: Summary,
) -> list[str]:
    found = []
    if daemon.has_ended:
        found.append(f"the daemon ({daemon.name}) has ended; some of its children have not yet")
    elif not daemon.is_running:
        found.append("no daemon is running: its log says why it ended; start `wasmdrop serve`")
    found += [f"the {it.name} directory {it.path}: {it.problem}" for it in folders if it.problem]
    if daemon.is_running and ready is not None and not ready.is_ready:
        found += [f"not ready: {reason}" for reason in ready.reasons]
    found += [reason for each in folders if (reason := _lack_of_space(settings, each))]
    found += _lack_of_progress(settings, summary)
    return [one_line(each) for each in found]


def _lack_of_progress(settings: Settings, summary: Summary) -> list[str]:
    found, kept, events = [], summary.undelivered, summary.events
    if kept.count:
        reason = kept.reasons[0] if kept.reasons else "storage does not take them"
        look = "`wasmdrop jobs --state executed`"
        found.append(f"jobs with undelivered results: {kept.count}; {look}; {reason}")
    open_count = sum(each.count for each in summary.open)
    if open_count >= settings.max_queued:
        found.append(f"the queue is full: {open_count} open jobs (WASMDROP_MAX_QUEUED); drops wait")
    if events.failures:
        found.append(f"the completion hook fails: {events.count} events wait for it")
    if count := summary.failed.get(Code.INTERNAL):
        look = "`wasmdrop jobs --code internal`"
        found.append(f"faults of the daemon in the last hour: {count}; {look}")
    return found


def _lack_of_space(settings: Settings, folder: Folder) -> str:
    if folder.name == "wasm" or folder.free_bytes is None:
        return ""
    free_mb = folder.free_bytes // MEBIBYTE
    if folder.free_bytes < settings.reserve_mb * MEBIBYTE:
        return (
            f"the {folder.name} directory has {free_mb} MiB free: below WASMDROP_RESERVE_MB"
            f" ({settings.reserve_mb}) the daemon takes no drops"
        )
    if folder.free_bytes < _LITTLE_BYTES:
        return f"the {folder.name} directory has only {free_mb} MiB free"
    return ""
