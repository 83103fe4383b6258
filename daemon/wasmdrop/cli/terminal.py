"""Formats jobs and modules for a person at a terminal. Imported only if there is one.

All text from producers and guests is escaped and becomes a ``Text``, so that neither terminal
escapes nor rich's markup have an effect.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.table import Column, Table
from rich.text import Text

from wasmdrop.cli.job_view import shown_seconds
from wasmdrop.client import Result
from wasmdrop.jobs.job import JobState
from wasmdrop.protocol.outcome import Code, Status
from wasmdrop.protocol.text import bounded_text, one_line

#: Shows the outcome of one job: its result, or the reason why there is none.
Show: TypeAlias = Callable[[str, Result | str], None]

#: Characters shown of one value and of one text; the result files have all of it.
_VALUE_LIMIT: Final = 200
_TEXT_LIMIT: Final = 16 * 1024

#: Width of a name beside a bar of progress.
_NAME_WIDTH: Final = 32

_STYLES: Final = {Status.SUCCEEDED: "bold green", Status.FAILED: "bold red"}
_STATUS_STYLES: Final = {"ok": "bold green", "attention": "bold red"}
_NO_RESULT: Final = "no result"

#: Rows shown of a table. A module may have twenty thousand exports.
_ROWS: Final = 100

#: Styles of cells by their text.
CELL_STYLES: Final = {
    "provided": "green",
    "not provided": "yellow",
    "ok": "green",
    "delivered": "dim",
    "discarded": "dim",
    **{state.value: "yellow" for state in JobState if not state.is_final},
    **{code.value: "red" for code in Code if code is not Code.OK},
}


#: Width from which whole ids of jobs are shown.
WIDE: Final = 120

#: Headings of `jobs_table`, and how wide the columns may be.
_JOB_COLUMNS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("job", {"min_width": 10}),
    ("state", {"min_width": 9}),
    ("slot", {"ratio": 1}),
    ("time", {"min_width": 8}),
    ("", {"ratio": 1}),
)


@contextlib.contextmanager
def following(labels: Sequence[str]) -> Iterator[Show]:
    """Show progress and each outcome: a single one in full, several in a line each."""
    console = Console(highlight=False)
    if len(labels) == 1:
        with console.status(Text(f"waiting for {_short(labels[0])}")):
            yield lambda label, end: console.print(_full(label, end), soft_wrap=True)
    else:
        with _following_many(console, labels) as show:
            yield show


@contextlib.contextmanager
def _following_many(console: Console, labels: Sequence[str]) -> Iterator[Show]:
    words: Counter[str] = Counter()
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"waiting for {_short(labels[0])}", total=len(labels))

        def show(label: str, end: Result | str) -> None:
            words[_word(end)] += 1
            console.print(_brief(label, end), soft_wrap=True)
            ended = words.total()
            if ended < len(labels):
                progress.update(task, description=f"waiting for {_short(labels[ended])}")
            progress.advance(task)

        yield show
    console.print(", ".join(f"{count} {word}" for word, count in words.items()))


@contextlib.contextmanager
def byte_progress(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show on standard error how much of a file has been read; yield a function to tell that to.

    Its arguments are the bytes so far and those of the whole file, None if that is unknown.
    """
    # A long name must not push the figures out.
    name_column = Column(max_width=_NAME_WIDTH, no_wrap=True, overflow="ellipsis")
    columns = (
        TextColumn("{task.description}", markup=False, table_column=name_column),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(_short(name), total=None)
        yield lambda size_bytes, total_bytes: progress.update(
            task, completed=size_bytes, total=total_bytes
        )


def _word(end: Result | str) -> str:
    return end.status if isinstance(end, Result) else _NO_RESULT


def _headed(end: Result | str) -> Text:
    style = _STYLES[end.status] if isinstance(end, Result) else "bold yellow"
    return Text().append(_word(end), style)


def _brief(label: str, end: Result | str) -> Text:
    """Return one line: status, label, and value or error."""
    text = _headed(end).append(f"  {_short(label)}  ")
    if isinstance(end, str):
        return text.append(_short(end))
    if end.status is Status.SUCCEEDED:
        return text.append_text(_json(_short(end.raw)))
    return text.append(f"{end.code}: ", "red").append(_short(end.message.partition("\n")[0]))


def _full(label: str, end: Result | str) -> Text:
    """Return the status and, below it, the whole result or reason."""
    head = _headed(end)
    if isinstance(end, str):
        return head.append(f"  {_short(label)}\n{_short(end)}")
    if end.status is Status.FAILED:
        head.append(f"  {end.code}", "red")
    entry = end.marker.get("entry")
    if isinstance(entry, str):
        head.append(f"  {_short(entry)}")
    total_seconds = end.marker["seconds"].get("total")
    if total_seconds is not None:
        head.append(f"  in {shown_seconds(total_seconds)}")
    parts = [head.append(f"  {_short(label)}", "dim")]
    if end.message:
        parts.append(Text(_lines(end.message)))
    if end.exit_code is None and end.status is Status.SUCCEEDED:
        parts.append(_json(one_line(end.line.decode(), _TEXT_LIMIT)))
    for name, data in (("standard output", end.stdout), ("standard error", end.stderr)):
        if data:
            parts.append(Text(f"{name}:", "dim"))
            parts.append(Text(_lines(data[: 4 * _TEXT_LIMIT].decode("utf-8", "replace"))))
    return Text("\n").join(parts)


def _short(text: str) -> str:
    return one_line(text, _VALUE_LIMIT)


def _lines(text: str) -> str:
    return bounded_text(text.replace("\r\n", "\n").expandtabs(), _TEXT_LIMIT).rstrip("\n")


def _json(line: str) -> Text:
    text = Text(line)
    JSONHighlighter().highlight(text)
    return text


def print_module(
    facts: Sequence[tuple[str, ...]],
    exports: Sequence[tuple[str, ...]],
    imports: Sequence[tuple[str, ...]],
) -> None:
    """Show a module: facts by name, exports, and imports with their availability.

    The rows are escaped already, but may contain text that looks like markup.
    """
    console = Console(highlight=False)
    console.print(_grid(facts))
    for title, headings, rows in (
        ("exports", ("kind", "name", "type"), exports),
        ("imports", ("kind", "name", "type", "this daemon"), imports),
    ):
        console.print()
        console.print(Text(f"{title}: {len(rows) or 'none'}", "bold"))
        if rows:
            console.print(_table(headings, rows[:_ROWS]))
        if len(rows) > _ROWS:
            console.print(Text(f"and {len(rows) - _ROWS} more; --json shows all", "dim"))


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Show facts by name, which are escaped already."""
    Console(highlight=False).print(_grid(facts))


def print_status(rows: Sequence[tuple[str, str]]) -> None:
    """Show the status: each row in one line, except the reasons for attention."""
    console = Console(highlight=False)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    last = ""
    for name, value in rows:
        is_reason = name == "attention"
        text = Text(value, _STATUS_STYLES.get(value, "yellow" if is_reason else ""))
        if not is_reason:
            text.no_wrap, text.overflow = True, "ellipsis"
        grid.add_row(Text("" if name == last else name, "bold"), text)
        last = name
    console.print(grid)


def print_jobs(rows: Sequence[tuple[str, ...]], open_count: int, count: int) -> None:
    """Show jobs in rows, which are escaped already; ``count`` is that of all jobs."""
    console = Console(highlight=False)
    if rows and console.width < WIDE:
        console.print(jobs_table([_narrow(*row) for row in rows]))
    elif rows:
        headings = ("job", "state", "code", "slot", "tries", "time", "")
        console.print(_table(headings, rows))
    more = f"{len(rows)} of {count} jobs, {open_count} of them open"
    console.print(Text(more if len(rows) < count else f"{count} jobs, {open_count} open", "dim"))


def jobs_table(rows: Iterable[Sequence[str]]) -> Table:
    """Return a table with one line for each job: id, state or code, slot, time and reason."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", expand=True)
    for heading, options in _JOB_COLUMNS:
        table.add_column(heading, no_wrap=True, overflow="ellipsis", **options)
    for row in rows:
        table.add_row(*(Text(cell, CELL_STYLES.get(cell, "")) for cell in row))
    return table


def _narrow(*cells: str) -> tuple[str, ...]:
    job_id, state, code, slot, _tries, seconds, why = cells
    # The code of a finished job says more than that it is delivered.
    return (short_id(job_id), code if state == JobState.DELIVERED else state, slot, seconds, why)


def short_id(job_id: str) -> str:
    """Return the part of the id of a job that is enough for all commands."""
    return job_id.rpartition("-")[2]


def _grid(facts: Sequence[tuple[str, ...]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, value in facts:
        grid.add_row(Text(name, "bold"), Text(value, overflow="fold"))
    return grid


def _table(headings: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        # Ids are to be copied.
        table.add_column(heading, overflow="fold", no_wrap=heading == "job")
    for row in rows:
        table.add_row(*(Text(cell, CELL_STYLES.get(cell, "")) for cell in row))
    return table
