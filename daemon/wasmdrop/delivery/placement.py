"""Placement of one job's results in its slot, step by step.

Guarantees that at any moment, also after a power cut, the slot holds no marker or a true one. All
files are first written under temporary names and synced. Then the old marker is removed, durably;
the files are renamed and the directory is synced; the marker is renamed last and the directory is
synced again. Existing files are replaced by name and never opened, except for a marker that may be
the delivery's own. Output files are copied into a directory with a temporary name that no other
user can enter until it is complete, which is then renamed. An older output directory is removed if
the daemon made it, and set aside otherwise.
"""

import contextlib
import errno
import functools
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

import msgspec

from wasmdrop.delivery.wire import Stage
from wasmdrop.protocol.slot import MARKER_SUFFIX, OUTPUT_SUFFIX, RESULT_SUFFIXES, DirectoryIdentity
from wasmdrop.system import openat2
from wasmdrop.system.descriptors import CREATE_FLAGS, write_all
from wasmdrop.system.tree_removal import is_daemon_directory, make_daemon_directory, removal
from wasmdrop.system.untrusted_trees import copy_tree


class Warn(Protocol):
    """Puts a warning into the log."""

    def __call__(self, event: str, **fields: str) -> None:
        """Log ``event`` with these fields."""


class TargetDirectory:
    """An open directory, shared by all placements of a batch in it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        try:
            status = os.fstat(fd)
        except OSError:
            os.close(fd)
            raise
        self.inode: Final = (status.st_dev, status.st_ino)
        """Tells directories apart, by whatever path they were opened."""
        self.identity: Final = DirectoryIdentity.of(status)
        self._users = 0

    def enter(self) -> None:
        """Start to use it; must be followed by :meth:`leave`."""
        self._users += 1

    def leave(self) -> None:
        """Stop to use it; the last user closes it."""
        self._users -= 1
        if self._users == 0:
            os.close(self.fd)


class Placement:
    """The delivery of one job. If a step raises ``OSError``, it is the last one."""

    def __init__(self, request: Stage, temporary_name: Callable[[], str], warn: Warn) -> None:
        self.request = request
        self.error: OSError | None = None
        self.directory: TargetDirectory | None = None
        self.is_published = False
        """Whether everything is in place already, so that only the directory is to be synced."""
        self.had_marker = False
        self.unsynced: list[int] = []
        """Descriptors of written files that are not durable yet."""
        self._temporary_name = temporary_name
        self._warn = warn
        self._stem = os.fsdecode(request.stem)
        self._package = request.package
        self._output = request.package.output
        if self._output is not None:
            root = os.fsdecode(request.output_root)
            self._output = msgspec.structs.replace(self._output, root=root)
        self._temporaries: dict[str, str] = {}
        self._staged = ""
        """The temporary name of the output directory, if there is one."""
        self._replaced = ""
        """The temporary name that an older output directory has now."""

    def enter(self, directory: TargetDirectory) -> None:
        """Use this directory, if it is the slot's."""
        directory.enter()
        self.directory = directory
        expected = self.request.found_in
        if expected is not None and not directory.identity.may_be(expected):
            reason = "another user's directory has replaced the slot's"
            raise FileNotFoundError(errno.ENOENT, reason, os.fsdecode(self.request.directory))

    def write(self) -> None:
        """Write all files under temporary names, unless they are published already."""
        if self.request.may_be_published and self._is_marked_as_ours():
            self.is_published = True
            return
        self._copy_output()
        for suffix, data in [*self._package.files.items(), (MARKER_SUFFIX, self._package.marker)]:
            name = self._temporary_name()
            fd = os.open(name, CREATE_FLAGS, 0o666, dir_fd=self._fd)
            self._temporaries[suffix] = name
            self.unsynced.append(fd)
            write_all(fd, data)

    def remove_marker(self) -> None:
        """Remove the old marker."""
        self.had_marker = self._remove(self._stem + MARKER_SUFFIX)

    def publish(self) -> None:
        """Move the result files and the output directory into place."""
        for suffix in RESULT_SUFFIXES:
            name = self._stem + suffix
            if suffix in self._package.files:
                self._rename(self._temporaries[suffix], name)
                del self._temporaries[suffix]
            else:
                self._remove(name)
        name = self._stem + OUTPUT_SUFFIX
        self._move_away(name)
        if self._staged:
            os.rename(self._staged, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            self._staged = ""

    def publish_marker(self) -> None:
        """Move the marker into place."""
        self._rename(self._temporaries[MARKER_SUFFIX], self._stem + MARKER_SUFFIX)
        del self._temporaries[MARKER_SUFFIX]

    def close_files(self) -> None:
        """Close the written files."""
        for fd in self.unsynced:
            os.close(fd)
        self.unsynced.clear()

    def remove_leftovers(self) -> Iterator[None]:
        """Remove the older output and the source of this one, a part at each step.

        Leftovers that can't be removed are removed at the daemon's next start.
        """
        if self._replaced:
            yield from self._removal(lambda: os.dup(self._fd), self._replaced)
        if self._output is not None and self.error is None:
            parent, name = os.path.split(self._output.root)
            open_parent = functools.partial(openat2.open_directory, parent, "")
            yield from self._removal(open_parent, name, is_private=True)

    def close(self) -> None:
        """Close everything, and remove files that were not published."""
        self.close_files()
        if self.directory is None:
            return
        for name in self._temporaries.values():
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._fd)
        if self._staged:
            for _ in self._removal(lambda: os.dup(self._fd), self._staged):
                pass
        self.directory.leave()
        self.directory = None

    @property
    def _fd(self) -> int:
        assert self.directory is not None  # noqa: S101 - between enter and close
        return self.directory.fd

    def _is_marked_as_ours(self) -> bool:
        """Whether the slot holds this very marker, which is published last."""
        name = self._stem + MARKER_SUFFIX
        try:
            fd, _status = openat2.open_regular_at(self._fd, name)
        except OSError:
            return False
        with os.fdopen(fd, "rb") as file:
            return file.read(len(self._package.marker) + 1) == self._package.marker

    def _copy_output(self) -> None:
        """Copy the output files into a new directory with a temporary name."""
        if self._output is None:
            return
        name = self._temporary_name()
        target = make_daemon_directory(self._fd, name)
        self._staged = name
        mode = 0o775 & ~_umask()  # not world-writable, see is_daemon_directory
        try:
            copy_tree(self._output, target, mode, self.unsynced)
            os.fchmod(target, stat.S_ISVTX | mode)
        finally:
            self.unsynced.append(target)

    def _removal(
        self, open_parent: Callable[[], int], name: str, *, is_private: bool = False
    ) -> Iterator[None]:
        """Remove ``name`` from a directory, a part at each step.

        A directory that the daemon did not make is kept, unless the place ``is_private``.
        """
        try:
            parent = open_parent()
            try:
                yield from _removal_in(parent, name, is_private)
            finally:
                os.close(parent)
        except OSError as error:
            self._warn("leftover-removal-failed", name=name, error=str(error))

    def _move_away(self, name: str) -> None:
        """Rename ``name`` to a temporary name, to be removed later."""
        try:
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode) and not is_daemon_directory(status):
            self._set_aside(name, OUTPUT_SUFFIX)  # with the suffix, it is not scanned for drops
            return
        away = self._temporary_name()
        os.rename(name, away, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        self._replaced = away

    def _rename(self, temporary: str, name: str) -> None:
        try:
            os.replace(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except IsADirectoryError:
            self._set_aside(name)
            os.replace(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def _remove(self, name: str) -> bool:
        """Remove ``name``; return whether it existed."""
        try:
            os.unlink(name, dir_fd=self._fd)
        except FileNotFoundError:
            return False
        except OSError:
            # Linux fails with EISDIR for a directory, other filesystems with EPERM.
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                raise
            self._set_aside(name)
        return True

    def _set_aside(self, name: str, suffix: str = "") -> None:
        """Rename a directory that has a result's name: it is not the daemon's to delete."""
        try:
            os.rmdir(name, dir_fd=self._fd)
        except OSError:
            aside = f"{name}.aside-{os.urandom(4).hex()}{suffix}"
            os.rename(name, aside, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            self._warn("directory-set-aside", name=name, now=aside)


def _removal_in(parent: int, name: str, is_private: bool) -> Iterator[None]:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except OSError:  # EISDIR or EPERM: it may be a directory
        yield from removal(parent, name, only_own=not is_private)


@functools.cache
def _umask() -> int:
    """Return the umask (proc(5)), which the worker never changes.

    umask(2) can't read it without changing it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022
