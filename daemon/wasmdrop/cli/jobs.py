"""``wasmdrop jobs``: the jobs in the journal, open ones above all, once or as they change."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import PurePath
from typing import Final, TypeAlias

from wasmdrop.cli import job_view
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.reader import JobFilter, JournalEntry, JournalReader
from wasmdrop.protocol.errors import SettingsError
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import one_line
from wasmdrop.settings import Settings

__all__ = ["add_arguments", "run"]

_INTERRUPTED: Final = 130

#: Pause between two looks with --follow. A look takes half a millisecond.
_LOOK_SECONDS: Final = 0.2

#: What is shown of a slot's name, in characters.
_SLOT_LIMIT: Final = 200

_OPEN: Final = "open"
_FAILED: Final = "failed"

_DESCRIPTION: Final = """\
Shows the jobs in the daemon's journal, whether a daemon runs or not: finished ones, then
those that are open, each with its state, its code, how long it took or has been in that
state, and why it is there or what was wrong. The filters may be given several times.
"""

_EPILOG: Final = """\
Piped, it prints one line for each job, with tabs between job, state, code, slot, attempts,
seconds and text. Times are in UTC. With --follow each change of a job is one line.

Exit status: 0; 2 where there is no journal, or it may not be read; 3 where it is damaged;
130 when --follow is interrupted.

Examples:
  wasmdrop jobs --state open
  wasmdrop jobs --code failed --slot batch/orders
  wasmdrop jobs --follow --json | jq 'select(.state == "delivered")'
"""

_Show: TypeAlias = Callable[[JournalEntry, Job | None], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    states = [_OPEN, *(state.value for state in JobState)]
    parser.add_argument(
        "--state",
        action="append",
        choices=states,
        metavar="STATE",
        help=f"jobs in this state: {', '.join(states)}",
    )
    parser.add_argument(
        "--code",
        action="append",
        choices=[_FAILED, *(code.value for code in Code)],
        metavar="CODE",
        help=f"jobs that ended with this code; {_FAILED}: with any but ok",
    )
    parser.add_argument(
        "--slot",
        action="append",
        help="jobs of this slot: NAME, input-NAME.json or input.json, maybe after directories",
    )
    parser.add_argument(
        "--limit", type=int, default=50, metavar="N", help="at most N (default: 50; 0: all)"
    )
    parser.add_argument("--follow", action="store_true", help="go on to show jobs as they change")
    parser.add_argument(
        "--json", action="store_true", dest="as_json", help="print one JSON object a line"
    )
    job_view.add_state_dir(parser)


def run(options: argparse.Namespace) -> int:
    """Print the jobs; return the exit status."""
    loaded = job_view.load(options)
    wanted = _wanted(options, loaded)
    if options.limit < 0:
        raise SettingsError(f"--limit: expected 0 or more, got {options.limit}")
    try:
        with JournalReader(loaded.state_dir) as history:
            found = history.jobs(wanted, options.limit or sys.maxsize)
            firsts = _Firsts(history)
            rows = [(entry, firsts.of(entry)) for entry in found]
            after_ns, counts = history.last_change_ns(), history.count()
        if options.as_json or options.follow or not sys.stdout.isatty():
            show = _show(as_json=options.as_json)
            for entry, first in rows:
                show(entry, first)
            if options.follow:
                _follow(loaded, wanted, show, after_ns)
        else:
            from wasmdrop.cli import terminal  # noqa: PLC0415 - rich is for persons alone

            terminal.print_jobs([_row(entry, first) for entry, first in rows], *counts)
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


class _Firsts:
    """Which job comes first in a slot, looked up once for all that wait behind it."""

    def __init__(self, history: JournalReader) -> None:
        self._history = history
        self._found: dict[str, Job | None] = {}

    def of(self, entry: JournalEntry) -> Job | None:
        slot = entry.job.slot.key
        if entry.job.state is not JobState.QUEUED:
            return None
        if slot not in self._found:
            self._found[slot] = self._history.first_open(slot)
        return self._found[slot]


def _follow(loaded: Settings, wanted: JobFilter, show: _Show, after_ns: int) -> None:
    """Show every change after that time, until interrupted."""
    while True:
        with JournalReader(loaded.state_dir) as history:
            firsts = _Firsts(history)
            while changed := history.changes(wanted, after_ns):
                for entry in changed:
                    show(entry, firsts.of(entry))
                after_ns = changed[-1].changed_at_ns
            after_ns = max(after_ns, history.last_change_ns())
        time.sleep(_LOOK_SECONDS)


def _wanted(options: argparse.Namespace, loaded: Settings) -> JobFilter:
    states, codes = set(options.state or ()), set(options.code or ())
    if _OPEN in states:
        states |= {state for state in JobState if not state.is_final}
    if _FAILED in codes:
        codes |= set(Code) - {Code.OK}
    return JobFilter(
        frozenset(JobState(state) for state in states - {_OPEN}),
        frozenset(Code(code) for code in codes - {_FAILED}),
        frozenset(name for slot in options.slot or () for name in _slot_names(slot, loaded)),
    )


def _slot_names(given: str, loaded: Settings) -> list[str]:
    """Return what the journal may call a slot that a person calls so."""
    path = PurePath(given)
    if path.is_relative_to(loaded.shared_dir):
        path = path.relative_to(loaded.shared_dir)
    return [str(path), str(path.with_name(f"input-{path.name}.json"))]


def _show(*, as_json: bool) -> _Show:
    if as_json:
        return lambda entry, first: _write(job_view.as_json(entry, first))
    return lambda entry, first: _write("\t".join(_row(entry, first)))


def _row(entry: JournalEntry, first: Job | None) -> tuple[str, ...]:
    job, seconds = entry.job, job_view.seconds_of(entry)
    return (
        job.id,
        job.state,
        job.code or "-",
        one_line(job.slot.key, _SLOT_LIMIT),
        str(job.attempt),
        job_view.shown_seconds(seconds) if sys.stdout.isatty() else f"{seconds:.3f}",
        job_view.why(entry, first),
    )


def _write(line: str) -> None:
    sys.stdout.buffer.write(f"{line}\n".encode())
    sys.stdout.buffer.flush()
