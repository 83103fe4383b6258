"""Runs the daemon and kills it at one point of its source, with SIGKILL.

``python dying.py ORDER …``, where the order is a JSON object of :class:`Order`'s fields; what
follows is what would have run the daemon, and is ignored. The functions that change what is on disk
are wrapped; a call counts as the point's when the innermost line of the package that leads to it
is. Nothing in the package knows of this, and a write that a point's line does with several calls
(a tree that is removed) has a moment before and after each.

The daemon's processes that deliver are run by this, too: ``python dying.py ORDER deliver ARGS``.
One that reaches the point takes the daemon with it, as a kill of the whole service would, or dies
alone.
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

__all__ = ["Order"]

#: Says that what runs is not the daemon but a process of its that delivers.
_DELIVER: Final = "deliver"

_PACKAGE: Final = f"{Path(wasmdrop.__file__).parent}/"
_WRAPPED: Final = (
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

#: The standard library looks for these functions when it is loaded, so it must be loaded by now.
assert shutil.rmtree.avoids_symlink_attacks


@dataclass(frozen=True)
class Order:
    """When to die."""

    file: str
    """Below the package, as are the lines of the point's call."""
    first_line: int
    last_line: int
    moment: str
    """``before`` or ``after`` the call, or ``halfway`` through what it writes."""
    turn: int = 1
    """At which call at that point."""
    failing: tuple[str, int, int] | None = None
    """A point whose first call fails, so that the cleaning up after it is reached."""
    note: str | None = None
    """A file to be made when a process that delivers dies, and it alone. The next one does not."""


class _Reaper:
    def __init__(self, order: Order, daemon: int) -> None:
        self._order = order
        self._daemon = daemon
        self._turn = 0
        self._has_failed = False
        self._pid = os.getpid()
        self._is_over = order.note is not None and Path(order.note).exists()

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
        order = self._order
        if self._is_over:
            return real(*args, **kwargs)
        file, line = _place_of(frame)
        if order.failing is not None and not self._has_failed:
            its_file, first_line, last_line = order.failing
            if file == its_file and first_line <= line <= last_line:
                self._has_failed = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if file != order.file or not order.first_line <= line <= order.last_line:
            return real(*args, **kwargs)
        self._turn += 1
        if self._turn != order.turn or os.getpid() != self._pid:
            return real(*args, **kwargs)
        if order.moment == "halfway":
            fd, data = args
            real(fd, data[: len(data) // 2])
        elif order.moment == "after":
            try:
                real(*args, **kwargs)
            finally:
                self._die()
        return self._die()

    def _die(self) -> None:
        if self._order.note is not None:
            Path(self._order.note).touch(exist_ok=False)
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
    """One whose commits are wrapped."""

    reaper: _Reaper

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql == "COMMIT":
            real = super().execute
            return self.reaper._call(sys._getframe(1), real, (sql, *args), {})  # type: ignore[no-any-return]
        return super().execute(sql, *args)

    def executescript(self, sql: str) -> sqlite3.Cursor:
        real = super().executescript
        return self.reaper._call(sys._getframe(1), real, (sql,), {})  # type: ignore[no-any-return]


def _wrap(order: Order, daemon: int) -> _Reaper:
    reaper = _Reaper(order, daemon)
    for name in (*_WRAPPED, "write"):
        setattr(os, name, reaper.wrap(getattr(os, name)))
    return reaper


def _serve(order: Order) -> None:
    def command(
        link_fd: int, daemon_pid: int, shared_dir: bytes, temporary_prefix: str, output_lock_fd: int
    ) -> list[str]:
        its_order = json.dumps(dataclasses.asdict(order))
        shared = os.fsdecode(shared_dir)
        arguments = json.dumps((link_fd, daemon_pid, shared, temporary_prefix, output_lock_fd))
        return [sys.executable, __file__, its_order, _DELIVER, arguments]

    worker_process.command = command  # the workers that it starts die too
    if order.note is None:
        _wrap_connections(_wrap(order, os.getpid()))
    sys.argv = ["wasmdrop", "serve"]
    sys.exit(main())


def _deliver(order: Order, link: int, daemon: int, shared: str, prefix: str, lock: int) -> None:
    _wrap(order, daemon)
    worker.main(link, daemon, os.fsencode(shared), prefix, lock)


def _wrap_connections(reaper: _Reaper) -> None:
    _Connection.reaper = reaper
    real_connect = sqlite3.connect

    def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        return real_connect(*args, factory=_Connection, **kwargs)

    sqlite3.connect = connect  # type: ignore[assignment]


if __name__ == "__main__":
    the_order = Order(**json.loads(sys.argv[1]))
    if sys.argv[2] == _DELIVER:
        _deliver(the_order, *json.loads(sys.argv[3]))
    else:
        _serve(the_order)
