#!/usr/bin/env python3
"""Measure the cost of the confinement: wasmdrop beside a copy of itself that does not confine.

python benchmarks/confinement.py [--drops N] [--dir DIR]

The copy differs in one method, which takes limits, Landlock and the filters from a process; it is
made for the measurement and thrown away. Both are measured in turns, and each result is checked.
"""

import argparse
import re
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Final

if __name__ == "__main__":
    # Started by its path, Python searches only beside this file, and the parts are one package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import wasmdrop
from benchmarks import workloads
from benchmarks.client import Client
from benchmarks.contenders import Wasmdrop
from benchmarks.suite import described
from benchmarks.tables import milliseconds, quantile, render

_TURN: Final = 10
_WARM_UP: Final = 20
#: The methods that confine, which the copy replaces by empty ones.
_CONFINING: Final = re.compile(
    r"(    def (?:confine|confine_after_loading)\(.*?\) -> None:\n)", re.DOTALL
)


class Free(Wasmdrop):
    """wasmdrop whose children are not confined."""

    name = "not confined"

    def __init__(self, base: Path, modules: dict[str, bytes]) -> None:
        super().__init__(base, modules)
        source = Path(wasmdrop.__file__).parent
        self._root = self.base / "source"
        copy = self._root / "wasmdrop"
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        path = copy / "sandbox" / "confinement" / "confine.py"
        text, count = _CONFINING.subn(r"\1        return\n", path.read_text(encoding="utf-8"))
        if count != 2:  # noqa: PLR2004 - the two methods
            raise SystemExit(f"expected two confining methods in {path.name}, found {count}")
        path.write_text(text, encoding="utf-8")

    def variables(self) -> dict[str, str]:
        """Return variables that put the copy before the installed package."""
        return super().variables() | {"PYTHONPATH": str(self._root)}


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="Measure what confinement costs.")
    parser.add_argument("--drops", type=int, default=500, metavar="N")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), metavar="DIR")
    options = parser.parse_args()
    about = described(options.dir)
    fib = next(one for one in workloads.find() if isinstance(one, workloads.Workload))
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="wasmdrop-benchmark-") as base:
        pairs: list[tuple[Wasmdrop, Client]] = []
        seconds: dict[str, list[float]] = {}
        try:
            for kind in (Wasmdrop, Free):
                contender = kind(Path(base).resolve(), {fib.module_name: fib.module})
                contender.start()
                pairs.append((contender, Client(contender.shared)))
                seconds[contender.name] = []
            for number in range(-_WARM_UP, options.drops):
                # In turns of ten, as in the other measurements.
                for contender, client in pairs[:: 1 if number // _TURN % 2 else -1]:
                    name = f"input-{number + _WARM_UP}.json"
                    content, wanted = fib.input(number), fib.wanted(number)
                    taken, _dropped_at = client.drop(name, content)
                    contender.check(name, content, wanted)
                    if number >= 0:
                        seconds[contender.name].append(taken)
        finally:
            for contender, client in pairs:
                client.close()
                contender.stop()
    first = statistics.median(seconds[pairs[0][0].name])
    rows = [
        [
            name,
            str(len(values)),
            *(milliseconds(quantile(values, share)) for share in (0.5, 0.95)),
            f"{first / statistics.median(values):.2f}",
        ]
        for name, values in seconds.items()
    ]
    head = ["who", "drops", "median ms", "p95 ms", "confined is so many times as long"]
    sys.stdout.write(f"{about}\n\n{render(head, rows, words=1)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
