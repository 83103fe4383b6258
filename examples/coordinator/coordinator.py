"""Run tasks that name their modules by content id, one job each, and print each last line.

    python coordinator.py TASKS [--host DIR] [--gateway URL] [--timeout SECONDS]

TASKS is a file with one task a line, or `-` for standard input:

    {"id": "task-7", "module": "bafkrei…", "input": {"entry": "fib", "args": [12]}}

For each task, standard output gets its id and the last line of its result.txt (`task-7 144`), or
standard error gets its id and what went wrong. The exit status is 1 if a task failed.

A module that lies in `host/wasm` as CID.wasm is used from there. Others are fetched into
`host/wasm/coordinator`, and each task has a directory in `host/shared/coordinator`. Both belong to
the coordinator, which removes what no task needs, and at its start what a killed run left.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import re
import secrets
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wasmdrop.client import ResultError, submit
from wasmdrop.unixfs.files import FileImporter
from wasmdrop.unixfs.profiles import PROFILES, Profile

#: The coordinator's own directories, below the wasm and below the shared directory.
OWN = "coordinator"
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class TaskError(Exception):
    """A task failed; the message says why, in one line."""


class Task(NamedTuple):
    """One line of TASKS."""

    name: str
    module: str
    input: dict[str, Any]


def parse(number: int, line: str) -> Task:
    """Return the task of a line. Raises `ValueError`."""
    with contextlib.suppress(ValueError, RecursionError):
        match json.loads(line):
            case {"id": str(name), "module": str(cid), "input": dict(given)}:
                if NAME.fullmatch(name) and NAME.fullmatch(cid):
                    return Task(name, cid, given)
    raise ValueError(f'line {number}: expected {{"id": NAME, "module": CID, "input": {{…}}}}')


def content_id(path: Path, profile: Profile) -> str:
    """Return the CID of a file."""
    importer = FileImporter(profile)
    importer.update(path.read_bytes())
    return importer.finish().cid.text


class Coordinator:
    """Runs tasks on the daemon of one host directory."""

    def __init__(self, host: Path, gateway: str, timeout_seconds: float) -> None:
        self.wasm, self.shared = host / "wasm", host / "shared"
        self.gateway, self.timeout_seconds = gateway, timeout_seconds

    @contextlib.contextmanager
    def owner(self) -> Iterator[None]:
        """Own the two directories for a block; first remove what a killed run left there."""
        with (self.shared / f".{OWN}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BlockingIOError(f"{lock.name}: another coordinator is running") from None
            for directory in (self.wasm / OWN, self.shared / OWN):
                shutil.rmtree(directory, ignore_errors=True)
                directory.mkdir(exist_ok=True)
            yield

    def run(self, task: Task) -> str:
        """Return the last line of the task's result.txt. Raises `TaskError` among others."""
        module = self.module(task.module)
        spec = task.input | {"id": task.name, "module": str(module.relative_to(self.wasm))}
        # A new directory: the same task's job of an earlier run can't write there.
        job = submit(self.shared, spec, f"{OWN}/{task.name}-{secrets.token_hex(8)}/input.json")
        try:
            result = job.result(self.timeout_seconds)
        finally:
            shutil.rmtree(job.input_path.parent)
        if result.status == "failed":
            raise TaskError(f"{result.code}: {result.message}".partition("\n")[0])
        if result.marker["module"]["sha256"] != hashlib.sha256(module.read_bytes()).hexdigest():
            raise TaskError(f"{module} was replaced, and another module ran")
        return result.raw

    def module(self, cid: str) -> Path:
        """Return the file of a module, which is fetched if it is missing. Raises `TaskError`."""
        name = f"{cid}.wasm"
        if (found := self.wasm / name).exists():
            if cid not in {content_id(found, profile) for profile in PROFILES.values()}:
                raise TaskError(f"{found} does not have the content id in its name")
        elif not (found := self.wasm / OWN / name).exists():
            words = [f"ipfs://{cid}", "--gateway", self.gateway, "--into", str(found.parent)]
            command = [sys.executable, "-m", "wasmdrop", "fetch", *words]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                raise TaskError(done.stderr.strip().removeprefix("wasmdrop: "))
        return found


def main() -> int:
    """Run all tasks; return an exit status."""
    parser = argparse.ArgumentParser(description="Run tasks that name their modules by CID.")
    parser.add_argument("tasks", type=argparse.FileType(), help="a file, or - for standard input")
    parser.add_argument("--host", type=Path, default="host", help="has wasm and shared")
    parser.add_argument("--gateway", default="http://127.0.0.1:8080", help="has the modules")
    parser.add_argument("--timeout", type=float, default=60, help="seconds for each task")
    args = parser.parse_args()
    coordinator, status = Coordinator(args.host, args.gateway, args.timeout), 0
    tasks = [parse(number, line) for number, line in enumerate(args.tasks, 1)]
    unfinished = Counter(task.module for task in tasks)
    with coordinator.owner():
        for task in tasks:
            try:
                print(task.name, coordinator.run(task), flush=True)
            except (TaskError, ResultError, OSError, ValueError) as error:
                print(f"{task.name}: {error}", file=sys.stderr, flush=True)
                status = 1
            unfinished[task.module] -= 1
            if not unfinished[task.module]:
                (args.host / "wasm" / OWN / f"{task.module}.wasm").unlink(missing_ok=True)
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        sys.exit(f"coordinator: {error}")
