"""The output files of a job on their way from a worker to its daemon.

The body is a listing in MessagePack, and then the contents of the files in its order. So a worker
reads each file once, a daemon writes each file once, and neither has more than a few chunks in
memory.

The daemon does not trust the listing. Before it writes a byte it checks every path, the number of
entries, and the sizes; it creates files and directories by descriptor, below a directory of its own
that is private, and nothing else, so there are no links and no permissions to check. Then its own
code reads the files again, and its inventory must equal the listing.
"""

import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from typing import Final

import msgspec

from wasmdrop.fleet.bodies.invalid_answers import Flaw, InvalidAnswerError
from wasmdrop.fleet.bodies.threads import on_thread
from wasmdrop.fleet.messages import Digest
from wasmdrop.protocol.errors import SandboxError
from wasmdrop.protocol.limits import MAX_OUTPUT_ENTRIES
from wasmdrop.protocol.outcome import OutputFile, OutputTree
from wasmdrop.protocol.text import describe_value, one_line
from wasmdrop.sandbox.host.job_directory import JobDirectory, JobDirectoryFactory
from wasmdrop.system.descriptors import CREATE_FLAGS, DIRECTORY_FLAGS, write_all
from wasmdrop.system.openat2 import open_at, open_directory, open_regular_at
from wasmdrop.system.tree_removal import remove_tree
from wasmdrop.system.untrusted_trees import (
    MAX_DEPTH,
    MAX_PATH_BYTES,
    TreeLimitError,
    why_unpublished,
)

#: Limit of the name of a file, in bytes, on every filesystem of Linux that is in use.
_MAX_NAME_BYTES: Final = 255

#: Bytes of an entry of the listing besides its path: digest, size, and the tags of MessagePack.
_ENTRY_BYTES: Final = 96

#: Limit of a listing, in bytes.
MAX_LISTING_BYTES: Final = MAX_OUTPUT_ENTRIES * (MAX_PATH_BYTES + _ENTRY_BYTES)

_READ_BYTES: Final = 256 * 1024

#: The parent of the directories with files from other machines. No zygote may enter it: these are
#: named by the digests of modules.
_PARENT: Final = "fleet"


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    path: str
    size_bytes: int
    sha256: Digest


class _Listing(msgspec.Struct, frozen=True):
    files: tuple[_Entry, ...]
    directories: tuple[str, ...]
    """Each after its parent."""


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Listing)


# The worker


def encode_listing(tree: OutputTree) -> bytes:
    """Return the start of the body of output files."""
    files = tuple(_Entry(file.path, file.size_bytes, file.sha256) for file in tree.files)
    return _encoder.encode(_Listing(files, tree.directories))


def read_contents(tree: OutputTree) -> Iterator[bytes]:
    """Yield the contents of the files of a tree; blocks.

    Raises ``SandboxError`` if a file can't be read, or differs from the inventory.
    """
    try:
        root = open_directory(tree.root, "")
        try:
            for file in tree.files:
                yield from _content(root, file)
        finally:
            os.close(root)
    except OSError as error:
        raise SandboxError(f"the output files of a job could not be read: {error}") from error


def _content(root: int, file: OutputFile) -> Iterator[bytes]:
    fd, _status = open_regular_at(root, file.path)
    try:
        digest, left_bytes = hashlib.sha256(), file.size_bytes
        while left_bytes and (piece := os.read(fd, min(_READ_BYTES, left_bytes))):
            left_bytes -= len(piece)
            digest.update(piece)
            yield piece
        if left_bytes or os.read(fd, 1) or digest.hexdigest() != file.sha256:
            raise SandboxError(f"the output file {describe_value(file.path)} has changed")
    finally:
        os.close(fd)


def remove_output(tree: OutputTree) -> None:
    """Remove the directory of output files; blocks. Raises ``OSError``."""
    above, name = os.path.split(tree.root)
    parent = open_directory(above, "")
    try:
        remove_tree(parent, name)
    finally:
        os.close(parent)


# The daemon


def _check_size(size_bytes: int, listing_bytes: int, max_bytes: int) -> None:
    """Check the announced size of a body. Raises ``InvalidAnswerError``."""
    if listing_bytes > MAX_LISTING_BYTES:
        raise _invalid(Flaw.SIZE, f"a list of output files of {listing_bytes} bytes")
    if not 0 <= size_bytes - listing_bytes <= max_bytes:
        raise _invalid(
            Flaw.SIZE,
            f"output files of {size_bytes - listing_bytes} bytes; the limit is {max_bytes}",
        )


async def unpack(
    pieces: AsyncIterator[bytes],
    size_bytes: int,
    listing_bytes: int,
    max_bytes: int,
    directories: JobDirectoryFactory,
) -> OutputTree:
    """Write output files into a new directory, and return its inventory.

    ``pieces``: the body, of ``size_bytes``; its errors are raised here. None is taken before the
    sizes are checked. ``max_bytes``: limit of the files.

    Raises ``InvalidAnswerError``, and ``SandboxError`` if the disk is at fault; the directory is
    then gone.
    """
    _check_size(size_bytes, listing_bytes, max_bytes)
    try:
        directory = directories.make(max_bytes, _PARENT)
    except OSError as error:
        raise _failed(error) from error
    is_whole = False
    try:
        writer = _Writer(directory, size_bytes - listing_bytes, listing_bytes)
        with contextlib.closing(writer):
            async for piece in pieces:
                await on_thread(writer.write, piece)
            await on_thread(writer.finish)
        tree = await directory.contents()
        _compare(tree, writer.listing)
        is_whole = True
    except TreeLimitError as error:
        raise _invalid(Flaw.SIZE, f"output files with {error}") from None
    except OSError as error:
        raise _failed(error) from error
    finally:
        await directory.leave(keep=is_whole)
    return tree


