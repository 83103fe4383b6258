"""A real daemon with its own directories, driven from outside: files, signals, streams."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from jsonschema import Draft202012Validator

from wasmdrop.protocol.json_schema import document

T = TypeVar("T")

#: How long a test waits before it fails, in seconds; generous, for slow and busy machines.
DEADLINE_SECONDS: Final = 60.0
_GLANCE_SECONDS: Final = 0.005

#: Every marker that a test waits for is checked against `wasmdrop schema marker`.
_MARKERS: Final = Draft202012Validator(document("marker"))


class DeadlineError(AssertionError):
    """A condition did not become true in time."""


def wait_until(
    look: Callable[[], T | None], what: str, deadline_seconds: float = DEADLINE_SECONDS
) -> T:
    """Return the first true value of ``look``; fail with ``what`` at the deadline."""
    end = time.monotonic() + deadline_seconds
    while not (found := look()):
        if time.monotonic() > end:
            raise DeadlineError(f"waited {deadline_seconds:g} s in vain for {what}")
        time.sleep(_GLANCE_SECONDS)
    return found


def drop(path: Path, content: bytes | str | Mapping[str, Any]) -> None:
    """Drop a file the right way: under a temporary name, then renamed."""
    if isinstance(content, Mapping):
        content = json.dumps(content)
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.dropping")
    temporary.write_bytes(data)
    temporary.replace(path)


def environment(**variables: str) -> dict[str, str]:
    """Return an environment with these variables and only the caller's PATH and HOME."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return kept | variables


#: The user of jobs if root runs the tests. It differs between test processes, because a daemon
#: reports foreign processes of its job user (see :mod:`wasmdrop.system.job_user`).
JOB_USER: Final = 61110 + os.getpid() % 74


