"""Plots: bars as SVG, from names and numbers to text."""

from collections.abc import Mapping
from html import escape
from typing import Final

__all__ = ["bars"]

_WIDTH: Final = 720
_LEFT: Final = 130
_RIGHT: Final = 80
_ROW: Final = 28
_TOP: Final = 44


def bars(title: str, values: Mapping[str, float]) -> str:
    """Return an image with one horizontal bar a value, on a scale that begins at nothing."""
    largest = max(values.values())
    height = _TOP + _ROW * len(values) + 12
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}">',
        "<style>text { font: 13px sans-serif } .title { font-size: 15px }</style>",
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text class="title" x="12" y="26">{escape(title)}</text>',
    ]
    for index, (name, value) in enumerate(values.items()):
        y = _TOP + _ROW * index
        width = (_WIDTH - _LEFT - _RIGHT) * value / largest
        color = "#2f6fb0" if index == 0 else "#9fb4c7"
        lines += [
            f'<text x="{_LEFT - 8}" y="{y + 18}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LEFT}" y="{y + 4}" width="{width:.1f}" height="20" fill="{color}"/>',
            f'<text x="{_LEFT + width + 6:.1f}" y="{y + 18}">{value:,.3g}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
