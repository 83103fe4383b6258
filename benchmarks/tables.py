"""Statistics of measured seconds, and their tables."""

import math
import statistics
from collections.abc import Sequence
from typing import Final

#: A percentile of fewer values would just be the largest of them.
_ENOUGH: Final = {0.95: 20, 0.99: 100}


def quantile(values: Sequence[float], share: float) -> float | None:
    """Return the value that ``share`` of all don't exceed; None if there are too few."""
    if len(values) < _ENOUGH.get(share, 1):
        return None
    if share == 0.5:  # noqa: PLR2004 - the median, also between two values
        return statistics.median(values)
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def milliseconds(seconds: float | None) -> str:
    """Return ``seconds`` in milliseconds, for a table."""
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:,.2f}" if seconds < 1 else f"{seconds * 1e3:,.0f}"


def render(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 2) -> str:
    """Return a table in Markdown: ``words`` columns of words, the others of numbers."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]

    def text(line: Sequence[str]) -> str:
        cells = (
            cell.ljust(width) if column < words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        return f"| {' | '.join(cells)} |"

    rule = [
        "-" * width if column < words else "-" * (width - 1) + ":"
        for column, width in enumerate(widths)
    ]
    return "\n".join([text(head), text(rule), *(text(row) for row in rows)])
