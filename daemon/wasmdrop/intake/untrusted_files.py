"""Reads files that others can change: never blocks, never leaves the directory.

Guarantees that the result is one version of one regular file. A file is first opened with
``O_PATH`` and checked; then the same object is opened for reading. A FIFO, a device or a socket is
never opened.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import msgspec

from wasmdrop.intake.layout import RootedPath
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import DirectoryIdentity, FileVersion
from wasmdrop.system import descriptors, openat2
from wasmdrop.system.descriptors import file_kind
from wasmdrop.system.openat2 import DanglingLinkError, ForeignLinkError, Links, OtherMountError
from wasmdrop.system.private_files import describe_permissions


class ChangedWhileReadError(Exception):
    """The file was written to while it was read."""


class FileRead(msgspec.Struct, frozen=True):
    """The content of one version of a file."""

    data: bytes
    version: FileVersion
    found_in: DirectoryIdentity | None


class OpenFile(NamedTuple):
    """A regular file that is open for reading."""

    fd: int
    status: os.stat_result
    found_in: DirectoryIdentity | None


#: Settings of the largest file that is read.
_SETTINGS: Final = {
    Code.INVALID_INPUT: "WASMDROP_MAX_INPUT_MB",
    Code.INVALID_MODULE: "WASMDROP_MAX_MODULE_MB",
}


#: Read at once.
_CHUNK_BYTES: Final = 1 << 20


@contextlib.contextmanager
def open_file(file: RootedPath, max_bytes: int, code: Code, links: Links) -> Iterator[OpenFile]:
    """Open a regular file.

    ``links`` says which links are followed. Raises ``FileNotFoundError`` if nothing is there;
    ``RefusedError`` with ``code`` if it is no regular file, is larger than ``max_bytes``, is behind
    a link that is not followed, or may not be read; another ``OSError`` if storage fails.
    """
    path_fd, directory = _open_path(file, code, links)
    relative = file.relative
    try:
        status = _regular_status(path_fd, relative, code)
        if status.st_size > max_bytes:
            limit = f"limit: {max_bytes // MEBIBYTE} MiB; {_SETTINGS[code]} of the daemon"
            raise RefusedError(
                code, f"{relative}: {status.st_size} bytes are more than is read ({limit})"
            )
        try:
            fd = descriptors.reopen(path_fd)
        except PermissionError:
            raise RefusedError(
                code,
                f"{relative}: the daemon may not read it: {describe_permissions(status)};"
                " chmod a+r or chown the file, and it will be read",
            ) from None
    finally:
        os.close(path_fd)
    try:
        yield OpenFile(fd, status, DirectoryIdentity.of(directory) if directory else None)
    finally:
        os.close(fd)


def file_status(file: RootedPath, code: Code, links: Links) -> os.stat_result:
    """Return the status of a regular file, which is not opened; errors as in :func:`open_file`."""
    path_fd, _directory = _open_path(file, code, links)
    try:
        return _regular_status(path_fd, file.relative, code)
    finally:
        os.close(path_fd)


def read_file(
    file: RootedPath,
    max_bytes: int,
    code: Code,
    links: Links = Links.LAST,
    admit: Callable[[os.stat_result], None] = lambda _status: None,
) -> FileRead:
    """Read a regular file; errors as in :func:`open_file`.

    ``admit`` is called with its status before it is read, and may raise an error. Raises
    ``ChangedWhileReadError`` if it was written to meanwhile.
    """
    with open_file(file, max_bytes, code, links) as (fd, status, found_in):
        admit(status)
        before = FileVersion.of(status)
        parts = []
        left_bytes = status.st_size
        while left_bytes > 0 and (part := os.read(fd, min(left_bytes, _CHUNK_BYTES))):
            parts.append(part)
            left_bytes -= len(part)
        data = b"".join(parts)
        if FileVersion.of(os.fstat(fd)) != before or len(data) != before.size_bytes:
            raise ChangedWhileReadError
        return FileRead(data, before, found_in)


def _regular_status(path_fd: int, relative: str, code: Code) -> os.stat_result:
    status = os.fstat(path_fd)
    if (kind := file_kind(status)) is not None:
        raise RefusedError(code, f"{relative}: expected a regular file, found {kind}")
    return status


def _open_path(file: RootedPath, code: Code, links: Links) -> tuple[int, os.stat_result | None]:
    root, relative = file.root, file.relative
    try:
        return openat2.open_in(root, relative, links)
    except (DanglingLinkError, ForeignLinkError) as error:
        raise RefusedError(code, f"{relative}: {error.strerror}") from None
    except OtherMountError:
        raise  # the caller has another thread look, which may wait
    except OSError as error:
        number = error.errno
        if number == errno.EXDEV:
            reason = f"a link that leads out of {root}"
        elif number == errno.ELOOP:
            reason = "links that lead in a circle, or that can't be followed safely"
        elif number == errno.EACCES:
            reason = f"the daemon, user {os.geteuid()}, may not enter a directory on the way to it"
        else:
            raise
        raise RefusedError(code, f"{relative}: {reason}") from None
