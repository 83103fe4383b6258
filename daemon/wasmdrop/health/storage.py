"""Whether storage can be written to, found out by writing; a mount that hangs is found out too."""

import asyncio
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["Storage"]

#: How long a write may take, in seconds: less than a probe usually waits for its answer.
_ANSWER_SECONDS: Final = 2.0

#: Filesystems without unnamed files say so in these ways (open(2)).
_NO_UNNAMED_FILES: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})


class Storage:
    """The directories, by what they are called in messages."""

    def __init__(self, directories: Mapping[str, Path]) -> None:
        self._directories = directories
        self._looking: dict[str, asyncio.Task[str | None]] = {}

    async def problems(self) -> list[str]:
        """Return what is wrong, a sentence for each directory that can't be written to.

        While a write hangs no second one is begun: a dead mount costs one thread, not one for each
        question.
        """
        for name, directory in self._directories.items():
            last = self._looking.get(name)
            if last is None or last.done():
                look = asyncio.to_thread(_why_not_writable, directory)
                self._looking[name] = asyncio.create_task(look)
        tasks = dict(self._looking)
        await asyncio.wait(tasks.values(), timeout=_ANSWER_SECONDS)
        found = []
        for name, task in tasks.items():
            reason = task.result() if task.done() else f"no answer for {_ANSWER_SECONDS:g} s"
            if reason is not None:
                found.append(f"the {name} directory can't be written to: {reason}")
        return found


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