class _Writer:
    """Writes a body into a directory, piece by piece."""

    def __init__(self, directory: JobDirectory, contents_bytes: int, listing_bytes: int) -> None:
        self.listing = _Listing((), ())
        self._root = directory.fd
        self._contents_bytes = contents_bytes
        self._head = bytearray()
        self._listing_left = listing_bytes
        self._files: Iterator[_Entry] | None = None
        self._fd: int | None = None
        self._left = 0

    def write(self, piece: bytes) -> None:
        """Write the next piece. Raises ``InvalidAnswerError`` and ``OSError``."""
        view = memoryview(piece)
        if self._files is None:
            taken, view = view[: self._listing_left], view[self._listing_left :]
            self._head += taken
            self._listing_left -= len(taken)
            if self._listing_left:
                return
            self._begin()
        while view:
            if not self._left and not self._open_next():
                raise _invalid(Flaw.SIZE, "more bytes than its files have")
            assert self._fd is not None  # noqa: S101 - a file with room is open
            part, view = view[: self._left], view[self._left :]
            write_all(self._fd, part)
            self._left -= len(part)

    def finish(self) -> None:
        """Create what has no content. Raises ``InvalidAnswerError`` and ``OSError``."""
        if self._files is None:
            if self._listing_left:
                raise _invalid(Flaw.SIZE, "a body that ends in its list of files")
            self._begin()
        if self._left or self._open_next():
            raise _invalid(Flaw.SIZE, "a body that ends before its last file")

    def close(self) -> None:
        """Close the open file, if any."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _begin(self) -> None:
        """Check the whole listing, then make the directories."""
        self.listing = _decode_listing(self._head, self._contents_bytes)
        self._head = bytearray()
        self._files = iter(self.listing.files)
        for path in self.listing.directories:
            parent, _, name = path.rpartition("/")
            above = open_at(self._root, parent, DIRECTORY_FLAGS) if parent else self._root
            try:
                os.mkdir(name, 0o700, dir_fd=above)
            finally:
                if above != self._root:
                    os.close(above)

    def _open_next(self) -> bool:
        """Create files up to the first one that has content; return whether there is one."""
        assert self._files is not None  # noqa: S101 - the listing was read
        for file in self._files:
            self.close()
            self._fd = open_at(self._root, file.path, CREATE_FLAGS, 0o600)
            self._left = file.size_bytes
            if self._left:
                return True
        return False


def _decode_listing(data: bytes | bytearray, contents_bytes: int) -> _Listing:
    """Return a listing whose paths are plain and distinct, and whose sizes are those announced.

    Raises ``InvalidAnswerError``.
    """
    try:
        listing = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(Flaw.MALFORMED, f"a list of files that does not decode: {error}") from None
    count = len(listing.files) + len(listing.directories)
    if count > MAX_OUTPUT_ENTRIES:
        raise _invalid(Flaw.SIZE, f"{count} output files; the limit is {MAX_OUTPUT_ENTRIES}")
    if any(file.size_bytes < 0 for file in listing.files):
        raise _invalid(Flaw.SIZE, "an output file of a negative size")
    if sum(file.size_bytes for file in listing.files) != contents_bytes:
        raise _invalid(Flaw.SIZE, "output files whose sizes do not add up to that of the body")
    made = {""}
    for path in listing.directories:
        _check_path(path, made, MAX_DEPTH)
        made.add(path)
    taken = set(made)
    for file in listing.files:
        _check_path(file.path, made, MAX_DEPTH + 1)
        if file.path in taken:
            raise _invalid(Flaw.PATH, f"two output files at {describe_value(file.path)}")
        taken.add(file.path)
    if len(made) != len(listing.directories) + 1:
        raise _invalid(Flaw.PATH, "an output directory that is listed twice")
    return listing


def _check_path(path: str, made: set[str], max_parts: int) -> None:
    """Check one path, whose directory must be in ``made``. Raises ``InvalidAnswerError``."""
    parts = path.split("/")
    reason = why_unpublished(path)
    if reason is None and any(
        part in {"", ".", ".."} or len(part.encode()) > _MAX_NAME_BYTES for part in parts
    ):
        reason = "not a plain relative path"
    elif reason is None and len(parts) > max_parts:
        reason = f"more than {MAX_DEPTH} directories deep"
    elif reason is None and path.rpartition("/")[0] not in made:
        reason = "its directory is not listed before it"
    if reason is not None:
        raise _invalid(Flaw.PATH, f"an output file at {describe_value(path)}: {reason}")


def _compare(tree: OutputTree, listing: _Listing) -> None:
    """Check that the inventory equals the listing. Raises ``InvalidAnswerError``."""
    found = {(file.path, file.size_bytes, file.sha256) for file in tree.files}
    listed = {(file.path, file.size_bytes, file.sha256) for file in listing.files}
    if found != listed or set(tree.directories) != set(listing.directories) or tree.left_out:
        raise _invalid(Flaw.DIGEST, "output files that do not match their list")


def _invalid(flaw: Flaw, reason: str) -> InvalidAnswerError:
    return InvalidAnswerError(flaw, one_line(reason))


def _failed(error: OSError) -> SandboxError:
    return SandboxError(f"the output files of a job could not be written: {error}")
