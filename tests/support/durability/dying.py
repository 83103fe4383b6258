"""Runs the daemon and kills it with SIGKILL at one point of its source.

Usage: ``python dying.py PLAN …``, where PLAN is a JSON object with the fields of :class:`KillPlan`.
The rest is the command that would have run the daemon, and is ignored. The functions that change
files are wrapped. A call belongs to a point if the innermost line of the package that leads to it
does. The package has no code for this. A point with several calls, such as the removal of a tree,
has a moment before and after each.

Delivery workers are run by this module too: ``python dying.py PLAN deliver ARGS``. A worker at the
point kills the daemon and itself, as a kill of the whole service does, or only itself.
"""

import dataclasses
import errno
import json
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

import wasmdrop
from wasmdrop.cli.main import main
from wasmdrop.delivery import worker, worker_process
from wasmdrop.system import descriptors

#: Runs a delivery worker instead of the daemon.
_DELIVER: Final = "deliver"

_PACKAGE: Final = f"{Path(wasmdrop.__file__).parent}/"
#: Functions of ``os`` that change what is on disk; ``write`` is wrapped in another way.
WRAPPED: Final = (
    "fdatasync",
    "fsync",
    "ftruncate",
    "link",
    "mkdir",
    "pwrite",
    "rename",
    "replace",
    "rmdir",
    "unlink",
)

#: shutil looks for these functions when it is imported, so it must be imported before.
assert shutil.rmtree.avoids_symlink_attacks


@dataclass(frozen=True)
class KillPlan:
    """The moment of death."""

    file: str
    """Path below the package."""
    first_line: int
    last_line: int
    moment: str
    """``before``, ``after`` or ``halfway`` through the call."""
    turn: int = 1
    """The number of the call at that point."""
    failing: tuple[str, int, int] | None = None
    """A point whose first call fails, to reach the clean-up code after it."""
    note: str | None = None
    """A file to create when only a delivery worker dies. If it exists, no worker dies."""
    armed_by: str | None = None
    """A directory; calls count from the first one at which it has a file."""


class _Reaper:
    def __init__(self, plan: KillPlan, daemon: int) -> None:
        self._plan = plan
        self._daemon = daemon
        self._turn = 0
        self._has_failed = False
        self._pid = os.getpid()
        self._is_over = plan.note is not None and Path(plan.note).exists()
        self._is_armed = plan.armed_by is None

    def wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._call(sys._getframe(1), real, args, kwargs)

        return call

    def _call(
        self,
        frame: FrameType,
        real: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        plan = self._plan
        if self._is_over:
            return real(*args, **kwargs)
        file, line = _place_of(frame)
        if plan.failing is not None and not self._has_failed:
            its_file, first_line, last_line = plan.failing
            if file == its_file and first_line <= line <= last_line:
                self._has_failed = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if file != plan.file or not plan.first_line <= line <= plan.last_line:
            return real(*args, **kwargs)
        if not self._is_armed:
            self._is_armed = any(Path(plan.armed_by or "").glob("*"))
        self._turn += self._is_armed
        if not self._is_armed or self._turn != plan.turn or os.getpid() != self._pid:
            return real(*args, **kwargs)
        if plan.moment == "halfway":
            fd, data = args
            real(fd, data[: len(data) // 2])
        elif plan.moment == "after":
            try:
                real(*args, **kwargs)
            finally:
                self._die()
        return self._die()

    def _die(self) -> None:
        if self._plan.note is not None:
            Path(self._plan.note).touch(exist_ok=False)
        elif self._daemon != self._pid:
            os.kill(self._daemon, signal.SIGKILL)
        os.kill(self._pid, signal.SIGKILL)


def _place_of(frame: FrameType | None) -> tuple[str, int]:
    """Return the innermost line of the package that led to ``frame``, but for ``descriptors``."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_PACKAGE) and file != descriptors.__file__:
            return file.removeprefix(_PACKAGE), frame.f_lineno
        frame = frame.f_back
    return "", 0


class _Connection(sqlite3.Connection):
    """A connection with wrapped commits."""

    reaper: _Reaper

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql == "COMMIT":
            real = super().execute
            return self.reaper._call(sys._getframe(1), real, (sql, *args), {})  # type: ignore[no-any-return]
        return super().execute(sql, *args)

    def executescript(self, sql: str) -> sqlite3.Cursor:
        real = super().executescript
        return self.reaper._call(sys._getframe(1), real, (sql,), {})  # type: ignore[no-any-return]


def _wrap(plan: KillPlan, daemon: int) -> _Reaper:
    reaper = _Reaper(plan, daemon)
    for name in (*WRAPPED, "write"):
        setattr(os, name, reaper.wrap(getattr(os, name)))
    return reaper


def _serve(plan: KillPlan) -> None:
    def command(*given: object) -> list[str]:
        plan_json = json.dumps(dataclasses.asdict(plan))
        words = [os.fsdecode(one) if isinstance(one, bytes) else one for one in given]
        arguments = json.dumps(words)
        return [sys.executable, __file__, plan_json, _DELIVER, arguments]

    worker_process.command = command  # the workers that it starts die too
    if plan.note is None:
        _wrap_connections(_wrap(plan, os.getpid()))
    sys.argv = ["wasmdrop", "serve"]
    sys.exit(main())


def _deliver(
    plan: KillPlan, link: int, daemon: int, shared: str, prefix: str, lock: int, mount_point: str
) -> None:
    _wrap(plan, daemon)
    worker.main(link, daemon, os.fsencode(shared), prefix, lock, os.fsencode(mount_point))


def _wrap_connections(reaper: _Reaper) -> None:
    _Connection.reaper = reaper
    real_connect = sqlite3.connect

    def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        return real_connect(*args, factory=_Connection, **kwargs)

    sqlite3.connect = connect  # type: ignore[assignment]


if __name__ == "__main__":
    the_plan = KillPlan(**json.loads(sys.argv[1]))
    if sys.argv[2] == _DELIVER:
        _deliver(the_plan, *json.loads(sys.argv[3]))
    else:
        _serve(the_plan)
