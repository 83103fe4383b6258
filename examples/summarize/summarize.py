# build: componentize-py -d . componentize --stub-wasi summarize -o summarize-py.wasm
"""Summarizes a list of numbers: a component written in Python."""

from statistics import fmean, pstdev

import wit_world
from wit_world import Summary


class WitWorld(wit_world.WitWorld):
    """What the component exports."""

    def summarize(self, values: list[float]) -> Summary:
        """Return count, mean, deviation and the largest value, if there is one."""
        if not values:
            return Summary(0, 0.0, 0.0, None)
        return Summary(len(values), fmean(values), pstdev(values), max(values))
