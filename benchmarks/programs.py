#!/usr/bin/env python3
"""Measure the programs of examples/: size, compilation, and drop to marker when compiled.

python benchmarks/programs.py [--drops N] [--dir DIR]

Takes every module that examples/build.py and examples/programs.py have made. Each runs its own
input, first once, which compiles it, then N times; every run must succeed.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

if __name__ == "__main__":
    # Started by its path, Python searches only beside this file, and the parts are one package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import suite
from benchmarks.client import Client, result_name
from benchmarks.contenders import Wasmdrop, WrongError
from benchmarks.tables import milliseconds, quantile, render

ROOT: Final = Path(__file__).resolve().parent.parent

_HEAD: Final = (
    *("program", "kind", "MB", "compile s", "first s", "median ms", "p95 ms"),
    *("of it run", "memory MiB"),
)
_MEBIBYTE: Final = 1 << 20


class Roomy(Wasmdrop):
    """The daemon, with limits for the largest program."""

    def variables(self) -> dict[str, str]:
        """Return directories and limits."""
        limits = {"WASMDROP_COMPILE_SEC": "600", "WASMDROP_COMPILE_MEMORY_MB": "8192"}
        return {**super().variables(), **limits, "TIMEOUT_SEC": "60"}


def found() -> Iterator[tuple[str, Path, Path]]:
    """Yield label, module and input of each program that was built."""
    built = ROOT / "examples" / "build"
    for module in sorted(built.glob("*.wasm")):
        example, _, language = module.stem.partition("-")
        yield f"{example} ({language})", module, ROOT / "examples" / example / "input.json"
    for module in sorted(built.glob("programs/*.wasm")):
        given = ROOT / "examples" / "programs" / module.stem / "input.json"
        if given.exists():  # others can't run
            yield module.stem, module, given


def measure(base: Path, module: Path, given: Path, drops: int) -> list[str]:
    """Return a row of the table without the label."""
    daemon = Roomy(base, {"it": module.read_bytes()})
    job = json.loads(given.read_text()) | {"module": "it"}
    daemon.start()
    try:
        watching = Client(daemon.shared)
        seconds = []
        markers = []
        for number in range(drops + 1):
            name = f"input-{number}.json"
            seconds.append(watching.drop(name, job)[0])
            path = daemon.shared / result_name(name, ".done")
            markers.append(json.loads(path.read_bytes()))
            if markers[-1]["code"] != "ok":
                raise WrongError(f"{module}: {markers[-1]['message']}")
        watching.close()
    finally:
        daemon.stop()
    run = statistics.median(marker["seconds"]["run"] for marker in markers[1:])
    memory = markers[-1]["peak_memory_bytes"]
    component = module.read_bytes()[6:8] == b"\x01\0"
    return [
        "component" if component else "module",
        f"{module.stat().st_size / 1e6:.2f}",
        f"{markers[0]['seconds']['compile']:.2f}",
        f"{seconds[0]:.2f}",
        milliseconds(statistics.median(seconds[1:])),
        milliseconds(quantile(seconds[1:], 0.95)),
        milliseconds(run),
        "-" if memory is None else f"{memory / _MEBIBYTE:.1f}",
    ]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure the programs of examples/.")
    parser.add_argument("--drops", type=int, default=40, metavar="N", help="drops of each")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="on the disk to be measured")
    options = parser.parse_args()
    rows = []
    for label, module, given in found():
        with tempfile.TemporaryDirectory(dir=options.dir, prefix=".bench-") as base:
            rows.append([label, *measure(Path(base), module, given, options.drops)])
        sys.stderr.write(f"measured: {label}\n")
    about = suite.described(options.dir)
    sys.stdout.write(f"{about}\n\n{render(_HEAD, rows)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
