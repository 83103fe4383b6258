"""Notices that files of which versions were taken were removed or renamed away.

A file is gone if nothing is at its path for the settle time, because editors replace a file by two
renames, and if its volume is there: a file that disappeared together with its volume would run
again when the volume is back. Files that can't be looked at are not gone.

Thread-safe. Events tell of single files and directories. :meth:`GoneFiles.find` and
:meth:`GoneFiles.forget` look at all files, for removals without an event.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Container, Iterable
from typing import Final, NamedTuple

from wasmdrop.intake.drops import Drop, GoneFile
from wasmdrop.intake.layout import Layout, RootedPath
from wasmdrop.intake.taken_versions import JournalUnreadableError, TakenVersions
from wasmdrop.system import openat2
from wasmdrop.system.mount_table import MountTable
from wasmdrop.system.openat2 import Links

#: Most removed paths that wait for their second look; each takes about 200 bytes.
_MAX_NOTED: Final = 10_000

#: Most files that one check of all files returns.
MAX_FOUND: Final = 10_000


class _Noted(NamedTuple):
    """A path that was removed."""

    at: float
    """When, by the monotonic clock in seconds."""
    is_directory: bool


class GoneFiles:
    """Forgets the versions of files that are gone, and calls ``emit`` with each of them.

    Files in ``considered`` are left alone: intake is looking at them. That and the version in
    ``taken`` are checked, and ``emit`` is called, with ``lock`` held, so that a later drop of the
    path is emitted later. ``recheck(path, seconds)`` has :meth:`look` called later.
    """

    def __init__(
        self,
        layout: Layout,
        taken: TakenVersions,
        considered: Container[str],
        lock: threading.Lock,
        emit: Callable[[Drop], None],
        recheck: Callable[[str, float], None],
        settle_seconds: float,
    ) -> None:
        self._layout = layout
        self._taken = taken
        self._considered = considered
        self._lock = lock
        self._emit = emit
        self._recheck = recheck
        self._settle_seconds = settle_seconds
        self._noted: dict[str, _Noted] = {}
        self._probed_mounts: set[str] = set()
        """Mounts that :meth:`find` looks at now, because the look may hang."""
        self._mount_points: frozenset[str] = frozenset()
        """All mounts that were there at an earlier :meth:`find`."""

    def note(self, path: str, *, is_directory: bool) -> bool:
        """Note that a file or a directory was removed or renamed away; look again later.

        Return False if too many wait, so that only a check of all files finds this one.
        """
        with self._lock:
            if len(self._noted) >= _MAX_NOTED and path not in self._noted:
                return False
            self._noted[path] = _Noted(time.monotonic(), is_directory)
        self._recheck(path, self._settle_seconds)
        return True

    def look(self, path: str) -> None:
        """Look whether a path that was noted is still gone."""
        noted = self._noted.get(path)
        if noted is None:
            return
        left_seconds = noted.at + self._settle_seconds - time.monotonic()
        if left_seconds > 0:
            self._recheck(path, left_seconds)
            return
        with self._lock:
            self._noted.pop(path, None)
        with contextlib.suppress(JournalUnreadableError):
            version = self._taken.get(path)
            if version is not None and not self._forget_if_gone(path, version):
                self.note(path, is_directory=False)
            if noted.is_directory:
                for page in self._taken.pages(path):
                    for one, its_version in page:
                        self._forget_if_gone(one, its_version)

    def find(self) -> list[tuple[str, bytes]]:
        """Return files that are gone, with their versions; at most about ``MAX_FOUND``.

        Files on a mount at which an earlier call still hangs are left out.
        """
        found: list[tuple[str, bytes]] = []
        mounts = MountTable()
        try:
            points = mounts.points()
            # A volume may have the device number of the directory that it covers.
            unmounted = tuple(f"{point}/" for point in self._mount_points - points)
            self._mount_points = self._mount_points | points
            for page in self._taken.pages():
                for path, version in page:
                    point = mounts.of(path).point
                    if path.startswith(unmounted) or point in self._probed_mounts:
                        continue
                    if self._probe(path, version, point):
                        found.append((path, version))
                if len(found) >= MAX_FOUND:
                    break
        finally:
            mounts.close()
        return found

    def forget(self, found: Iterable[tuple[str, bytes]]) -> None:
        """Forget the files that are still gone.

        Call it with the result of :meth:`find`, after the settle time.
        """
        for path, version in found:
            self._forget_if_gone(path, version)

    def _probe(self, path: str, version: bytes, mount_point: str) -> bool:
        self._probed_mounts.add(mount_point)
        try:
            return _is_gone(self._layout.rooted(path), version)
        finally:
            self._probed_mounts.discard(mount_point)

    def _forget_if_gone(self, path: str, version: bytes) -> bool:
        """Return False if the file is gone and under consideration: it may be back."""
        if not _is_gone(self._layout.rooted(path), version):
            return True
        slot = self._layout.slot_of(path)
        with self._lock:
            if path in self._considered:
                return False
            if self._taken.get(path) == version:  # else another version was taken since
                self._taken.put(path, None)
                self._emit(GoneFile(path, None if slot is None else slot.key))
        return True


def _is_gone(file: RootedPath, version: bytes) -> bool:
    """Return whether nothing is at a path, although the filesystem of ``version`` is there."""
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            openat2.lstat(file.root, file.relative)
            return False
        return version.startswith(_device_above(file).to_bytes(8, "little"))
    except OSError:
        return False


def _device_above(file: RootedPath) -> int:
    """Return the filesystem of the deepest directory above a file that exists."""
    relative = file.relative
    while relative:
        relative = relative.rpartition("/")[0]
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return openat2.status(file.root, relative, Links.NONE).st_dev
    raise FileNotFoundError  # not even the watched directory exists
