#!/usr/bin/env python3
"""Run all benchmarks, one after the other, and write RESULTS.md and its plots.

python benchmarks/results.py [--dir DIR] [--only NAME ...]

With --only, the other sections of RESULTS.md stay as they are.

Takes about 25 minutes, of which latency.py takes seven and the 200,000 jobs of scale.py about
as long. The machine should have nothing else to do. How far it is goes to standard error.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).resolve().parent

_DRAWN: Final = ["--plots", str(_HERE / "plots")]

#: Sections, and the programs that make them.
_PARTS: Final = {
    "latency": ("Latency and throughput", ["latency.py", *_DRAWN]),
    "trace": ("The stages against a trace", ["trace.py"]),
    "programs": ("Programs", ["programs.py"]),
    "proof": ("Content ids and receipts", ["proof.py"]),
    "fleet": ("Fleet", ["fleet.py"]),
    "idle": ("What an idle daemon takes", ["idle.py"]),
    "scale": ("With 100, 10,000 and 100,000 slots", ["scale.py", *_DRAWN]),
    "bounds": ("Against what waits, has failed or was done", ["bounds.py"]),
}
_PLOTS: Final = {"latency": ("latency", "burst", "stages"), "scale": ("growth", "sizes")}


def main() -> int:
    """Run the requested sections; return the exit status of the first that failed."""
    parser = argparse.ArgumentParser(description="Run all benchmarks and write RESULTS.md.")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), metavar="DIR")
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=list(_PARTS), metavar="NAME")
    options = parser.parse_args()
    (_HERE / "plots").mkdir(exist_ok=True)
    results = _HERE / "RESULTS.md"
    sections = _sections(results.read_text(encoding="utf-8")) if results.exists() else {}
    status = 0
    for name in options.only:
        title, command = _PARTS[name]
        program, *words = command
        sys.stderr.write(f"== {title}\n")
        done = subprocess.run(
            [sys.executable, str(_HERE / program), *words, "--dir", str(options.dir)],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            # Keeps the results of the other sections, which take long.
            sys.stderr.write(f"{program} failed\n")
            status = status or done.returncode
            continue
        plots = [f"![{one}](plots/{one}.svg)" for one in _PLOTS.get(name, ())]
        sections[title] = "\n\n".join([done.stdout.strip(), *plots])
        parts = ["# Results", "Made by `make bench`; README.md says what is measured, and how."]
        for title, _command in _PARTS.values():
            if title in sections:
                parts += [f"## {title}", sections[title]]
        results.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return status


def _sections(text: str) -> dict[str, str]:
    """Return the text below each heading of the second level."""
    found = (part.partition("\n") for part in text.split("\n## ")[1:])
    return {title: body.strip() for title, _newline, body in found}


if __name__ == "__main__":
    sys.exit(main())