class Daemon:
    """``wasmdrop serve`` below ``base``: ``wasm/``, ``shared/``, ``state/``."""

    def __init__(self, base: Path, **variables: str) -> None:
        self.wasm = base / "wasm"
        self.shared = base / "shared"
        self.state = base / "state"
        for directory in (self.wasm, self.shared):
            directory.mkdir(parents=True, exist_ok=True)
        self.environment = environment(
            WASMDROP_WASM_DIR=str(self.wasm),
            WASMDROP_SHARED_DIR=str(self.shared),
            WASMDROP_STATE_DIR=str(self.state),
            WASMDROP_JOB_USER=str(JOB_USER),
        )
        self.environment |= variables
        self._out = base / "out"
        self._log = base / "log"
        self._seen_ready = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.command: tuple[str, ...] = (sys.executable, "-m", "wasmdrop", "serve")
        self.prefix: tuple[str, ...] = ()
        """A command that runs another one, such as ``setpriv`` with its options."""
        self.stdin: int = subprocess.DEVNULL

    def start(self) -> "Daemon":
        """Start the daemon and wait until it is ready."""
        self.launch()
        wait_until(self._is_ready, "the daemon to be ready")
        return self

    def launch(self) -> None:
        """Start the daemon without waiting."""
        self._seen_ready = len(self.events("ready"))
        with self._out.open("ab") as out, self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *self.command],
                stdin=self.stdin,
                stdout=out,
                stderr=log,
                env=self.environment,
            )

    def stop(self) -> int:
        """End the daemon with SIGTERM; return its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_SECONDS)

    def kill(self) -> None:
        """End the daemon with SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(DEADLINE_SECONDS)

    @contextlib.contextmanager
    def running(self) -> Iterator["Daemon"]:
        """Run the daemon for a block; it must stop cleanly and log no fault of its own."""
        self.start()
        try:
            yield self
        finally:
            status = self.stop()
        assert status == 0, self.log_text()
        faults = [event for event in self.events() if event["level"] in {"error", "critical"}]
        assert not faults, faults

    def log_text(self) -> str:
        """Return the whole log."""
        return self._log.read_text() if self._log.exists() else ""

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the logged events, all or those of one name."""
        whole = self.log_text().rpartition("\n")[0]  # the last line may be half written
        lines = [line for line in whole.splitlines() if line.startswith("{")]
        events = [json.loads(line) for line in lines]
        return [event for event in events if name is None or event["event"] == name]

    def until_logged(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait for so many events of that name, and return all that there are by then.

        A thread writes the log, so the effect of an event may be seen before its line.
        """
        return wait_until(
            lambda: found if len(found := self.events(name)) >= count else None,
            f"{count} times {name} in the log",
        )

    def lines(self) -> list[str]:
        """Return the result lines on its standard output."""
        return self._out.read_text().splitlines()

    def submit(self, name: str, content: bytes | str | Mapping[str, Any]) -> dict[str, Any]:
        """Drop an input at ``shared/NAME`` and return the marker of its job."""
        path = self.shared / name
        data = json.dumps(content) if isinstance(content, Mapping) else content
        raw = data.encode() if isinstance(data, str) else data
        drop(path, raw)
        return self.wait_for(name, raw)

    def wait_for(self, name: str, content: bytes) -> dict[str, Any]:
        """Wait for the marker of the job with exactly this content; return it."""
        digest = hashlib.sha256(content).hexdigest()

        def look() -> dict[str, Any] | None:
            found = self.marker(name)
            return found if found and (found["input"] or {}).get("sha256") == digest else None

        end = f"the marker of {name}; the log ends in {self.log_text()[-2000:]}"
        marker = wait_until(look, end)
        _MARKERS.validate(marker)
        return marker

    def marker(self, name: str) -> dict[str, Any] | None:
        """Return the marker beside the input ``shared/NAME``, if there is one."""
        path = self.result_path(name, ".done")
        try:
            marker = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        assert isinstance(marker, dict)
        return marker

    def result_path(self, name: str, suffix: str) -> Path:
        """Return the result file beside the input ``shared/NAME``."""
        path = self.shared / name
        return path.with_name(path.stem.replace("input", "result", 1) + suffix)

    def result(self, name: str) -> Any:
        """Return ``result.json`` beside the input ``shared/NAME``, after a check of all digests."""
        marker = self.marker(name)
        assert marker is not None
        _MARKERS.validate(marker)
        for file, entry in marker["files"].items():
            data = (self.result_path(name, ".json").parent / file).read_bytes()
            assert hashlib.sha256(data).hexdigest() == entry["sha256"], file
            assert len(data) == entry["bytes"], file
        return json.loads(self.result_path(name, ".json").read_bytes())

    def children(self) -> list[int]:
        """Return the processes below the daemon: delivery workers, fork server, its children."""
        assert self.process is not None
        return descendants_of(self.process.pid)

    def delivery_workers(self) -> list[int]:
        """Return the daemon's delivery workers."""
        assert self.process is not None
        return delivery_workers_of(self.process.pid)

    def fork_servers(self) -> list[int]:
        """Return the fork server, if it is running."""
        assert self.process is not None
        pid = self.process.pid
        return [child for child in _children_of(pid) if not _is_delivery_worker(child)]

    def fork_server(self) -> int:
        """Return the fork server; there must be one."""
        (server,) = self.fork_servers()
        return server

    def _is_ready(self) -> bool:
        assert self.process is not None
        status = self.process.poll()
        assert status is None, f"the daemon ended with {status}: {self.log_text()}"
        return len(self.events("ready")) > self._seen_ready


def descendants_of(pid: int) -> list[int]:
    """Return the processes below a process."""
    found: list[int] = []
    pending = [pid]
    while pending:
        pid = pending.pop()
        try:
            text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        below = [int(word) for word in text.split()]
        found += below
        pending += below
    return found


def delivery_workers_of(pid: int) -> list[int]:
    """Return the delivery workers of a process, started by its main thread."""
    return [child for child in _children_of(pid) if _is_delivery_worker(child)]


def _children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_delivery_worker(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_bytes() == b"wasmdrop: deliv\n"
    except (FileNotFoundError, ProcessLookupError):
        return False
