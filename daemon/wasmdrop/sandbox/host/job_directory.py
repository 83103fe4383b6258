"""The directory of a job: private to it while it runs, and never its slot.

Directories are in ``jobs/`` of the state directory, which only the daemon's user may enter: a child
reaches its own directory only by descriptor. Guarantees that everything a guest leaves there is
removed after its job, or at the next start of the daemon, unless it still has to be delivered; and
that a guest that exceeds its limit is noticed: while it runs, within :data:`CHECK_SECONDS` and the
time of one check, and in any case before anything is published.
"""

import asyncio
import contextlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
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

_log = structlog.get_logger()

#: Interval between checks of a running job's directory, in seconds. A check of ten thousand files
#: takes about 30 ms of a core; see :data:`_REST_RATIO`.
CHECK_SECONDS: Final = 0.05

#: Pause after a check, as a multiple of its duration: checks take at most a fifth of a core,
#: whatever the guest does.
_REST_RATIO: Final = 4

#: Modules that keep an empty directory for the directories of their jobs.
_MAX_MODULES: Final = 256

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def open_grants(grants: Mapping[str, str]) -> Iterator[list[int]]:
    """Open the operator's directories that a job may read, as ``O_PATH`` descriptors.

    Raises ``SandboxError`` if one cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        opened = []
        for name, path in grants.items():
            try:
                fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                message = f"the granted directory {name} cannot be opened: {path}: {error.strerror}"
                raise SandboxError(message) from error
            stack.callback(os.close, fd)
            opened.append(fd)
        yield opened


class JobDirectory:
    """One directory, empty at first. Raises ``OSError`` if it cannot be opened."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.surplus = ""
        """What exceeded the limit, in words; empty if nothing did."""
        self.parent_fd = os.open(path.parent, _DIRECTORY)
        try:
            self.fd = os.open(path.name, _DIRECTORY, dir_fd=self.parent_fd)
        except OSError:
            os.close(self.parent_fd)
            raise
        self._path = path
        self._max_bytes = max_bytes

    def is_empty(self) -> bool:
        """Whether the directory is empty."""
        return is_empty(str(self._path))

    async def guard(self, kill: Callable[[], None], has_surplus: Callable[[], bool]) -> None:
        """Check the directory at intervals; ``kill`` the guest if it exceeds its limit.

        Also if it ``has_surplus`` of output: the kernel's limit of a file's size, which holds for
        output, too, must allow the files in the directory.
        """
        rest_seconds = CHECK_SECONDS
        while True:
            await asyncio.sleep(rest_seconds)
            if has_surplus():
                kill()
                return
            started = time.perf_counter()
            try:
                await asyncio.to_thread(measure, str(self._path), self._max_bytes)
            except TreeLimitError as error:
                self.surplus = str(error)
                kill()
                return
            except OSError as error:
                # The check before publishing decides.
                _log.warning("directory-measurement-failed", path=str(self._path), error=str(error))
            rest_seconds = max(CHECK_SECONDS, _REST_RATIO * (time.perf_counter() - started))

    async def inventory(self) -> OutputTree | None:
        """Return the files in the directory, or None if there are none.

        Raises ``TreeLimitError`` if they exceed a limit, ``OSError`` if they cannot be read.
        """
        return None if self.is_empty() else await self.contents()

    async def contents(self) -> OutputTree:
        """Return the files in the directory, even if there are none; raise as above."""
        return await asyncio.to_thread(inventory, str(self._path), self._max_bytes)

    async def leave(self, *, keep: bool) -> None:
        """Close the directory and, unless ``keep`` is set, remove it with its content."""
        os.close(self.fd)
        try:
            if not keep:
                await self._remove()
        finally:
            os.close(self.parent_fd)

    async def _remove(self) -> None:
        try:
            self._path.rmdir()
        except OSError:
            try:
                await asyncio.to_thread(remove_tree, self.parent_fd, self._path.name)
            except OSError as error:
                _log.warning("leftover-removal-failed", path=str(self._path), error=str(error))


class JobDirectoryFactory:
    """Creates the directories of jobs below ``state_dir``, in a directory for each module.

    So a zygote can be confined to the directories of its own module's jobs.

    ``for_another_user``: whether jobs run as another user than the daemon. Raises ``StorageError``
    if no directory can be created there.
    """

    def __init__(self, state_dir: Path, *, for_another_user: bool) -> None:
        require_private_directory(state_dir)
        self._root = state_dir / "jobs"
        make_private_directory(self._root)
        self._for_another_user = for_another_user
        self._modules: OrderedDict[Path, None] = OrderedDict()
        """The directories of modules, the least recently used first."""
        # Resumed jobs run before the sweep, which must not find their directories.
        self._token = os.urandom(4).hex()
        try:
            self._leftovers = [path.name for path in self._root.iterdir()]
        except OSError as error:
            raise StorageError(f"{self._root}: cannot be read: {error.strerror}") from error

    def sweep(self, kept: Collection[str] = ()) -> None:
        """Remove the directories of earlier daemons, except the paths in ``kept``."""
        leftovers, self._leftovers = self._leftovers, []
        _remove_all(self._root, leftovers, frozenset(map(Path, kept)))

    def make(self, max_bytes: int, module: str) -> JobDirectory:
        """Return a new directory for a job of a module, with a limit of ``max_bytes``.

        Raise ``OSError`` if that fails.
        """
        parent = self._root / f"{module}-{self._token}"
        if parent not in self._modules:
            parent.mkdir(mode=0o700, exist_ok=True)
        self._modules[parent] = None
        self._modules.move_to_end(parent)
        if len(self._modules) > _MAX_MODULES:
            self._evict()
        path = parent / os.urandom(8).hex()
        path.mkdir(mode=0o700)
        # Only the daemon can enter its parent, so this admits only the child with the descriptor.
        if self._for_another_user:
            path.chmod(0o777)
        return JobDirectory(path, max_bytes)

    def _evict(self) -> None:
        oldest, _none = self._modules.popitem(last=False)
        with contextlib.suppress(OSError):  # jobs use it still; the next start removes it
            oldest.rmdir()


def _remove_all(parent: Path, names: Iterable[str], kept: frozenset[Path]) -> None:
    parent_fd = os.open(parent, _DIRECTORY)
    try:
        for name in names:
            path = parent / name
            if path in kept:
                continue
            try:
                if any(path in one.parents for one in kept):
                    _remove_all(path, [one.name for one in path.iterdir()], kept)
                else:
                    remove_tree(parent_fd, name)
            except OSError as error:
                _log.warning("leftover-removal-failed", path=str(path), error=str(error))
    finally:
        os.close(parent_fd)
