"""Tables that people read and scripts search: those of ``wasmdrop config`` and ``doctor``."""

import sys
from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

#: More characters than a row has: rich shortens what does not fit.
_UNBOUNDED: Final = 1_000_000


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Print a table: for a terminal with folded cells, else with one line for each row.

    Nothing of a cell is left out, and a ``str`` is no markup of rich.
    """
    is_terminal = sys.stdout.isatty()
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading == headings[0])
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    width = None if is_terminal else _UNBOUNDED
    Console(width=width, soft_wrap=not is_terminal, highlight=False).print(table)
