#!/usr/bin/env python3
"""Measure the container image: its size, and the time until a container is ready.

python benchmarks/container.py [--starts N]

Builds the image as tests/deploy does, on a small Debian with its Python instead of the image that
the Dockerfile names; needs root, and what tests/support/deploy/tools.sh installs.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Final

if __name__ == "__main__":
    # Started by its path, Python searches only beside this file, and the parts are one package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from tests.support.deploy.engine import IMAGE, Engine, engine

from benchmarks.tables import render

_GLANCE_SECONDS: Final = 0.02

#: Deadline of a start, in seconds.
_START_SECONDS: Final = 60.0


def seconds_to_ready(podman: Engine) -> tuple[float, float]:
    """Start a container; return the seconds since the command and since its process began."""
    folders = [f"--tmpfs={path}:mode=1777" for path in ("/tmp", "/mnt/shared")]  # noqa: S108 - its
    podman.podman("create", "--name=measured", "--read-only", *folders, IMAGE)
    started = time.time()
    podman.podman("start", "measured")
    while not (ready := [line for line in _log(podman) if line["event"] == "ready"]):
        if time.time() > started + _START_SECONDS:
            raise SystemExit(podman.podman("logs", "measured").stderr)
        time.sleep(_GLANCE_SECONDS)
    ready_at = datetime.fromisoformat(ready[0]["time"]).timestamp()
    pid = podman.podman("inspect", "--format={{.State.Pid}}", "measured").stdout.strip()
    ticks = int(
        Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19]
    )
    booted_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    podman.podman("rm", "--force", "--volumes", "--time=20", "measured")
    return ready_at - started, ready_at - booted_at - ticks / 100


def _log(podman: Engine) -> list[dict[str, str]]:
    written = podman.podman("logs", "measured").stderr  # podman's own output is among them
    return [json.loads(line) for line in written.splitlines() if line.startswith("{")]


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="Measure the container image.")
    parser.add_argument("--starts", type=int, default=10, metavar="N")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as base, engine(Path(base)) as podman:
        version = podman.podman("version", "--format={{.Client.Version}}").stdout.strip()
        size = json.loads(podman.podman("image", "inspect", IMAGE).stdout)[0]["Size"]
        listed = podman.podman("run", "--rm", "--entrypoint=du", IMAGE, "-sm", "/opt/wasmdrop")
        times = [seconds_to_ready(podman) for _ in range(options.starts)]
    ours = int(listed.stdout.split()[0])
    rows = [
        ["image, MB", f"{size / 1e6:.0f}"],
        ["... of it wasmdrop and its packages, MiB", f"{ours}"],
        ["`podman start` to ready, median s", f"{statistics.median(one for one, _ in times):.2f}"],
        [
            "... from the container's first process on",
            f"{statistics.median(two for _, two in times):.2f}",
        ],
    ]
    sys.stdout.write(f"podman {version}, crun\n\n{render(['what', 'value'], rows, words=1)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
