"""The live table of ``wasmdrop jobs --follow``: open jobs, and those that finished last.

It is drawn on the terminal's alternate screen, over the last one and without clearing it, so that
it neither flickers nor leaves traces when the window changes its size. While nothing changes, the
journal is not even opened.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from wasmdrop.cli.job_view import shown_seconds
from wasmdrop.cli.terminal import WIDE, jobs_table, short_id
from wasmdrop.jobs import job_facts
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.changes import JournalChanges
from wasmdrop.jobs.journal.reader import JobFilter, JournalEntry, JournalReader
from wasmdrop.protocol.errors import SettingsError, StorageError
from wasmdrop.protocol.text import one_line

#: Time between two looks at the journal, and between two updates of the times, in seconds.
_LOOK_SECONDS: Final = 0.2
_TICK_SECONDS: Final = 1.0

#: Part of the time that is spent waiting, at least, as a multiple of the rest.
_REST: Final = 4

#: Lines beside those of jobs: the headings and the line at the bottom.
_FRAME_LINES: Final = 2

#: Lines that finished jobs have at least, in parts of a window that open jobs would fill.
_FINISHED_SHARE: Final = 3

_NAME_LIMIT: Final = 200


class _View(msgspec.Struct, frozen=True):
    """The content of the table."""

    open: list[tuple[JournalEntry, Job | None]] = []
    """With the first open job of their slot."""
    finished: list[JournalEntry] = []
    open_count: int = 0
    problem: str = ""
    """Why the journal can't be read now; the rest is from before."""


def follow(state_dir: Path, wanted: JobFilter) -> NoReturn:
    """Show the table until interrupted; leave the last one on the screen.

    Raises ``KeyboardInterrupt``, and ``SystemExit`` when SIGTERM asks for it.
    """
    console = Console(highlight=False)
    table = _LiveTable(
        console, JournalChanges(state_dir), lambda: _read(state_dir, wanted, console.height)
    )
    signal.signal(signal.SIGTERM, _end)  # leave the alternate screen first
    signal.signal(signal.SIGTSTP, table.want_pause)
    try:
        table.run()
    finally:
        console.print(table.last)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


class _LiveTable:
    def __init__(
        self, console: Console, changes: JournalChanges, read: Callable[[], _View]
    ) -> None:
        self._console = console
        self._changes = changes
        self._read = read
        self._view = _View()
        self._wants_pause = False

    @property
    def last(self) -> Group:
        """The table as it was drawn last."""
        return _drawn(self._view, self._console.width)

    def want_pause(self, _number: int, _frame: FrameType | None) -> None:
        """Pause soon, for Ctrl-Z."""
        self._wants_pause = True

    def run(self) -> NoReturn:
        """Draw until interrupted."""
        while True:
            with Live(
                *(), console=self._console, screen=True, auto_refresh=False, redirect_stdout=False
            ) as live:
                self._draw_until_paused(live)
            self._wants_pause = False
            before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTSTP)  # stops here until it is continued
            signal.signal(signal.SIGTSTP, before)

    def _draw_until_paused(self, live: Live) -> None:
        drawn_at, size, pause_seconds = 0.0, None, _LOOK_SECONDS
        self._changes.forget()
        while not self._wants_pause:
            begun, has_changed = time.monotonic(), self._changes.look()
            is_due = bool(self._view.open) and begun - drawn_at >= _TICK_SECONDS
            if has_changed or self._console.size != size:
                size, drawn_at = self._console.size, begun
                self._refresh()
                live.update(self.last, refresh=True)
                # A query of a large journal, and a daemon that is busy, must not take a whole core.
                pause_seconds = max(_LOOK_SECONDS, _REST * (time.monotonic() - begun))
            elif is_due:
                drawn_at = begun
                live.update(self.last, refresh=True)
            time.sleep(pause_seconds)

    def _refresh(self) -> None:
        try:
            self._view = self._read()
        except (SettingsError, StorageError) as error:
            # A daemon may be about to make a new journal.
            self._view = msgspec.structs.replace(self._view, problem=one_line(str(error)))
            self._changes.forget()


def _read(state_dir: Path, wanted: JobFilter, height: int) -> _View:
    room = max(2, height - _FRAME_LINES)
    with JournalReader(state_dir) as journal:
        finished = journal.last_finished(wanted, room)
        kept = min(len(finished), room // _FINISHED_SHARE)
        found = journal.open_jobs(wanted, room - kept)
        firsts = {slot: journal.first_open(slot) for slot in {each.job.slot.key for each in found}}
        return _View(
            [(each, firsts[each.job.slot.key]) for each in found],
            finished[: room - len(found)],
            journal.open_count(),
        )


def _drawn(view: _View, width: int) -> Group:
    entries = [*view.open, *((each, None) for each in view.finished)]
    table = jobs_table(_cells(*each, is_wide=width >= WIDE) for each in entries)
    foot = Text(f"open jobs: {view.open_count}; Ctrl-C ends", "dim")
    if view.problem:
        foot = Text(view.problem, "bold red")
    foot.no_wrap, foot.overflow = True, "ellipsis"
    return Group(table, foot)


def _cells(entry: JournalEntry, first: Job | None, *, is_wide: bool) -> tuple[str, ...]:
    job = entry.job
    return (
        job.id if is_wide else short_id(job.id),
        # The code of a finished job says more than that it is delivered.
        job.code if job.code and job.state is JobState.DELIVERED else job.state,
        one_line(job.slot.key, _NAME_LIMIT),
        shown_seconds(job_facts.seconds_of(entry)),
        one_line(job_facts.why(entry, first), _NAME_LIMIT),
    )
