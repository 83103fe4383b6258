"""The directory of a job: private to it while it runs, and never the slot.

Directories lie in ``jobs/`` of the state directory, which nobody but the daemon's user can enter:
a child reaches its own by descriptor alone. Promises that what a guest leaves, however much and
however odd, is gone again after its job, or at the latest at the next start, unless it has yet to
be delivered then; and that a guest that goes past its limit is noticed: within
:data:`GLANCE_SECONDS` and the time of one look while it runs, and for certain before anything is
published.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

import structlog

from wasmdrop.protocol.errors import SandboxError, StorageError
from wasmdrop.protocol.outcome import OutputTree
from wasmdrop.system.private_files import make_private_directory, require_private_directory
from wasmdrop.system.tree_removal import remove_tree
from wasmdrop.system.untrusted_trees import (
    TreeLimitError,
    inventory,
    is_empty,
    measure,
)

__all__ = ["GLANCE_SECONDS", "JobDirectory", "JobDirectoryFactory", "open_grants"]

_log = structlog.get_logger()

#: How often the directory of a running job is looked at. A look at ten thousand files takes some
#: 30 ms of a core; see :data:`_REST`.
GLANCE_SECONDS: Final = 0.05

#: Times as long as a look took that pass until the next one: looking takes no more than a fifth of
#: a core, whatever the guest does.
_REST: Final = 4


@contextlib.contextmanager
def open_grants(grants: Mapping[str, str]) -> Iterator[list[int]]:
    """Give descriptors of directories of the operator's, each a place and no more, for one job.

    Raises ``SandboxError`` where one can't be opened.
    """
    with contextlib.ExitStack() as stack:
        opened = []
        for name, path in grants.items():
            try:
                fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                message = f"the grant {name} can't be given: {path}: {error.strerror}"
                raise SandboxError(message) from error
            stack.callback(os.close, fd)
            opened.append(fd)
        yield opened


class JobDirectory:
    """One directory, empty when made."""

    def __init__(self, parent: int, path: Path, max_bytes: int) -> None:
        self.surplus = ""
        """What was found to be too much, in words."""
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._parent = parent
        self._path = path
        self._max_bytes = max_bytes

    def is_empty(self) -> bool:
        """Whether there is nothing in it."""
        return is_empty(str(self._path))

    async def guard(self, kill: Callable[[], None]) -> None:
        """Look at it again and again; when it holds too much, say so and ``kill`` the guest."""
        rest_seconds = GLANCE_SECONDS
        while True:
            await asyncio.sleep(rest_seconds)
            started = time.perf_counter()
            try:
                await asyncio.to_thread(measure, str(self._path), self._max_bytes)
            except TreeLimitError as error:
                self.surplus = str(error)
                kill()
                return
            except OSError as error:
                # The look before publishing is the one that counts.
                _log.warning("directory-measurement-failed", path=str(self._path), error=str(error))
            rest_seconds = max(GLANCE_SECONDS, _REST * (time.perf_counter() - started))

    async def inventory(self) -> OutputTree | None:
        """Return what was left in it, None where that is nothing.

        Raises ``TreeLimitError`` for too much, ``OSError`` where it can't be read.
        """
        if self.is_empty():
            return None
        return await asyncio.to_thread(inventory, str(self._path), self._max_bytes)

    async def leave(self, *, keep: bool) -> None:
        """Let go of it; unless someone else is to ``keep`` it, remove it with all that is in it."""
        os.close(self.fd)
        if keep:
            return
        try:
            self._path.rmdir()
        except OSError:
            try:
                await asyncio.to_thread(remove_tree, self._parent, self._path.name)
            except OSError as error:
                _log.warning("leftover-removal-failed", path=str(self._path), error=str(error))


class JobDirectoryFactory:
    """The directories of one daemon's jobs, below ``state_dir``.

    ``for_another_user``: whether jobs run as another user than the daemon. Raises ``StorageError``
    where there can be none.
    """

    def __init__(self, state_dir: Path, *, for_another_user: bool) -> None:
        require_private_directory(state_dir)
        self._root = state_dir / "jobs"
        make_private_directory(self._root)
        self._for_another_user = for_another_user
        try:
            self._fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError(f"{self._root}: can't be opened: {error.strerror}") from error
        self._leftovers = [path.name for path in self._root.iterdir()]

    def sweep(self, kept: Collection[str] = ()) -> None:
        """Remove what earlier daemons left, but for the directories whose paths are ``kept``."""
        leftovers, self._leftovers = self._leftovers, []
        for name in leftovers:
            path = str(self._root / name)
            if path in kept:
                continue
            try:
                remove_tree(self._fd, name)
            except OSError as error:
                _log.warning("leftover-removal-failed", path=path, error=str(error))

    def make(self, max_bytes: int) -> JobDirectory:
        """Return a new directory for at most ``max_bytes``; ``OSError`` where that fails."""
        path = self._root / os.urandom(8).hex()
        path.mkdir(mode=0o700)
        # Others can't come near it, so this lets in nobody but who is given a descriptor.
        if self._for_another_user:
            path.chmod(0o777)
        return JobDirectory(self._fd, path, max_bytes)
