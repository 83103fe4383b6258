"""Open and read markers, receipts and the files beside them, which strangers may have made.

Nothing but a regular file is read, no link is followed below the directory of a document, and no
more is read than a bound allows. Nothing is written.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from wasmdrop.protocol import strict_json
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.slot import MARKER_SUFFIX
from wasmdrop.protocol.text import describe_value, one_line
from wasmdrop.service.verify.verdict import DocumentError
from wasmdrop.system import openat2
from wasmdrop.system.descriptors import NotRegularError, open_regular

#: The largest marker, receipt or result.json that is parsed.
MAX_DOCUMENT_BYTES: Final = 1 << 20

#: Names in a directory that are looked at, and markers that a message names.
_MAX_NAMES: Final = 20_000
_NAMED: Final = 5

#: As the daemon names markers, but for OUTPUT_PATH.
_MARKER_NAME: Final = re.compile(r"result(-.+)?\.done", re.DOTALL)

#: The keys by which markers and receipts are told apart.
_KINDS: Final = frozenset({"schema", "payloadType"})

_MISSING: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})


class UnreadableError(Exception):
    """A file can't be read, for a reason in one clause."""


class DocumentDirectory:
    """The directory of a document, held open. Raises ``DocumentError`` if it can't be opened."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise DocumentError(f"{path}: can't be opened: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self.fd)

    def path_of(self, name: str) -> str:
        """Return the path of a name in it for a message."""
        return one_line(f"{self.path.rstrip('/')}/{name}")

    def names(self) -> list[str]:
        """Return the names in the directory, sorted. Raises ``DocumentError``."""
        names = []
        try:
            with os.scandir(self.fd) as entries:
                for entry in entries:
                    names.append(entry.name)
                    if len(names) > _MAX_NAMES:
                        raise DocumentError(
                            f"{self.path}: more than {_MAX_NAMES} files to look through; name the"
                            " marker, and give --module and --input"
                        )
        except OSError as error:
            raise DocumentError(f"{self.path}: can't be read: {error.strerror}") from None
        return sorted(names)

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[tuple[int, os.stat_result]]:
        """Open a regular file; ``name`` may have directories.

        Raises ``FileNotFoundError`` if nothing is there, ``UnreadableError`` if it is no regular
        file, is behind a link, or may not be read.
        """
        try:
            fd, status = openat2.open_regular_at(self.fd, name)
        except OSError as error:
            if error.errno in _MISSING:
                raise FileNotFoundError(error.errno, error.strerror, name) from None
            raise UnreadableError(_why(error)) from None
        try:
            yield fd, status
        finally:
            os.close(fd)

    def read(self, name: str, max_bytes: int = MAX_DOCUMENT_BYTES) -> bytes:
        """Return the content of a regular file of at most ``max_bytes``.

        Raises as :meth:`opened` does; ``UnreadableError`` also for a larger file.
        """
        with self.opened(name) as (fd, _status):
            return _read_bounded(fd, max_bytes)


class Document(NamedTuple):
    """A marker or a receipt, parsed as JSON."""

    name: str
    data: bytes
    body: dict[str, Any]

    @property
    def is_receipt(self) -> bool:
        """Whether it is an envelope of signatures, and no marker."""
        return "payloadType" in self.body


@contextlib.contextmanager
def open_document(path: str) -> Iterator[tuple[DocumentDirectory, Document]]:
    """Give the document at ``path`` and its directory; of a directory, its one marker.

    That is a ``result.done`` or ``result-NAME.done``; a marker of another name must be named.

    Raises ``DocumentError`` if there is no document, more than one, or a malformed one.
    """
    if _is_directory(path):
        with DocumentDirectory(path) as directory:
            yield directory, load_document(directory, _only_marker(directory))
        return
    parent, name = os.path.split(path)
    with DocumentDirectory(parent or ".") as directory:
        yield directory, load_document(directory, name)


def load_document(directory: DocumentDirectory, name: str) -> Document:
    """Return the marker or receipt of this name. Raises ``DocumentError``."""
    try:
        data = directory.read(name)
        body = strict_json.parse(data)
    except FileNotFoundError:
        raise DocumentError(f"{directory.path_of(name)}: no such file") from None
    except UnreadableError as error:
        raise DocumentError(f"{directory.path_of(name)}: {error}") from None
    except RefusedError as error:
        raise DocumentError(
            f"{directory.path_of(name)}: expected a marker or a receipt, but it is no strict JSON:"
            f" {error.message}"
        ) from None
    if not isinstance(body, dict) or not _KINDS & body.keys():
        raise DocumentError(
            f"{directory.path_of(name)}: expected a marker or a receipt, got {describe_value(body)}"
        )
    # Of a receipt, no files are checked: it must not stand in for the marker of a directory.
    if body.keys() >= _KINDS or (name.endswith(MARKER_SUFFIX) and "schema" not in body):
        raise DocumentError(
            f"{directory.path_of(name)}: expected a marker (schema) or a receipt (payloadType), and"
            f" only a marker is named *{MARKER_SUFFIX}"
        )
    return Document(name, data, body)


@contextlib.contextmanager
def open_named(path: str) -> Iterator[tuple[int, os.stat_result]]:
    """Open a regular file that the caller names, also through a link. Raises ``DocumentError``."""
    try:
        path_fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            fd, status = open_regular(path_fd)
        finally:
            os.close(path_fd)
    except OSError as error:
        raise DocumentError(f"{path}: {_why(error)}") from None
    try:
        yield fd, status
    finally:
        os.close(fd)


def _read_bounded(fd: int, max_bytes: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise UnreadableError(f"expected at most {max_bytes} bytes, got more")
    return data


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(Path(path).stat().st_mode)
    except OSError as error:
        raise DocumentError(f"{path}: {error.strerror}") from None


def _only_marker(directory: DocumentDirectory) -> str:
    markers = [name for name in directory.names() if _MARKER_NAME.fullmatch(name)]
    if len(markers) == 1:
        return markers[0]
    if not markers:
        raise DocumentError(
            f"{directory.path}: it has no marker (result.done or result-NAME.done); name"
            " the directory of one job, a marker or a receipt"
        )
    shown = ", ".join(describe_value(name) for name in markers[:_NAMED])
    more = f" and {len(markers) - _NAMED} more" if len(markers) > _NAMED else ""
    raise DocumentError(f"{directory.path}: it has several markers: {shown}{more}; name one")


def _why(error: OSError) -> str:
    if isinstance(error, NotRegularError):
        return f"expected a regular file, found {error.strerror}"
    if error.errno == errno.ELOOP:
        return "expected a regular file, found a link, which is not followed"
    return f"can't be read: {error.strerror}"
