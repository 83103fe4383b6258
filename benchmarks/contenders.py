"""Contenders: programs that turn inputs dropped into a directory into results and markers.

To add one: a class with the methods of :class:`Contender`, and a line in ``lineup.ALL``.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any, Final

from benchmarks.client import result_name
from benchmarks.workloads import Wanted, Workload

_HERE: Final = Path(__file__).resolve().parent

#: Deadline of a start, in seconds.
_START_SECONDS: Final = 60.0
_GLANCE_SECONDS: Final = 0.01

#: Events after which jobs take longer than they should, though their results are right.
_TROUBLES: Final = ("zygote-unavailable", "zygote-exited", "attempt-failed")


class WrongError(Exception):
    """A result is wrong, or a contender did not work at all."""


class Contender:
    """A running program with its own directories below ``base``.

    Markers of programs other than wasmdrop say nothing; :attr:`tells` says whether to read them.
    """

    name: str = ""
    compiles_each_time = True
    tells = False
    is_variant = False
    """Whether it is wasmdrop without one of its parts."""

    def __init__(self, base: Path, modules: dict[str, bytes]) -> None:
        self.base = base / type(self).__name__.lower()
        self.wasm = self.base / "wasm"
        self.shared = self.base / "shared"
        for directory in (self.wasm, self.shared):
            directory.mkdir(parents=True)
        for name, module in modules.items():
            (self.wasm / f"{name}.wasm").write_bytes(module)
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def lacks(cls) -> str:
        """Return what it lacks on this machine; nothing if it can run."""
        return ""

    @classmethod
    def takes(cls, workload: Workload) -> bool:
        """Return whether it is measured with this workload."""
        return workload.everywhere

    def command(self) -> list[str]:
        """Return the command line."""
        raise NotImplementedError

    def variables(self) -> dict[str, str]:
        """Return the program's own environment variables."""
        return {}

    def start(self) -> None:
        """Start it."""
        environment = {
            name: value
            for name, value in os.environ.items()
            # Without a bytecode cache each Python would compile its imports again.
            if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith("WASMDROP_")
        }
        with self._open("out") as out, self._open("log") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env=environment | self.variables(),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Return its process id after the start."""
        assert self._process is not None  # noqa: S101 - what the sentence says
        return self._process.pid

    def stop(self) -> None:
        """Stop it, if it was started."""
        if self._process is None:
            return
        self.resume()
        self._process.terminate()
        self._process.wait(_START_SECONDS)
        with contextlib.suppress(ProcessLookupError):  # processes that a shell leaves running
            os.killpg(self._process.pid, signal.SIGTERM)

    def pause(self) -> None:
        """Pause it while others are measured, so that it takes none of their time."""

    def resume(self) -> None:
        """Resume it."""

    def check(self, name: str, content: dict[str, Any], wanted: Wanted) -> dict[str, Any]:
        """Check the result of the drop ``name`` and return its marker; raise ``WrongError``."""
        marker = self._read(result_name(name, ".done"))
        if wanted.stdout is not None:
            printed = (self.shared / result_name(name, ".stdout")).read_bytes()
            if printed != wanted.stdout:
                raise WrongError(f"{self.name}: {name} printed {printed[:100]!r}")
            for file, content_wanted in wanted.files.items():
                found_content = (self.shared / result_name(name, ".output") / file).read_bytes()
                if found_content != content_wanted:
                    raise WrongError(f"{self.name}: {name} wrote {found_content[:100]!r}")
            return marker
        found = self._read(result_name(name, ".json"))
        if found.get("args") != content["args"] or found.get("results") != wanted.results:
            raise WrongError(f"{self.name}: {name} gave {found}, not {wanted.results}")
        return marker

    def _open(self, name: str) -> IO[bytes]:
        return (self.base / name).open("wb")

    def _read(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads((self.shared / name).read_bytes())
        except (OSError, ValueError) as error:
            raise WrongError(f"{self.name}: {name} can't be read: {error}") from None
        if not isinstance(found, dict):
            raise WrongError(f"{self.name}: {name} is no object")
        return found


class Wasmdrop(Contender):
    """The daemon, with its defaults."""

    name = "wasmdrop"
    compiles_each_time = False
    tells = True

    @classmethod
    def takes(cls, _workload: Workload) -> bool:
        """Return whether it is measured with this workload: with any."""
        return True

    def command(self) -> list[str]:
        """Return the command line."""
        return [sys.executable, "-m", "wasmdrop", "serve"]

    def variables(self) -> dict[str, str]:
        """Return the directories."""
        return {
            "WASMDROP_WASM_DIR": str(self.wasm),
            "WASMDROP_SHARED_DIR": str(self.shared),
            "WASMDROP_STATE_DIR": str(self.base / "state"),
        }

    def start(self) -> None:
        """Start it and wait until it reports that it is ready."""
        super().start()
        assert self._process is not None  # noqa: S101 - just started
        end = time.monotonic() + _START_SECONDS
        while b'"event":"ready"' not in (log := (self.base / "log").read_bytes()):
            if self._process.poll() is not None or time.monotonic() > end:
                raise WrongError(f"the daemon did not start: {log.decode(errors='replace')}")
            time.sleep(_GLANCE_SECONDS)

    def troubles(self) -> list[str]:
        """Return the events of its log that make its figures doubtful."""
        log = (self.base / "log").read_text(encoding="utf-8", errors="replace")
        return [event for event in _TROUBLES if f'"event":"{event}"' in log]

    def check(self, name: str, content: dict[str, Any], wanted: Wanted) -> dict[str, Any]:
        """Check the result, and the marker's entries for the files."""
        marker = super().check(name, content, wanted)
        slot = (self.shared / name).parent
        files = {slot / file: entry["sha256"] for file, entry in marker["files"].items()}
        files[self.shared / name] = marker["input"]["sha256"]
        for path, digest in files.items():
            if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                raise WrongError(f"wasmdrop: {path} is not what its marker says")
        return marker


