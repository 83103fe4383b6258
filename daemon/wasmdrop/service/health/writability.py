"""Check by writing whether directories are writable; a mount that hangs is not."""

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

#: Timeout of a write, in seconds: less than the usual timeout of a probe.
_ANSWER_SECONDS: Final = 2.0

#: How long a finding is reused, in seconds, so that many requests do not cause many writes.
_FRESH_SECONDS: Final = 0.5

#: Errors of filesystems without unnamed files (open(2)).
_NO_UNNAMED_FILES: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})


class WritabilityProbe:
    """Checks directories, by their names in messages."""

    def __init__(self, directories: Mapping[str, Path]) -> None:
        self._directories = directories
        self._attempts: dict[str, _WriteAttempt] = {}

    async def problems(self) -> list[str]:
        """Return a message for each directory that can't be written to.

        While a write hangs no second one begins, so that a dead mount costs one thread. Only the
        first caller waits for the timeout.
        """
        for name, directory in self._directories.items():
            last = self._attempts.get(name)
            if last is None or last.is_stale:
                self._attempts[name] = _WriteAttempt(directory)
        attempts = dict(self._attempts)
        await asyncio.gather(*(one.wait() for one in attempts.values()))
        return [
            f"the {name} directory can't be written to: {one.reason}"
            for name, one in attempts.items()
            if one.reason is not None
        ]


class _WriteAttempt:
    """One write, on a daemon thread: it may hang without keeping the process from ending."""

    def __init__(self, directory: Path) -> None:
        self.reason: str | None = f"no answer for {_ANSWER_SECONDS:g} s"
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + _ANSWER_SECONDS
        self._is_done = asyncio.Event()
        threading.Thread(target=self._run, args=(directory,), name="storage", daemon=True).start()

    @property
    def is_stale(self) -> bool:
        """Whether it ended some time ago."""
        begun = self._end - _ANSWER_SECONDS
        return self._is_done.is_set() and self._loop.time() - begun > _FRESH_SECONDS

    async def wait(self) -> None:
        """Wait for its end or its timeout."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._end):
                await self._is_done.wait()

    def _run(self, directory: Path) -> None:
        reason = _why_not_writable(directory)
        with contextlib.suppress(RuntimeError):  # the server's loop was closed
            self._loop.call_soon_threadsafe(self._end_with, reason)

    def _end_with(self, reason: str | None) -> None:
        self.reason = reason
        self._is_done.set()


def _why_not_writable(directory: Path) -> str | None:
    try:
        # Without a name, so that no watcher sees it and nothing is left; with a byte, because a
        # full disk still creates empty files.
        fd = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, b"x")
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in _NO_UNNAMED_FILES:
            return error.strerror
        if not os.access(directory, os.W_OK | os.X_OK):
            return "no permission, or mounted read-only"
    return None
