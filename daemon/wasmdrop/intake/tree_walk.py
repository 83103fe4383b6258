"""Walks through a directory tree that others may change, some entries at a time.

Each directory is opened from the descriptor of the one above it, so the walk stays in its tree and
follows no link. It holds one descriptor and a few hundred names per level.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from wasmdrop.intake.layout import RootedPath, is_ignored
from wasmdrop.system import openat2
from wasmdrop.system.openat2 import OtherMountError

_log = structlog.get_logger()

#: Entries of one batch: a few milliseconds of work.
_BATCH_ENTRIES: Final = 256

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY


@dataclass(frozen=True)
class EntryBatch:
    """Some entries of one directory."""

    path: str
    fd: int
    """The open directory, valid until the walk continues."""
    _entries: "list[os.DirEntry[str]]"

    def statuses(self, is_wanted: Callable[[str], bool]) -> list[tuple[str, os.stat_result]]:
        """Return the wanted names with the status of each (lstat(2)).

        Names whose status can't be read are left out, with one warning.
        """
        found = []
        failure: OSError | None = None
        for entry in self._entries:
            if is_wanted(entry.name):
                try:
                    found.append((entry.name, entry.stat(follow_symlinks=False)))
                except FileNotFoundError:
                    pass  # removed meanwhile
                except OSError as error:
                    # A directory may be readable and not searchable.
                    failure = failure or error
        if failure is not None:
            _warn(self.path, failure)
        return found


@dataclass
class _Level:
    path: str
    fd: int
    entries: "Iterator[os.DirEntry[str]]" = field(init=False)
    directories: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.entries = os.scandir(self.fd)

    def close(self) -> None:
        os.close(self.fd)


def walk(
    top: RootedPath,
    max_depth: int,
    is_mount: Callable[[str], bool],
    on_open: Callable[[str, int], None],
    on_mount: Callable[[str], None] = lambda _path: None,
    on_too_deep: Callable[[str], None] = lambda _path: None,
) -> Iterator[EntryBatch]:
    """Yield the entries of the directory ``top`` and of those below it, ``max_depth`` levels deep.

    Directories with ignored names are left out, and so are those for which ``is_mount`` is true.
    ``on_open(path, fd)`` is called with each directory before it is listed; ``on_mount(path)`` with
    directories on another mount that ``is_mount`` did not know, which are left out, too;
    ``on_too_deep(path)`` with directories that are deeper. Directories that are gone are skipped.
    Those that can't be read, or only in part, are skipped with a warning.
    """
    levels: list[_Level] = []
    try:
        open_top = partial(openat2.open_directory, top.root, top.relative)
        _enter(levels, top.path, open_top, on_open)
        while levels:
            level = levels[-1]
            if level.directories:
                name = level.directories.pop()
                path = f"{level.path}/{name}"
                if not is_mount(path):
                    below = partial(openat2.open_at, level.fd, name, _DIRECTORY)
                    try:
                        with openat2.staying_on_mounts():
                            _enter(levels, path, below, on_open)
                    except OtherMountError:
                        on_mount(path)
                continue
            entries = _next_of(level)
            if not entries:
                levels.pop().close()
                continue
            directories = [
                entry.name
                for entry in entries
                if not is_ignored(entry.name) and _is_directory(entry)
            ]
            if len(levels) <= max_depth:
                level.directories = directories
            else:
                for name in directories:
                    on_too_deep(f"{level.path}/{name}")
            yield EntryBatch(level.path, level.fd, entries)
    finally:
        for level in levels:
            level.close()


def _next_of(level: _Level) -> "list[os.DirEntry[str]]":
    """Return the next entries; none if the rest can't be read."""
    try:
        return list(itertools.islice(level.entries, _BATCH_ENTRIES))
    except OSError as error:
        _warn(level.path, error)
        return []


def _is_directory(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False  # the filesystem reports no type, and asking for one failed


def _warn(path: str, error: OSError) -> None:
    text = str(error)
    if isinstance(error, PermissionError):
        text += f"; let user {os.geteuid()}, the daemon's, list and enter it (chmod, chown)"
    _log.warning("scan-incomplete", path=path, error=text)


def _enter(
    levels: list[_Level],
    path: str,
    open_it: Callable[[], int],
    on_open: Callable[[str, int], None],
) -> None:
    try:
        fd = open_it()
    except (FileNotFoundError, NotADirectoryError):
        return  # removed meanwhile, or not mounted yet
    except OtherMountError:
        raise
    except OSError as error:
        _warn(path, error)
        return
    try:
        on_open(path, fd)
        levels.append(_Level(path, fd))
    except OSError as error:
        os.close(fd)
        _warn(path, error)
    except BaseException:
        os.close(fd)
        raise
