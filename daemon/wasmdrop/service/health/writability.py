"""Whether storage can be written to, found out by writing; a mount that hangs is found out too."""

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["WritabilityProbe"]

#: How long a write may take, in seconds: less than a probe usually waits for its answer.
_ANSWER_SECONDS: Final = 2.0

#: How long what was found holds, in seconds: questions by the thousand are no writes by the
#: thousand.
_FRESH_SECONDS: Final = 0.5

#: Filesystems without unnamed files say so in these ways (open(2)).
_NO_UNNAMED_FILES: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})


class WritabilityProbe:
    """The directories, by what they are called in messages."""

    def __init__(self, directories: Mapping[str, Path]) -> None:
        self._directories = directories
        self._looks: dict[str, _WriteAttempt] = {}

    async def problems(self) -> list[str]:
        """Return what is wrong, a sentence for each directory that can't be written to.

        While a write hangs no second one is begun: a dead mount costs one thread, not one for each
        question. It is waited for once: who asks later is told at once.
        """
        for name, directory in self._directories.items():
            last = self._looks.get(name)
            if last is None or last.is_stale:
                self._looks[name] = _WriteAttempt(directory)
        looks = dict(self._looks)
        await asyncio.gather(*(look.wait() for look in looks.values()))
        return [
            f"the {name} directory can't be written to: {look.reason}"
            for name, look in looks.items()
            if look.reason is not None
        ]


class _WriteAttempt:
    """One write. Its thread is nobody's to wait for: it may hang for ever, the daemon must not."""

    def __init__(self, directory: Path) -> None:
        self.reason: str | None = f"no answer for {_ANSWER_SECONDS:g} s"
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + _ANSWER_SECONDS
        self._is_done = asyncio.Event()
        threading.Thread(target=self._look, args=(directory,), name="storage", daemon=True).start()

    @property
    def is_stale(self) -> bool:
        """Whether it has ended, and a while ago."""
        begun = self._end - _ANSWER_SECONDS
        return self._is_done.is_set() and self._loop.time() - begun > _FRESH_SECONDS

    async def wait(self) -> None:
        """Wait for its end, but not for longer than a write may take."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._end):
                await self._is_done.wait()

    def _look(self, directory: Path) -> None:
        reason = _why_not_writable(directory)
        with contextlib.suppress(RuntimeError):  # the endpoint has closed, nobody asks any more
            self._loop.call_soon_threadsafe(self._tell, reason)

    def _tell(self, reason: str | None) -> None:
        self.reason = reason
        self._is_done.set()


def _why_not_writable(directory: Path) -> str | None:
    try:
        # Without a name, so that no watcher sees it and nothing stays behind; with a byte in it,
        # as a full disk still makes empty files.
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
