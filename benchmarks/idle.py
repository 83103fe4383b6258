#!/usr/bin/env python3
"""Measure the memory and processor time of an idle wasmdrop, and the time until it is ready.

python benchmarks/idle.py [--slots N] [--seconds N] [--starts N] [--dir DIR]

HTTP is on and probed every ten seconds, first with an empty shared directory, then with finished
slots. The time includes the periodic full scan: keep --seconds above WASMDROP_RESCAN_SEC.
"""

import argparse
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Final

if __name__ == "__main__":
    # Started by its path, Python searches only beside this file, and the parts are one package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import workloads
from benchmarks.contenders import Wasmdrop
from benchmarks.filling import Filling
from benchmarks.suite import described
from benchmarks.tables import render
from benchmarks.usage import processes

_PROBE_SECONDS: Final = 10.0


class Probed(Wasmdrop):
    """The daemon with HTTP on."""

    def variables(self) -> dict[str, str]:
        """Return the directories, and an address."""
        return super().variables() | {"WASMDROP_HTTP": "127.0.0.1:0"}

    def probe(self) -> None:
        """Probe as a kubelet does."""
        address = (self.base / "log").read_text(encoding="utf-8").partition('"address":"')[2]
        url = f"http://{address.partition(chr(34))[0]}/healthz"
        with urllib.request.urlopen(url, timeout=30) as answer:
            answer.read()


def idle(daemon: Probed, seconds: float, what: str) -> list[list[str]]:
    """Leave the daemon idle for this long; return lines of the table."""
    # Earlier work must have ended: compilation, journal writes, forks of idle children.
    time.sleep(5)
    before = {each.pid: each.cpu_seconds for each in processes(daemon.pid)}
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        daemon.probe()
        time.sleep(min(_PROBE_SECONDS, left))
    after = processes(daemon.pid)
    cpu = sum(each.cpu_seconds - before.get(each.pid, 0.0) for each in after) / seconds
    helpers = {each.pid for each in after if each.parent == daemon.pid}
    forking = {each.parent for each in after}
    zygotes = [each for each in after if each.parent in helpers and each.pid in forking]
    itself = [each for each in after if each.pid in {daemon.pid, *helpers}]
    waiting = [each for each in after if each not in itself and each not in zygotes]
    kinds = {
        "daemon, fork server and delivery worker": itself,
        f"the zygotes ({len(zygotes)})": zygotes,
        f"the children that wait for jobs ({len(waiting)})": waiting,
    }
    return [
        [f"{what}: processor, % of one core over {seconds:.0f} s", f"{cpu * 100:.2f}"],
        *(
            [f"{what}: memory of {kind}, MiB", f"{sum(each.pss_mb for each in found):.1f}"]
            for kind, found in kinds.items()
            if found
        ),
    ]


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="Measure wasmdrop while it has nothing to do.")
    parser.add_argument("--slots", type=int, default=10_000, metavar="N")
    parser.add_argument("--seconds", type=float, default=65.0, metavar="N")
    parser.add_argument("--starts", type=int, default=10, metavar="N")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), metavar="DIR")
    options = parser.parse_args()
    about = described(options.dir)
    fib = next(one for one in workloads.find() if isinstance(one, workloads.Workload))
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="wasmdrop-benchmark-") as base:
        daemon = Probed(Path(base).resolve(), {fib.module_name: fib.module})
        filling = Filling(daemon, fib)
        try:
            rows = _measure(filling, daemon, options)
        finally:
            daemon.stop()
    sys.stdout.write(f"{about}\n\n")
    sys.stdout.write(render(["what", "value"], rows, words=1) + "\n")
    return 0


def _measure(filling: Filling, daemon: Probed, options: argparse.Namespace) -> list[list[str]]:
    starts = []
    for _ in range(options.starts):
        starts.append(filling.start()[0])
        daemon.stop()
    rows = [["from start to ready, median s", f"{statistics.median(starts):.2f}"]]
    filling.start()
    rows += idle(daemon, options.seconds, "no slot")
    daemon.stop()
    filling.fill(options.slots)
    filling.start()
    filling.wait_for_all(options.slots)
    rows += idle(daemon, options.seconds, f"{options.slots:,} finished slots")
    daemon.stop()
    ready, _resident = filling.start()
    what = f"{options.slots:,} finished slots, after a restart"
    return [*rows, [f"{what}: from start to ready, s", f"{ready:.2f}"], *idle(daemon, 65, what)]


if __name__ == "__main__":
    sys.exit(main())
