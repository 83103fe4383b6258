"""Content ids of files and directories on a disk, which others may change meanwhile.

Works by descriptor, one name at a time, and follows no link. What has a content id is complete:
an entry that has none, such as a link or a device, leaves the whole directory without one.
"""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from wasmdrop.protocol.slot import FileVersion
from wasmdrop.system.descriptors import DIRECTORY_FLAGS, NotRegularError, open_regular
from wasmdrop.unixfs.dag_pb import Link
from wasmdrop.unixfs.directories import directory_link
from wasmdrop.unixfs.files import FileImporter
from wasmdrop.unixfs.profiles import DEFAULT_PROFILE, Profile
from wasmdrop.unixfs.shards import NameCollisionError

#: Opens anything without an effect on it, a link itself too.
LOOK_FLAGS: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_CHUNK_BYTES: Final = 1 << 20
_CHANGED: Final = "changed while it was read; try again when it is no longer written to"


class ContentIdError(Exception):
    """A file or directory has no content id. The text is a clause that follows the path."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path = path
        """The path of the file below the directory that was asked for; empty for that itself.

        It may have any characters but NUL.
        """


@dataclass(frozen=True, slots=True)
class _Directory:
    """A directory that is being read."""

    path: str
    fd: int
    version: FileVersion
    names: Iterator[str]
    entries: dict[str, Link] = field(default_factory=dict)


def content_link(
    path_fd: int,
    profile: Profile = DEFAULT_PROFILE,
    on_read: Callable[[int], None] = lambda _count: None,
) -> Link:
    """Return the link to the file or directory that an ``O_PATH`` descriptor refers to.

    All entries of a directory count, hidden ones too. ``on_read`` is called with the number of
    bytes of each read. Raises ``ContentIdError`` if there is a link or special file, if something
    may not be read, and if something changes meanwhile. Holds one descriptor for each level.
    """
    if not stat.S_ISDIR(os.fstat(path_fd).st_mode):
        return _file_link(path_fd, "", profile, on_read)
    levels: list[_Directory] = []
    try:
        levels.append(_open_directory(path_fd, ""))
        while True:
            level = levels[-1]
            name = next(level.names, None)
            if name is not None:
                path = f"{level.path}/{name}" if level.path else name
                found = _entry(level, name, path, profile, on_read)
                if isinstance(found, Link):
                    level.entries[name] = found
                else:
                    levels.append(found)
                continue
            link = _directory_link(level, profile)
            os.close(levels.pop().fd)
            if not levels:
                return link
            levels[-1].entries[level.path.rpartition("/")[2]] = link
    finally:
        for level in levels:
            os.close(level.fd)


def _entry(
    level: _Directory, name: str, path: str, profile: Profile, on_read: Callable[[int], None]
) -> Link | _Directory:
    try:
        fd = os.open(name, LOOK_FLAGS, dir_fd=level.fd)
    except FileNotFoundError:
        raise ContentIdError(level.path, _CHANGED) from None
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            return _open_directory(fd, path)
        return _file_link(fd, path, profile, on_read)
    finally:
        os.close(fd)


def _open_directory(path_fd: int, path: str) -> _Directory:
    try:
        fd = os.open(".", DIRECTORY_FLAGS, dir_fd=path_fd)
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        version = FileVersion.of(os.fstat(fd))
        with os.scandir(fd) as entries:
            names = [entry.name for entry in entries]
    except OSError as error:
        os.close(fd)
        raise _unreadable(path, error) from None
    return _Directory(path, fd, version, iter(names))


def _directory_link(level: _Directory, profile: Profile) -> Link:
    if FileVersion.of(os.fstat(level.fd)) != level.version:
        raise ContentIdError(level.path, _CHANGED)
    try:
        return directory_link(level.entries, profile)
    except NameCollisionError as error:
        raise ContentIdError(level.path, f"has no content id: {error}") from None


def _file_link(path_fd: int, path: str, profile: Profile, on_read: Callable[[int], None]) -> Link:
    try:
        fd, status = open_regular(path_fd)
    except NotRegularError as error:
        reason = f"is {error.strerror}; only regular files and directories have a content id"
        raise ContentIdError(path, reason) from None
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        version, size_bytes = FileVersion.of(status), 0
        importer = FileImporter(profile)
        while chunk := os.read(fd, _CHUNK_BYTES):
            size_bytes += len(chunk)
            if size_bytes > version.size_bytes:
                break  # it may grow as fast as it is read
            importer.update(chunk)
            on_read(len(chunk))
        if size_bytes != version.size_bytes or FileVersion.of(os.fstat(fd)) != version:
            raise ContentIdError(path, _CHANGED)
        return importer.finish()
    except OSError as error:
        raise _unreadable(path, error) from None
    finally:
        os.close(fd)


def _unreadable(path: str, error: OSError) -> ContentIdError:
    return ContentIdError(path, f"can't be read: {error.strerror}")
