"""Find the module and the input of a claim by digest.

The paths in a document are hints of a stranger and are not used. Files are looked for beside the
document and, for the module, in the wasm directory; of those with the right name and size, a
bounded number of bytes is read.
"""

import contextlib
import hashlib
import itertools
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Final, NamedTuple

from wasmdrop.intake.layout import MODULE_NAME, is_ignored
from wasmdrop.proof.claim import Content
from wasmdrop.protocol.text import one_line
from wasmdrop.service.verify.documents import DocumentDirectory, UnreadableError, open_named
from wasmdrop.service.verify.verdict import DocumentError, unverifiable
from wasmdrop.system import openat2
from wasmdrop.system.descriptors import open_regular
from wasmdrop.system.openat2 import Links
from wasmdrop.unixfs.cid import Cid
from wasmdrop.unixfs.file_digest import FileDigest
from wasmdrop.unixfs.files import FileImporter
from wasmdrop.unixfs.profiles import PROFILES

#: Bytes that are read in search of a module or an input, in all.
_MAX_READ_BYTES: Final = 1 << 30

#: Names in and below the wasm directory that are looked at.
_MAX_NAMES: Final = 10_000

_CHUNK_BYTES: Final = 1 << 20

_MODULE_SUFFIX: Final = ".wasm"
_INPUT_SUFFIX: Final = ".json"


class Artifact(NamedTuple):
    """A file with the claimed digest, open for reading."""

    path: str
    fd: int
    size_bytes: int


@contextlib.contextmanager
def open_given(path: str, what: str, claimed: Content, max_bytes: int) -> Iterator[Artifact]:
    """Open the file that the caller gives as ``what``, the module or the input.

    Raises ``DocumentError`` if it is larger than ``max_bytes`` or has another digest than
    ``claimed``.
    """
    with open_named(path) as (fd, status):
        if status.st_size > max_bytes:
            raise DocumentError(
                f"{path}: {status.st_size} bytes are more than are read here ({max_bytes})"
            )
        artifact = Artifact(path, fd, status.st_size)
        sha256 = digest_of(artifact).sha256
        if sha256 != claimed.sha256:
            raise DocumentError(
                f"{path}: its sha256 is {sha256}, but the {what} of the claim is {claimed.sha256}"
            )
        yield artifact


@contextlib.contextmanager
def find_input(
    directory: DocumentDirectory, stem: str, claimed: Content, max_bytes: int
) -> Iterator[Artifact]:
    """Open the input beside the document, of at most ``max_bytes``.

    Raises ``DocumentError`` if it is not there.
    """

    def names() -> Iterator[str]:
        # The slot's own input: other names are only listed if it is not that.
        yield f"input{stem.removeprefix('result')}{_INPUT_SUFFIX}"
        yield from (name for name in directory.names() if name.endswith(_INPUT_SUFFIX))

    with _first(_beside(directory, names()), claimed, max_bytes) as found:
        if found is None:
            raise DocumentError(
                f"the input, sha256 {claimed.sha256}, is not in {directory.path}; give it with"
                " --input FILE"
            )
        yield found


@contextlib.contextmanager
def find_module(
    directory: DocumentDirectory, wasm_dir: str, max_depth: int, claimed: Content, max_bytes: int
) -> Iterator[Artifact]:
    """Open the module beside the document or below the wasm directory, of at most ``max_bytes``.

    Raises ``DocumentError`` if it is not there.
    """

    def candidates() -> Iterator[tuple[str, AbstractContextManager[int]]]:
        yield from _beside(directory, [MODULE_NAME])
        # As `wasmdrop fetch` names modules; one is found among any number of others.
        names = [f"{claimed.cid}{_MODULE_SUFFIX}", f"{claimed.sha256}{_MODULE_SUFFIX}"]
        for relative in itertools.chain(names, _module_names(wasm_dir, max_depth)):
            yield f"{wasm_dir}/{relative}", _open_below(wasm_dir, relative)
        others = (name for name in directory.names() if name.endswith(_MODULE_SUFFIX))
        yield from _beside(directory, others)

    with _first(candidates(), claimed, max_bytes) as found:
        if found is None:
            raise DocumentError(
                f"the module, sha256 {claimed.sha256}, is neither in {directory.path} nor below"
                f" {wasm_dir} (WASMDROP_WASM_DIR); give it with --module FILE"
            )
        yield found


