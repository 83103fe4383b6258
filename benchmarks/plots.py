"""Plots: bars and lines as SVG, from names and numbers to text."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

_WIDTH: Final = 720
_LEFT: Final = 130
_RIGHT: Final = 80
_ROW: Final = 28
_TOP: Final = 44

#: Width of a character in a name that is 13 pixels high.
_LETTER: Final = 7.2

_PLOT_LEFT: Final = 60
_PLOT_HEIGHT: Final = 220
_COLORS: Final = ("#2f6fb0", "#b0602f", "#4f8f4f", "#7f7f7f")


def bars(title: str, values: Mapping[str, float]) -> str:
    """Return an image with one horizontal bar per value, on a scale from zero."""
    largest = max(values.values()) or 1.0
    left = max(_LEFT, 20 + _LETTER * max(map(len, values)))
    height = _TOP + _ROW * len(values) + 12
    parts = _begin(title, height)
    for index, (name, value) in enumerate(values.items()):
        y = _TOP + _ROW * index
        width = (_WIDTH - left - _RIGHT) * value / largest
        color = "#2f6fb0" if index == 0 else "#9fb4c7"
        parts += [
            f'<text x="{left - 8:.0f}" y="{y + 18}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{left:.0f}" y="{y + 4}" width="{width:.1f}" height="20" fill="{color}"/>',
            f'<text x="{left + width + 6:.1f}" y="{y + 18}">{value:,.3g}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def lines(title: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Return an image with one line per series of points, on scales from zero."""
    right = max(x for points in series.values() for x, _ in points) or 1.0
    top = max(y for points in series.values() for _, y in points) or 1.0
    bottom = _TOP + _PLOT_HEIGHT
    parts = _begin(title, bottom + 40 + _ROW * len(series))
    width = _WIDTH - _PLOT_LEFT - _RIGHT
    for share in (0.0, 0.5, 1.0):
        y, x = bottom - _PLOT_HEIGHT * share, _PLOT_LEFT + width * share
        value = f"{top * share:,.3g}"
        parts += [
            f'<path d="M{_PLOT_LEFT} {y:.1f}h{width}" stroke="#dddddd" fill="none"/>',
            f'<text x="{_PLOT_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value}</text>',
            f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{right * share:,.0f}</text>',
        ]
    for index, (name, points) in enumerate(series.items()):
        color = _COLORS[index % len(_COLORS)]
        places = " ".join(
            f"{_PLOT_LEFT + width * x / right:.1f},{bottom - _PLOT_HEIGHT * y / top:.1f}"
            for x, y in points
        )
        y = bottom + 34 + _ROW * index
        parts += [
            f'<polyline points="{places}" stroke="{color}" stroke-width="2" fill="none"/>',
            f'<rect x="{_PLOT_LEFT}" y="{y}" width="20" height="10" fill="{color}"/>',
            f'<text x="{_PLOT_LEFT + 28}" y="{y + 10}">{escape(name)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _begin(title: str, height: int) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}">',
        "<style>text { font: 13px sans-serif } .title { font-size: 15px }</style>",
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text class="title" x="12" y="26">{escape(title)}</text>',
    ]