class _Watching(Contender):
    """A script that uses watchdog's observer."""

    def start(self) -> None:
        """Start it and wait until it watches the directory: until then it notices no drop."""
        super().start()
        end = time.monotonic() + _START_SECONDS
        while not self._watches():
            if time.monotonic() > end:
                raise WrongError(f"{self.name}: it does not watch {self.shared}")
            time.sleep(_GLANCE_SECONDS)

    def _watches(self) -> bool:
        for description in Path(f"/proc/{self.pid}/fdinfo").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if "inotify wd:" in description.read_text(encoding="ascii"):
                    return True
        return False


class WarmScript(_Watching):
    """See warm_script.py."""

    name = "warm script"
    compiles_each_time = False

    def command(self) -> list[str]:
        """Return the command line."""
        return [sys.executable, str(_HERE / "warm_script.py"), str(self.wasm), str(self.shared)]


class DurableWarmScript(WarmScript):
    """The same with fsync of files and directory."""

    name = "warm script, fsync"

    def command(self) -> list[str]:
        """Return the command line."""
        return [*super().command(), "--fsync"]


class PlainLoop(Contender):
    """See plain_loop.py."""

    name = "plain loop"

    def command(self) -> list[str]:
        """Return the command line."""
        return [sys.executable, str(_HERE / "plain_loop.py"), str(self.wasm), str(self.shared)]

    def pause(self) -> None:
        """Stop its polling."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it poll again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)


class WatchdogScript(_Watching):
    """See watchdog_script.py."""

    name = "watchdog script"

    def command(self) -> list[str]:
        """Return the command line."""
        return [sys.executable, str(_HERE / "watchdog_script.py"), str(self.wasm), str(self.shared)]


class ShellLoop(Contender):
    """See shell_loop.sh."""

    name = "shell loop"

    @classmethod
    def lacks(cls) -> str:
        """Return the missing tool, inotifywait."""
        return "" if shutil.which("inotifywait") else "there is no inotifywait (inotify-tools)"

    def command(self) -> list[str]:
        """Return the command line."""
        script, job = _HERE / "shell_loop.sh", _HERE / "one_job.py"
        return [str(script), sys.executable, str(job), str(self.wasm), str(self.shared)]