def require_size(what: str, claimed: Content, max_bytes: int, setting: str) -> None:
    """Raise ``ConcludedError`` if a file is larger than this host reads."""
    if claimed.size_bytes is not None and claimed.size_bytes > max_bytes:
        raise unverifiable(
            f"the {what} has {claimed.size_bytes} bytes, more than are read here ({max_bytes});"
            f" raise {setting}"
        )


def read_all(artifact: Artifact, sha256: str) -> bytes:
    """Return the content of an open file.

    Raises ``DocumentError`` if it does not have this digest any more: its owner may write to it.
    """
    data = b"".join(_chunks(artifact))
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DocumentError(f"{artifact.path}: it changed while it was read")
    return data


def digest_of(artifact: Artifact) -> FileDigest:
    """Return digest and content id of an open file."""
    digest = FileDigest()
    for chunk in _chunks(artifact):
        digest.update(chunk)
    return digest


def is_tree_of(artifact: Artifact, cid: Cid) -> bool:
    """Whether a content id of several blocks is that of the file, by one of the profiles."""
    importers = [FileImporter(profile) for profile in PROFILES.values()]
    for chunk in _chunks(artifact):
        for importer in importers:
            importer.update(chunk)
    # Versions 0 and 1 of a content id may have the same block.
    return cid.digest in {importer.finish().cid.digest for importer in importers}


def _chunks(artifact: Artifact) -> Iterator[bytes]:
    """Yield the content; of a file that grows meanwhile, one byte more than it had."""
    offset = 0
    end = artifact.size_bytes + 1
    while chunk := os.pread(artifact.fd, min(_CHUNK_BYTES, end - offset), offset):
        yield chunk
        offset += len(chunk)


@contextlib.contextmanager
def _first(
    candidates: Iterator[tuple[str, AbstractContextManager[int]]],
    claimed: Content,
    max_bytes: int,
) -> Iterator[Artifact | None]:
    """Give the first candidate with the claimed digest, open; None if there is none.

    Raises ``DocumentError`` if there are too many to read.
    """
    read_bytes = 0
    for path, opening in candidates:
        with contextlib.ExitStack() as opened:
            try:
                fd = opened.enter_context(opening)
            except (OSError, UnreadableError):
                continue
            size_bytes = os.fstat(fd).st_size
            if size_bytes > max_bytes or claimed.size_bytes not in {None, size_bytes}:
                continue
            artifact = Artifact(one_line(path), fd, size_bytes)
            read_bytes += size_bytes
            if read_bytes > _MAX_READ_BYTES:
                raise DocumentError(
                    f"{artifact.path}: with it, more than {_MAX_READ_BYTES} bytes would be read in"
                    " search of the module or the input; give it with --module or --input"
                )
            if digest_of(artifact).sha256 == claimed.sha256:
                yield artifact
                return
    yield None


def _beside(
    directory: DocumentDirectory, names: Iterable[str]
) -> Iterator[tuple[str, AbstractContextManager[int]]]:
    for name in names:
        yield f"{directory.path.rstrip('/')}/{name}", _open_beside(directory, name)


@contextlib.contextmanager
def _open_beside(directory: DocumentDirectory, name: str) -> Iterator[int]:
    with directory.opened(name) as (fd, _status):
        yield fd


@contextlib.contextmanager
def _open_below(root: str, relative: str) -> Iterator[int]:
    """Open a module as the daemon does, which follows links that stay in the wasm directory."""
    path_fd, _directory = openat2.open_in(root, relative, Links.ANY)
    try:
        fd, _status = open_regular(path_fd)
    finally:
        os.close(path_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def _module_names(root: str, max_depth: int) -> Iterator[str]:
    """Yield the paths of modules below the wasm directory, those at the top first."""
    level, left = [""], _MAX_NAMES
    for _depth in range(max_depth + 1):
        deeper = []
        for directory in level:
            try:
                names = sorted(openat2.names_in(root, directory))
            except OSError:
                continue
            for name in names[:left]:
                relative = f"{directory}/{name}" if directory else name
                if is_ignored(name):
                    continue
                if name.endswith(_MODULE_SUFFIX):
                    yield relative
                elif _is_directory(root, relative):
                    deeper.append(relative)
            left -= len(names)
            if left <= 0:
                return
        level = deeper


def _is_directory(root: str, relative: str) -> bool:
    try:
        return stat.S_ISDIR(openat2.lstat(root, relative).st_mode)
    except OSError:
        return False
