"""``wasmdrop status``: one screen that says whether all is well, and what to look at."""

import argparse
import contextlib
import os
import sys
from typing import Final

import msgspec

from wasmdrop import settings
from wasmdrop.cli import job_view
from wasmdrop.cli.job_view import shown_seconds
from wasmdrop.cli.status_report import (
    DaemonFacts,
    Folder,
    JobLine,
    JournalFacts,
    NoAnswerError,
    Readiness,
    Report,
    collect,
    within_limit,
)
from wasmdrop.jobs.job_facts import seconds_since
from wasmdrop.jobs.journal.summary import Summary
from wasmdrop.protocol.errors import StorageError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.text import one_line
from wasmdrop.service.guest import guest_in_use
from wasmdrop.settings import Loaded

#: Characters of a name or a reason.
_NAME_LIMIT: Final = 60
_REASON_LIMIT: Final = 120

#: Lines of running jobs and of needs for attention; a screen has 24.
_LINES: Final = 4

_GIBIBYTE: Final = 1024 * MEBIBYTE

_DESCRIPTION: Final = """\
Says in one screen whether all is well: the daemon, its folders, its queue, the jobs that run,
and the last failures. The line `status` is `ok`, or `attention`, with a line for each reason.

It reads the journal and the lock of the state directory, as root or as the user of the daemon,
whether the daemon runs or not. It writes nothing, and does not wait for storage that hangs. If
WASMDROP_HTTP is set, it asks the daemon whether it is ready.
"""

