"""The mount table: tells which filesystem a path is on, without touching that filesystem.

Any access to a mount whose server is gone may block for ever. Reading the kernel's table of mounts
(proc_pid_mountinfo(5)) does not.
"""

import os
import re
import select
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

#: Filesystems that report no inotify events for changes on other machines.
_EVENTLESS: Final = (
    "9p",
    "afs",
    "ceph",
    "cifs",
    "fuse",
    "gpfs",
    "lustre",
    "nfs",
    "smb",
    "virtiofs",
)

#: A byte that the kernel wrote as three octal digits.
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")

#: Size of the cache from paths to mounts.
_MAX_CACHED: Final = 4096


class Mount(msgspec.Struct, frozen=True):
    """A mount."""

    point: str
    """The directory at which it is mounted."""
    kind: str
    """Type of the filesystem: ``ext4``, ``nfs4``, ``fuse.bindfs``, …"""
    device: str = ""
    """Number of the filesystem, for comparison."""
    root: str = "/"
    """The directory of the filesystem that is mounted: not ``/`` for a bind mount of another."""


class MountTable:
    """The mounts of this process. Not thread-safe."""

    def __init__(self) -> None:
        self._file = Path("/proc/self/mountinfo").open("rb", buffering=0)  # noqa: SIM115 - see close
        self._changes = select.poll()
        # The kernel reports a change of the table as an error of this file.
        self._changes.register(self._file, select.POLLERR | select.POLLPRI)
        self._mounts = self._read()
        self._points = frozenset(mount.point for mount in self._mounts)
        self._found: dict[str, Mount] = {}

    def close(self) -> None:
        """Close the table."""
        self._file.close()

    def points(self) -> frozenset[str]:
        """Return all mount points."""
        self._refresh()
        return self._points

    def of(self, path: str) -> Mount:
        """Return the mount of an absolute path. The path is not resolved, links included."""
        self._refresh()
        found = self._found.get(path)
        if found is None:
            found = self._find(path)
            if len(self._found) >= _MAX_CACHED:
                self._found.clear()
            self._found[path] = found
        return found

    def read_again(self) -> None:
        """Read the table anew: the kernel reports no change if a directory is renamed."""
        self._mounts = self._read()
        self._points = frozenset(mount.point for mount in self._mounts)
        self._found.clear()

    def _refresh(self) -> None:
        if self._changes.poll(0):
            self.read_again()

    def _find(self, path: str) -> Mount:
        best = Mount("/", "")
        for mount in self._mounts:
            inside = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
            if inside and len(mount.point) >= len(best.point):  # later mounts cover earlier ones
                best = mount
        return best

    def _read(self) -> list[Mount]:
        self._file.seek(0)
        mounts = []
        for line in self._file.read().splitlines():
            before, _, after = line.partition(b" - ")
            device, *names = before.split()[2:5]
            root, point = (
                os.fsdecode(_OCTAL.sub(lambda found: bytes([int(found[1], 8)]), name))
                for name in names
            )
            mounts.append(Mount(point, after.split()[0].decode(), device.decode(), root))
        return mounts


def places_of(paths: Iterable[str]) -> list[tuple[str, str]]:
    """Return where each path is: its filesystem, and the path from the root of that.

    The same file or directory has the same place through every bind mount. The paths must be
    absolute and have no links.
    """
    table = MountTable()
    try:
        mounts = [(path, table.of(path)) for path in paths]
    finally:
        table.close()
    return [
        (mount.device, mount.root.rstrip("/") + path.removeprefix(mount.point.rstrip("/")))
        for path, mount in mounts
    ]


def reason_to_poll(directory: str) -> str | None:
    """Return why changes below ``directory`` may cause no events; None if they cause some."""
    table = MountTable()
    try:
        kind = table.of(os.path.realpath(directory)).kind
    finally:
        table.close()
    if kind.startswith(_EVENTLESS):
        return f"{kind} reports no events for changes made elsewhere"
    return None
