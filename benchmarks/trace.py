#!/usr/bin/env python3
"""Check the stages in wasmdrop's markers against a trace of its system calls.

python benchmarks/trace.py [--drops N] [--dir DIR]

The daemon runs under strace(1), which makes all of it slower: the times are no measure of wasmdrop,
but the marker and the trace are of the same jobs, so that they must agree. Inputs are dropped one
after the other; what the trace says of one lies between its drop and the next.
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    # Started by its path, Python searches only beside this file, and the parts are one package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import workloads
from benchmarks.client import Client, result_name
from benchmarks.contenders import Wasmdrop
from benchmarks.suite import described
from benchmarks.syscalls import Call, parse
from benchmarks.tables import milliseconds, render

#: Calls that mark the steps of a job, and the last call of a child before its guest runs.
_TRACED: Final = (
    "read,recvfrom,recvmsg,write,writev,sendmsg,sendto,rename,renameat,renameat2,"
    "mmap,munmap,mprotect,madvise,seccomp,prlimit64"
)
_STRACE: Final = ("strace", "-f", "--seccomp-bpf", "-ttt", "-T", "-y", "-s", "4096")
_WARM_UP: Final = 5
_DEADLINE_SECONDS: Final = 30.0
_SETTLE_SECONDS: Final = 0.05

#: Messages of the fork server about its children, which are no reports of jobs.
_OF_CHILDREN: Final = ('"child ', '"exit ')


class Traced(Wasmdrop):
    """The daemon under strace."""

    name = "wasmdrop, traced"

    @classmethod
    def lacks(cls) -> str:
        """Return what is missing: strace, or the right to trace."""
        if shutil.which("strace") is None:
            return "there is no strace"
        command = [*_STRACE, "-o", "/dev/null", "true"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return "" if done.returncode == 0 else f"strace does not work: {done.stderr.strip()}"

    @property
    def trace(self) -> Path:
        """Return the path of the trace."""
        return self.base / "trace"

    def command(self) -> list[str]:
        """Return the command line."""
        options = [*_STRACE, "-e", f"trace={_TRACED}", "-o", str(self.trace)]
        return [*options, *super().command()]

    def daemon_pid(self) -> int:
        """Return the process id of the daemon, the first child of strace."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return int(path.read_text(encoding="ascii").split()[0])

    def stop(self) -> None:
        """Stop the daemon, and so strace, which does not forward a signal."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self.daemon_pid(), signal.SIGTERM)
            self._process.wait(_DEADLINE_SECONDS)


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="Check markers against a trace.")
    parser.add_argument("--drops", type=int, default=40, metavar="N", help="of each module")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), metavar="DIR")
    options = parser.parse_args()
    if lack := Traced.lacks():
        sys.stdout.write(f"left out: {lack}\n")
        return 0
    runnable = [one for one in workloads.find() if isinstance(one, workloads.Workload)]
    chosen = [one for one in runnable if one.name in {"fib", "computing"}]
    rows = []
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="wasmdrop-benchmark-") as base:
        modules = {one.module_name: one.module for one in chosen}
        daemon = Traced(Path(base).resolve(), modules)
        try:
            daemon.start()
            for workload in chosen:
                rows += _compare(daemon, workload, options.drops)
        finally:
            daemon.stop()
    head = ["module", "stage", "by the marker, median ms", "by the trace", "difference, median"]
    about = described(options.dir)
    sys.stdout.write(f"{about}; {options.drops} drops each, under strace\n\n{render(head, rows)}\n")
    return 0


def _compare(daemon: Traced, workload: workloads.Workload, drops: int) -> list[list[str]]:
    """Drop, and return the lines of the table: stages by the marker and by the trace."""
    found: list[dict[str, tuple[float, float]]] = []
    client = Client(daemon.shared)
    try:
        for number in range(-_WARM_UP, drops):
            name = f"input-{workload.module_name}-{number + _WARM_UP}.json"
            content, wanted = workload.input(number + _WARM_UP), workload.wanted(number + _WARM_UP)
            # Traces of the job before, such as events of its results, are no part of this one.
            time.sleep(_SETTLE_SECONDS)
            began = daemon.trace.stat().st_size
            latency, dropped_at = client.drop(name, content)
            marker = daemon.check(name, content, wanted)
            calls = _until_marked(daemon.trace, began, result_name(name, ".done"))
            if number >= 0:
                steps = stages_of(calls, _tasks(daemon.daemon_pid()), name)
                found.append(_side_by_side(marker, steps, dropped_at, latency))
    finally:
        client.close()
    return [
        [
            workload.name,
            stage,
            *(milliseconds(statistics.median(one[stage][way] for one in found)) for way in (0, 1)),
            milliseconds(statistics.median(one[stage][1] - one[stage][0] for one in found)),
        ]
        for stage in found[0]
    ]


def _until_marked(trace: Path, offset: int, marker: str) -> list[Call]:
    """Return the calls until a file got the marker's name."""
    end = time.monotonic() + _DEADLINE_SECONDS
    while time.monotonic() < end:
        with trace.open("rb") as file:
            file.seek(offset)
            text = file.read().decode(errors="replace")
        calls = parse(text.splitlines())
        if any(_names(one, marker) for one in calls):
            return calls
        time.sleep(0.05)
    raise SystemExit(f"the trace does not tell of {marker}")