_EPILOG: Final = """\
If the output is piped, each line is a key, a tab and a value. With --json, times are in seconds
and sizes in bytes.

Exit status: 0 all is well; 1 something needs attention; 2 if there is no journal, or it can't be
read; 3 if it is damaged, or its storage hangs.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")
    job_view.add_state_dir(parser)


def run(options: argparse.Namespace) -> int:
    """Print the report; return 1 if something needs attention."""
    loaded, hanging = _load(job_view.flags(options))
    report = collect(loaded.settings, hanging)
    if options.as_json:
        text = msgspec.json.encode(_as_json(loaded, report)).decode("utf-8", "replace")
        sys.stdout.write(text + "\n")
    elif sys.stdout.isatty():
        # Importing rich takes a while, and only a person needs it.
        from wasmdrop.cli import terminal  # noqa: PLC0415

        terminal.print_status(_rows(loaded, report, is_short=True))
    else:
        sys.stdout.writelines(
            f"{key}\t{value}\n" for key, value in _rows(loaded, report, is_short=False)
        )
    return 1 if report.attention else 0


def _load(flags: dict[str, str]) -> tuple[Loaded, bool]:
    """Return the settings, and whether storage hangs that loading them looks at."""
    with contextlib.suppress(NoAnswerError):
        return within_limit(lambda: _loaded(flags)), False
    # The state directory may answer all the same.
    there = dict.fromkeys(("wasm_dir", "shared_dir", "wasm_path", "input_path"), os.devnull)
    there |= {"output_path": f"{os.devnull}.txt", "grants": "none"}
    with contextlib.suppress(NoAnswerError):
        return within_limit(lambda: _loaded(there | flags)), True
    raise StorageError("the state directory: no answer: its storage hangs")


def _loaded(flags: dict[str, str]) -> Loaded:
    return settings.load(os.environ, flags, runs_jobs=False)


# --- Rows for a person and for a pipe


def _rows(loaded: Loaded, report: Report, *, is_short: bool) -> list[tuple[str, str]]:
    """Return keys and values, each value one line that is safe for a terminal."""
    options, journal = loaded.settings, report.journal
    most = _LINES if is_short else None
    rows = [("status", "attention" if report.attention else "ok")]
    rows += _some([("attention", reason) for reason in report.attention], most)
    rows += [("daemon", _daemon(report.daemon)), ("ready", _ready(report.daemon, report.ready))]
    rows += [("settings", f"{_config(loaded)}; guest {guest_in_use(options.guest)}")]
    if options.fleet:
        rows.append(("fleet", f"{', '.join(options.fleet)}; see `wasmdrop fleet status`"))
    rows += [(each.name, _folder(each)) for each in report.folders]
    rows += _open(journal)
    rows += _some([("running", _running(job, is_short)) for job in journal.running], most)
    rows.append(("last hour", _last_hour(journal.summary)))
    rows += [("failed", _failure(job, is_short)) for job in journal.failures]
    rows += _waiting(journal)
    return [(key, one_line(value)) for key, value in rows]


def _some(rows: list[tuple[str, str]], most: int | None) -> list[tuple[str, str]]:
    if most is None or len(rows) <= most:
        return rows
    return [*rows[: most - 1], (rows[0][0], f"and {len(rows) - most + 1} more")]


def _daemon(daemon: DaemonFacts) -> str:
    if daemon.has_ended:
        return f"has ended ({daemon.name}); its children have not yet"
    if not daemon.is_running:
        return "not running"
    parts = [f"running, {daemon.name}"]
    if daemon.uptime_seconds is not None:
        parts.append(f"for {shown_seconds(daemon.uptime_seconds)}")
    if daemon.user is not None:
        parts.append(f"as {daemon.user}")
    if daemon.version is not None:
        parts.append(f"version {daemon.version}")
    return ", ".join(parts)


def _ready(daemon: DaemonFacts, ready: Readiness | None) -> str:
    if ready is None:
        return "unknown: WASMDROP_HTTP is not set" if daemon.is_running else "no"
    if ready.is_ready:
        return "yes"
    return "; ".join(ready.reasons) if ready.is_ready is None else f"no: {'; '.join(ready.reasons)}"


def _config(loaded: Loaded) -> str:
    file = loaded.config_file
    return "no configuration file" if file is None else str(file)


def _folder(folder: Folder) -> str:
    if folder.free_bytes is None or folder.total_bytes is None:
        return f"{folder.path}: {folder.problem}"
    room = f"{_size(folder.free_bytes)} of {_size(folder.total_bytes)} free on {folder.path}"
    return f"{room}; {folder.problem}" if folder.problem else room


def _size(size_bytes: int) -> str:
    if size_bytes < 10 * _GIBIBYTE:
        return f"{size_bytes // MEBIBYTE} MiB"
    return f"{size_bytes // _GIBIBYTE} GiB"


def _open(journal: JournalFacts) -> list[tuple[str, str]]:
    parts = []
    for each in journal.summary.open:
        age = shown_seconds(seconds_since(each.oldest.dropped_at_ns))
        parts.append(f"{each.count} {each.state} (oldest {age})")
    return [("open jobs", ", ".join(parts) or "none")]


def _running(job: JobLine, is_short: bool) -> str:
    return f"{_id(job, is_short)}  {shown_seconds(job.seconds)}  {one_line(job.slot, _NAME_LIMIT)}"


def _id(job: JobLine, is_short: bool) -> str:
    """Return the id of a job, or the part of it that is enough for all commands."""
    return job.job.rpartition("-")[2] if is_short else job.job


def _last_hour(summary: Summary) -> str:
    codes = ", ".join(f"{count} {code}" for code, count in summary.failed.items())
    counts = f"{summary.finished} finished, {sum(summary.failed.values())} failed"
    return f"{counts} ({codes})" if codes else counts


def _failure(job: JobLine, is_short: bool) -> str:
    name, why = one_line(job.slot, _NAME_LIMIT), one_line(job.why, _REASON_LIMIT)
    return f"{_id(job, is_short)}  {job.code}, {shown_seconds(job.seconds)} ago  {name}  {why}"


def _waiting(journal: JournalFacts) -> list[tuple[str, str]]:
    rows, kept, events = [], journal.summary.undelivered, journal.summary.events
    if kept.count:
        rows.append(("undelivered", f"{kept.count} jobs, {_size(kept.size_bytes)}"))
        rows += [("undelivered", one_line(reason, _REASON_LIMIT)) for reason in kept.reasons]
    if events.count:
        age = shown_seconds(seconds_since(events.created_ns))
        failures = f", {events.failures} failed calls" if events.failures else ""
        rows.append(("hook", f"{events.count} events wait, the oldest for {age}{failures}"))
    return rows


# --- JSON


def _as_json(loaded: Loaded, report: Report) -> dict[str, object]:
    options, summary = loaded.settings, report.journal.summary
    file = loaded.config_file
    return {
        "status": "attention" if report.attention else "ok",
        "attention": report.attention,
        "daemon": report.daemon,
        "ready": report.ready,
        "config_file": None if file is None else one_line(str(file)),
        "guest": guest_in_use(options.guest),
        "fleet": options.fleet,
        "folders": {
            each.name: msgspec.structs.replace(each, path=one_line(each.path))
            for each in report.folders
        },
        "open": {
            each.state: {
                "count": each.count,
                "oldest_job": each.oldest.id,
                "oldest_seconds": seconds_since(each.oldest.dropped_at_ns),
            }
            for each in summary.open
        },
        "running": [_printable(job) for job in report.journal.running],
        "last_hour": {
            "finished": summary.finished,
            "failed": sum(summary.failed.values()),
            "failed_by_code": summary.failed,
        },
        "failures": [_printable(job) for job in report.journal.failures],
        "undelivered": summary.undelivered,
        "hook": {
            "events": summary.events.count,
            "oldest_seconds": seconds_since(summary.events.created_ns)
            if summary.events.count
            else None,
            "failures": summary.events.failures,
        },
    }


def _printable(job: JobLine) -> JobLine:
    return msgspec.structs.replace(job, slot=one_line(job.slot), why=one_line(job.why))
