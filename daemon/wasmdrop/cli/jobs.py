"""``wasmdrop jobs``: list the jobs in the journal, once or as they change."""

import argparse
import os
import select
import sys
from collections.abc import Callable
from pathlib import PurePath
from typing import Final, TypeAlias

from wasmdrop.cli import job_view
from wasmdrop.cli.standard_streams import say
from wasmdrop.jobs import job_facts
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.reader import JobFilter, JournalEntry, JournalReader
from wasmdrop.protocol.errors import OutputError, SettingsError, StorageError
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import one_line
from wasmdrop.settings import Settings

#: Time between two queries with --follow; a query takes half a millisecond.
_POLL_SECONDS: Final = 0.2

#: Characters that are shown of a slot's name.
_SLOT_LIMIT: Final = 200

_OPEN: Final = "open"
_FAILED: Final = "failed"

_DESCRIPTION: Final = """\
Lists the jobs in the daemon's journal, whether the daemon runs or not: finished jobs, then
open ones. Each has its state, its code, the time that it took or has been in that state,
and the reason why it waits or failed. Filters may be repeated.
"""

_EPILOG: Final = """\
A terminal of less than 120 columns gets the last part of each id, which is enough for all
commands, and shortened reasons; `wasmdrop show` has all of it. If the output is piped, there is
one line for each job: job, state, code, slot, attempts, seconds and reason, separated by tabs.

With --follow a terminal shows a live table: open jobs and those that finished last, as many as
fit the window. A pipe gets one line for each change of a job.

Exit status: 0; 2 if there is no journal, or it can't be read; 3 if it is damaged; 130 if
--follow is interrupted.

Examples:
  wasmdrop jobs --state open
  wasmdrop jobs --code failed --slot batch/orders
  wasmdrop jobs --follow --json | jq 'select(.state == "delivered")'
"""

_Show: TypeAlias = Callable[[JournalEntry, Job | None], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    states = [_OPEN, *(state.value for state in JobState)]
    parser.add_argument(
        "--state",
        action="append",
        choices=states,
        metavar="STATE",
        help=f"only jobs in this state: {', '.join(states)}",
    )
    parser.add_argument(
        "--code",
        action="append",
        choices=[_FAILED, *(code.value for code in Code)],
        metavar="CODE",
        help=f"only jobs that ended with this code; {_FAILED}: with any but ok",
    )
    parser.add_argument(
        "--slot",
        action="append",
        help="only jobs of this slot: NAME, input-NAME.json or input.json, with its directories",
    )
    parser.add_argument(
        "--limit", type=int, default=50, metavar="N", help="list at most N (default: 50; 0: all)"
    )
    parser.add_argument("--follow", action="store_true", help="go on with jobs as they change")
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
    if options.follow and not options.as_json and sys.stdout.isatty():
        _follow_on_terminal(loaded, wanted)
    with JournalReader(loaded.state_dir) as history:
        found = history.jobs(wanted, options.limit or sys.maxsize)
        firsts = _FirstJobs(history)
        rows = [(entry, firsts.of(entry)) for entry in found]
        after_ns, counts = history.last_change_ns(), history.count()
    if options.as_json or options.follow or not sys.stdout.isatty():
        show = _show(as_json=options.as_json)
        for entry, first in rows:
            show(entry, first)
        if options.follow:
            _follow(loaded, wanted, show, after_ns)
    else:
        from wasmdrop.cli import terminal  # noqa: PLC0415 - only a person needs rich

        terminal.print_jobs([_row(entry, first) for entry, first in rows], *counts)
    return 0


def _follow_on_terminal(loaded: Settings, wanted: JobFilter) -> None:
    """Show the live table until interrupted; return if the terminal can't move its cursor."""
    if os.environ.get("TERM", "dumb") in {"dumb", "unknown"}:
        return
    with JournalReader(loaded.state_dir):
        pass  # if it can't be read now, that is an error
    from wasmdrop.cli import live_jobs  # noqa: PLC0415 - only a person needs rich

    live_jobs.follow(loaded.state_dir, wanted)


class _FirstJobs:
    """Looks up the first open job of a slot once for all that wait behind it."""

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
    """Show every change after that time until interrupted."""
    problem = ""
    output = select.poll()
    output.register(sys.stdout, 0)
    while True:
        try:
            after_ns, problem = _show_changes(loaded, wanted, show, after_ns), ""
        except (SettingsError, StorageError) as error:
            # A daemon may be about to make a new journal.
            if str(error) != problem:
                problem = str(error)
                say(f"{problem}; waiting for it")
        if output.poll(_POLL_SECONDS * 1000):
            # The reader has gone. Without this, only the next change of a job would show it.
            raise OutputError(BrokenPipeError())


def _show_changes(loaded: Settings, wanted: JobFilter, show: _Show, after_ns: int) -> int:
    """Show every change after that time; return the time of the last one."""
    with JournalReader(loaded.state_dir) as history:
        firsts = _FirstJobs(history)
        while changed := history.changes(wanted, after_ns):
            for entry in changed:
                show(entry, firsts.of(entry))
            after_ns = changed[-1].changed_at_ns
        return max(after_ns, history.last_change_ns())


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
    """Return the names that the journal may have for a slot."""
    path = PurePath(given)
    if path.is_relative_to(loaded.shared_dir):
        path = path.relative_to(loaded.shared_dir)
    return [str(path), str(path.with_name(f"input-{path.name}.json"))]


def _show(*, as_json: bool) -> _Show:
    if as_json:
        return lambda entry, first: _write(job_facts.as_json(entry, first))
    return lambda entry, first: _write("\t".join(_row(entry, first)))


def _row(entry: JournalEntry, first: Job | None) -> tuple[str, ...]:
    job, seconds = entry.job, job_facts.seconds_of(entry)
    return (
        job.id,
        job.state,
        job.code or "-",
        one_line(job.slot.key, _SLOT_LIMIT),
        str(job.attempt),
        job_view.shown_seconds(seconds) if sys.stdout.isatty() else f"{seconds:.3f}",
        job_facts.why(entry, first),
    )


def _write(line: str) -> None:
    sys.stdout.buffer.write(f"{line}\n".encode())
    sys.stdout.buffer.flush()
