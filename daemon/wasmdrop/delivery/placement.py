"""Placing: one delivery, step by step.

Promises that at any moment, also after a power cut, the slot holds either no marker or a true one:
each new file is written under a temporary name and synced, the old marker goes, durably, the files
are renamed, the directory is synced, the marker comes last in the same way. Whatever lies at these
names is replaced by name and never opened, but for a marker that may be the delivery's own. The
output files of a program are copied into a directory beside, of a temporary name too, which nobody
else can enter until it is complete, and which is then renamed into place at once. An older output
directory is removed if the daemon made it, and else set aside.
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
from wasmdrop.protocol.slot import FoundIn
from wasmdrop.protocol.suffixes import MARKER_SUFFIX, OUTPUT_SUFFIX, RESULT_SUFFIXES
from wasmdrop.system import openat2
from wasmdrop.system.untrusted_trees import copy_tree, is_marked, make_marked, removal

__all__ = ["Directory", "Placing", "Warn"]


class Warn(Protocol):
    """Whoever puts a warning into the log."""

    def __call__(self, event: str, **fields: str) -> None:
        """Take the name of what happened, and what is to be known of it."""


class Directory:
    """The open directory of slots, for all that is placed in it at a time."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        try:
            status = os.fstat(fd)
        except OSError:
            os.close(fd)
            raise
        self.identity: Final = (status.st_dev, status.st_ino)
        """Tells directories apart, however they were reached."""
        self.found: Final = FoundIn.of(status)
        self._users = 0

    def enter(self) -> None:
        """Use it; :meth:`leave` is owed."""
        self._users += 1

    def leave(self) -> None:
        """Use it no more; the last one closes it."""
        self._users -= 1
        if self._users == 0:
            os.close(self.fd)


class Placing:
    """What is placed in one slot. Every step may raise ``OSError``, and then is the last."""

    def __init__(self, order: Stage, temporary_name: Callable[[], str], warn: Warn) -> None:
        self.order = order
        self.error: OSError | None = None
        self.directory: Directory | None = None
        self.is_there = False
        """Whether all was in place before: there is nothing to do but to sync the directory."""
        self.was_marked = False
        self.unsynced: list[int] = []
        """Descriptors of the files that were written and are not durable yet."""
        self._temporary_name = temporary_name
        self._warn = warn
        self._stem = os.fsdecode(order.stem)
        self._output = order.output
        if self._output is not None:
            root = os.fsdecode(order.output_root)
            self._output = msgspec.structs.replace(self._output, root=root)
        self._temporaries: dict[str, str] = {}
        self._staged = ""
        """The temporary name of the output's directory, where there is one."""
        self._replaced = ""
        """The temporary name that an older output's directory has now."""

    def enter(self, directory: Directory) -> None:
        """Take the directory of the slot."""
        directory.enter()
        self.directory = directory
        expected = self.order.found_in
        if expected is not None and not directory.found.may_be(expected):
            reason = "another user's directory is in the place of the slot's"
            raise FileNotFoundError(errno.ENOENT, reason, os.fsdecode(self.order.directory))

    def write(self) -> None:
        """Write all files under temporary names, unless they are in their places."""
        if self.order.may_be_there and self._is_marked_as_ours():
            self.is_there = True
            return
        self._copy_output()
        for suffix, data in [*self.order.files.items(), (MARKER_SUFFIX, self.order.marker)]:
            name = self._temporary_name()
            fd = os.open(
                name,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o666,
                dir_fd=self._fd,
            )
            self._temporaries[suffix] = name
            self.unsynced.append(fd)
            _write(fd, data)

    def unmark(self) -> None:
        """Remove the old marker."""
        self.was_marked = self._remove(self._stem + MARKER_SUFFIX)

    def publish(self) -> None:
        """Put the result files in their places."""
        for suffix in RESULT_SUFFIXES:
            name = self._stem + suffix
            if suffix in self.order.files:
                self._rename(self._temporaries[suffix], name)
                del self._temporaries[suffix]
            else:
                self._remove(name)
        name = self._stem + OUTPUT_SUFFIX
        self._put_away(name)
        if self._staged:
            os.rename(self._staged, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            self._staged = ""

    def mark(self) -> None:
        """Put the marker in its place."""
        self._rename(self._temporaries[MARKER_SUFFIX], self._stem + MARKER_SUFFIX)
        del self._temporaries[MARKER_SUFFIX]

    def close_files(self) -> None:
        """Let go of the files that were written."""
        for fd in self.unsynced:
            os.close(fd)
        self.unsynced.clear()

    def clear(self) -> Iterator[None]:
        """Remove the older output, and what this one was copied from, a piece at each step.

        Nobody waits for that. What stays is removed at the next start.
        """
        if self._replaced:
            yield from self._removal(lambda: os.dup(self._fd), self._replaced)
        if self._output is not None and self.error is None:
            parent, name = os.path.split(self._output.root)
            open_parent = functools.partial(openat2.open_directory, parent, "")
            yield from self._removal(open_parent, name, is_private=True)

    def leave(self) -> None:
        """Let go of everything that was opened or left."""
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
        assert self.directory is not None  # noqa: S101 - entered before, and not left yet
        return self.directory.fd

    def _is_marked_as_ours(self) -> bool:
        """Whether the slot holds this very marker, which came after everything else."""
        name = self._stem + MARKER_SUFFIX
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            # To open what is no file may do something.
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                return False
            with os.fdopen(os.open(name, flags, dir_fd=self._fd), "rb") as file:
                return file.read(len(self.order.marker) + 1) == self.order.marker
        except OSError:
            return False

    def _copy_output(self) -> None:
        """Copy the output files into a new directory beside the results."""
        if self._output is None:
            return
        name = self._temporary_name()
        target = make_marked(self._fd, name)
        self._staged = name
        mode = 0o775 & ~_umask()  # never for all to write to, see is_marked
        try:
            copy_tree(self._output, target, mode)
            os.fchmod(target, stat.S_ISVTX | mode)
        finally:
            os.close(target)

    def _removal(
        self, open_parent: Callable[[], int], name: str, *, is_private: bool = False
    ) -> Iterator[None]:
        """Remove ``name`` in a directory, a piece at each step.

        Nobody else can reach it where it ``is_private``; elsewhere a directory that the daemon did
        not make stays.
        """
        try:
            parent = open_parent()
            try:
                yield from _removal_in(parent, name, is_private)
            finally:
                os.close(parent)
        except OSError as error:
            self._warn("leftover-removal-failed", name=name, error=str(error))

    def _put_away(self, name: str) -> None:
        """Give whatever has ``name`` a temporary one, to be removed when there is time."""
        try:
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode) and not is_marked(status):
            self._set_aside(name, OUTPUT_SUFFIX)  # which is ignored: what is in it are no drops
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
        """Remove ``name``; False where nothing was there."""
        try:
            os.unlink(name, dir_fd=self._fd)
        except FileNotFoundError:
            return False
        except OSError:
            # Linux says EISDIR, other filesystems EPERM: look before believing it.
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                raise
            self._set_aside(name)
        return True

    def _set_aside(self, name: str, suffix: str = "") -> None:
        """Free a name that a directory has taken: it is not ours to delete."""
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
    except OSError:  # EISDIR, or EPERM elsewhere: it may be a directory
        yield from removal(parent, name, marked=not is_private)


def _umask() -> int:
    """Return what a new file's mode goes without (proc(5)): asking the kernel would change it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
