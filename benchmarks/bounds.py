#!/usr/bin/env python3
"""Measure memory and processor time against the number of jobs that wait, failed or finished.

python benchmarks/bounds.py [--sizes N,...] [--kinds KIND,...] [--drops N] [--code DIR] [--dir DIR]

For each kind and size the program fills a journal itself, without running its jobs; for
``slots`` and ``large-inputs`` there are input files, too, which ran before or are new. Then a
daemon is started on it, and good jobs are dropped one after the other. Memory is the resident
memory of the daemon's own process, at its highest since its start; the time of a job is that of the
daemon's own process, without those below it. ``--code`` is the directory of another version's
package.
"""

import argparse
import asyncio
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    # Started by its path, Python searches only beside this file, and the parts are one package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    if "--code" in sys.argv:
        sys.path.insert(0, sys.argv[sys.argv.index("--code") + 1])

import wasmtime

from benchmarks.client import Client, result_name
from benchmarks.contenders import Wasmdrop
from benchmarks.suite import described
from benchmarks.tables import render
from benchmarks.workloads import Workload, find
from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.intake.file_versions import pack, with_digest
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import FileVersion, InputFile, Slot
from wasmdrop.settings import SETTINGS

_SLOTS_A_DIRECTORY: Final = 100
_AT_ONCE: Final = 500
_LOOP: Final = '(module (func (export "run") (loop br 0)))'
_LARGE_BYTES: Final = 7 * 1024 * 1024
_LARGE_INPUT_BYTES: Final = 15 * 1024 * 1024

#: Sizes of kinds that take much space.
_FIXED: Final = {"undelivered-large": ["100"], "large-inputs": ["150"]}


class Bounded(Wasmdrop):
    """The daemon of any version; jobs wait behind one that never ends."""

    code = ""

    def variables(self) -> dict[str, str]:
        """Return the directories, and the path of the package."""
        more = {"TIMEOUT_SEC": "600", "WASMDROP_DRAIN_SEC": "0", "WASMDROP_MAX_QUEUED": "1000000"}
        if any(setting.name == "undelivered_jobs" for setting in SETTINGS):
            more["WASMDROP_UNDELIVERED_JOBS"] = "1000000"
        return super().variables() | more | ({"PYTHONPATH": self.code} if self.code else {})


def _jobs(
    shared: Path, size: int, name: str, same_slot: bool = False
) -> Iterator[tuple[Job, bytes]]:
    data = b'{"module":"nope"}' if name != "busy" else b'{"module":"loop"}'
    now_ns = time.time_ns()
    for number in range(size):
        if same_slot:
            key = f"{name}/input.json"
        else:
            key = f"{name}{number // _SLOTS_A_DIRECTORY}/input-{number}.json"
        path = shared / key
        slot = Slot(key, str(path), str(path.parent), path.stem.replace("input", "result"))
        yield (
            Job(
                f"{name}-{number:07}",
                slot,
                now_ns,
                input=InputFile(str(path), hashlib.sha256(data).hexdigest(), len(data)),
                module_reference="nope" if name == "failed" else None,
                finished_at_ns=now_ns,
            ),
            data,
        )


async def _fill(kind: str, size: int, state: Path, shared: Path) -> None:
    journal = Journal(state / "journal.sqlite")
    try:
        pending: list[Any] = []
        if kind == "large-inputs":
            _drop_large(shared, size)
            return
        for job, data in _jobs(shared, size, _NAMES[kind], same_slot=kind == "waiting"):
            if kind == "slots":
                pending.append(journal.accept(job, data, _laid(job, data)))
                job = journal.move_lazily(job, JobState.EXECUTED, code=Code.INVALID_INPUT)  # noqa: PLW2901
                journal.move_lazily(job, JobState.DELIVERED)
            elif kind in {"failed", "history"}:
                more = b"" if kind == "failed" else b" " * 2000
                code = Code.MODULE_MISSING if kind == "failed" else Code.TRAP
                pending.append(journal.accept(job, data + more, {job.slot.input_path: b"seed"}))
                job = journal.move_lazily(job, JobState.EXECUTED, code=code, message="x" * 200)  # noqa: PLW2901
                journal.move_lazily(job, JobState.DELIVERED)
            elif kind == "waiting":
                pending.append(journal.accept(job, data, {}))
            else:
                pending.append(journal.accept(job, data, {}))
                job = journal.move_lazily(job, JobState.EXECUTED, attempt=1, code=Code.OK)  # noqa: PLW2901
                content = bytes(_LARGE_BYTES) if kind == "undelivered-large" else b"{}\n"
                package = ResultPackage({".json": b"{}\n", ".stdout": content}, b"{}")
                pending.append(journal.keep_package(job, package, "seeded"))
            if len(pending) >= (_AT_ONCE if kind != "undelivered-large" else 1):
                await asyncio.gather(*pending)
                pending.clear()
        await asyncio.gather(*pending)
    finally:
        await journal.close()