def _tasks(pid: int) -> set[int]:
    return {int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()} | {pid}


def stages_of(calls: Sequence[Call], daemon: set[int], name: str) -> dict[str, float]:
    """Return the times of the steps of the job of the input ``name``, in seconds since 1970.

    ``daemon`` are the threads of the daemon, of which the least is its main one; all others are
    its children.
    """
    main_thread = min(daemon)
    noticed = _first(
        calls,
        "that the event was read",
        lambda one: one.name == "read" and f"\\0{name}\\0" in one.text,
    )
    # A request to a child is the only message with descriptors that the daemon sends.
    sent = _first(
        calls,
        "that an order was sent",
        lambda one: (
            one.task == main_thread and one.name == "sendmsg" and one.began >= noticed.ended
        ),
    )
    answered = _first(
        calls,
        "that an answer was read",
        lambda one: (
            one.task == main_thread
            and one.name.startswith("recv")
            and one.began >= sent.ended
            and one.result > 1  # one byte wakes the event loop
            and not _is_of_children(one)
        ),
    )
    answer = _first(
        sorted(calls, key=lambda one: one.began, reverse=True),
        "that a child answered",
        lambda one: (
            one.task not in daemon
            and one.name in {"write", "writev", "sendmsg", "sendto"}
            and one.began <= answered.ended
            and not _is_of_children(one)
        ),
    )
    silent = _first(
        reversed(calls),
        "what the child did before",
        lambda one: one.task == answer.task and one.ended <= answer.began,
    )
    marked = _first(calls, "of the marker", lambda one: _names(one, result_name(name, ".done")))
    return {
        "noticed": noticed.ended,
        "sent": sent.began,
        "silent": silent.ended,
        "answer": answer.began,
        "answered": answered.ended,
        "marked": marked.ended,
    }


def _first(calls: Iterable[Call], what: str, is_it: Callable[[Call], bool]) -> Call:
    for one in calls:
        if is_it(one):
            return one
    raise SystemExit(f"the trace does not tell {what}")


def _names(call: Call, name: str) -> bool:
    """Return whether the call gave a file this name."""
    return call.name.startswith("rename") and f'"{name}"' in call.text


def _is_of_children(call: Call) -> bool:
    return any(word in call.text for word in _OF_CHILDREN)


def _side_by_side(
    marker: dict[str, Any], steps: dict[str, float], dropped_at: float, latency: float
) -> dict[str, tuple[float, float]]:
    """Return each stage in seconds, from the marker and from the trace."""
    noticed, started, finished = (
        datetime.fromisoformat(marker[f"{name}_at"]).timestamp()
        for name in ("dropped", "started", "finished")
    )
    end = dropped_at + latency
    return {
        "noticed: drop to the event read": (noticed - dropped_at, steps["noticed"] - dropped_at),
        "queued: to the request sent": (started - noticed, steps["sent"] - steps["noticed"]),
        "run: the child's silence": (marker["seconds"]["run"], steps["answer"] - steps["silent"]),
        "sandbox and run: to the report read": (
            finished - started,
            steps["answered"] - steps["sent"],
        ),
        "delivered: to the marker in place": (end - finished, steps["marked"] - steps["answered"]),
        "all": (latency, steps["marked"] - dropped_at),
    }


if __name__ == "__main__":
    sys.exit(main())