def _drop_large(shared: Path, size: int) -> None:
    directory = shared / "large"
    directory.mkdir()
    data = b'{"module":"fib","entry":"fib","args":[1]' + b" " * _LARGE_INPUT_BYTES + b"}"
    for number in range(size):
        (directory / f"input-{number}.json").write_bytes(data)


def _laid(job: Job, data: bytes) -> dict[str, bytes]:
    """Create an input file; return its version as the journal stores it for an accepted input."""
    path = Path(job.slot.input_path)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    version = pack(FileVersion.of(path.stat()))
    return {str(path): with_digest(version, hashlib.sha256(data).digest())}


#: Names of the slots of each kind.
_NAMES: Final = {
    "undelivered": "gone",
    "undelivered-large": "gone",
    "failed": "failed",
    "history": "done",
    "waiting": "busy",
    "slots": "ran",
    "large-inputs": "large",
}


def _cpu_seconds(pid: int) -> float:
    """Return the processor time of one process with its ended threads, to a tick."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_mb(pid: int) -> float:
    """Return the highest resident memory of a process so far (proc_pid_status(5))."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure(kind: str, size: int, drops: int, base: Path, code: str, fib: Workload) -> list[str]:
    """Return one line of the table."""
    modules = {fib.module_name: fib.module, "loop": bytes(wasmtime.wat2wasm(_LOOP))}
    daemon = Bounded(base, modules)
    daemon.code = code
    (daemon.base / "state").mkdir(mode=0o700)
    asyncio.run(_fill(kind, size, daemon.base / "state", daemon.shared))
    started = time.perf_counter()
    daemon.start()
    ready_seconds = time.perf_counter() - started
    client = Client(daemon.shared)
    seconds = []
    try:
        time.sleep(3)  # work that a start causes has begun
        idle = _cpu_seconds(daemon.pid)
        time.sleep(3)
        idle = (_cpu_seconds(daemon.pid) - idle) / 3
        before = _cpu_seconds(daemon.pid)
        for number in range(drops):
            if kind == "failed" and number % 5 == 0:
                (daemon.wasm / f"other-{number}.wasm").write_bytes(fib.module)
            content = fib.input(number)
            seconds.append(client.drop(f"input-{number}.json", content)[0])
            assert (daemon.shared / result_name(f"input-{number}.json", ".txt")).exists()  # noqa: S101
        cpu = (_cpu_seconds(daemon.pid) - before) / drops
        peak_mb = _peak_mb(daemon.pid)
    finally:
        client.close()
        daemon.stop()
    return [
        kind,
        f"{size:,}",
        f"{ready_seconds:.1f}",
        f"{peak_mb:.0f}",
        f"{idle * 100:.1f}",
        f"{cpu * 1e3:.2f}",
        f"{statistics.median(seconds) * 1e3:.1f}",
        f"{max(seconds) * 1e3:.0f}",
    ]


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", default="100,100000")
    parser.add_argument("--kinds", default=",".join(_NAMES))
    parser.add_argument("--drops", type=int, default=30)
    parser.add_argument("--code", default="")
    parser.add_argument("--dir", type=Path, default=None)
    options = parser.parse_args()
    fib = next(one for one in find() if isinstance(one, Workload) and one.name == "fib")
    about = described(options.dir or Path(tempfile.gettempdir()))
    head = ["kind", "size", "ready s", "RSS MiB", "idle %", "ms/job", "median ms", "worst ms"]
    rows = []
    for kind in options.kinds.split(","):
        sizes = _FIXED.get(kind) or options.sizes.split(",")
        for size in map(int, sizes):
            with tempfile.TemporaryDirectory(dir=options.dir, ignore_cleanup_errors=True) as base:
                rows.append(measure(kind, size, options.drops, Path(base), options.code, fib))
            sys.stderr.write("  ".join(rows[-1]) + "\n")
    sys.stdout.write(f"{about}\n\n{render(head, rows)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
