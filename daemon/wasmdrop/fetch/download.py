"""Downloads one module into a directory: complete and verified, or not at all."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

import msgspec

from wasmdrop.fetch.content_digest import ContentDigest, SourceDigest
from wasmdrop.fetch.gateway import Gateway
from wasmdrop.fetch.ipfs_file import IpfsFile
from wasmdrop.fetch.source import IpfsSource, Source, UrlSource
from wasmdrop.protocol.errors import FetchError, SettingsError, StorageError
from wasmdrop.system import openat2
from wasmdrop.system.descriptors import NotRegularError
from wasmdrop.system.durable_files import replace_file, temporary_name
from wasmdrop.web.client import HttpClient
from wasmdrop.web.deadline import Deadline

_CHUNK_BYTES: Final = 1 << 20

#: Called with the bytes so far and the size of the file, which is None while it is unknown.
Progress: TypeAlias = Callable[[int, int | None], None]


class Fetched(msgspec.Struct, frozen=True):
    """A verified file."""

    path: Path
    size_bytes: int
    sha256: str
    is_new: bool
    """Whether it was written now; otherwise it was there before."""


class Downloader:
    """Downloads files of at most ``max_bytes`` into ``directory``, all before ``deadline``."""

    def __init__(
        self, directory: Path, max_bytes: int, deadline: Deadline, on_progress: Progress
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._deadline = deadline
        self._on_progress = on_progress

    def fetch(self, source: Source) -> Fetched:
        """Return the file that ``source`` names; download it if it is not in the directory.

        Raises `FetchError`, `SettingsError` for a directory that can't be opened, `StorageError`.
        """
        path = self._directory / source.name
        try:
            directory = openat2.open_directory(str(self._directory), "")
        except OSError as error:
            raise SettingsError(
                f"the directory {self._directory} can't be opened: {error.strerror}; make it, or"
                " name another one with --into or WASMDROP_WASM_DIR"
            ) from None
        try:
            return self._fetch_into(directory, path, source)
        except FileNotFoundError:
            raise StorageError(
                f"{path}: its temporary file was removed, as by a daemon at its start; run the"
                " command again"
            ) from None
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror or error}") from None
        finally:
            os.close(directory)

    def _fetch_into(self, directory: int, path: Path, source: Source) -> Fetched:
        try:
            file = _open_present(directory, path)
        except FileNotFoundError:
            written = self._write(directory, path.name, source)
            return Fetched(path, written.size_bytes, written.sha256, is_new=True)
        present = SourceDigest(source)
        with file:
            while chunk := file.read(_CHUNK_BYTES):
                present.update(chunk)
        # A file may be divided into blocks in a way that no profile describes.
        if not present.is_of_source() and self._received(source).sha256 != present.sha256:
            raise FetchError(
                f"{path}: exists with other content, of SHA-256 {present.sha256}; remove it"
            )
        return Fetched(path, present.size_bytes, present.sha256, is_new=False)

    def _write(self, directory: int, name: str, source: Source) -> ContentDigest:
        """Download the file; return its digest."""
        temporary = temporary_name()
        try:
            with replace_file(directory, name, temporary) as file:
                digest = self._received(source, file.write)
            os.fsync(directory)
        finally:
            # A signal may have come between the creation and the block that removes the file.
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
        return digest

    def _received(
        self, source: Source, write: Callable[[bytes], object] = lambda _chunk: None
    ) -> ContentDigest:
        """Receive the file and verify it; return its digest."""
        digest = ContentDigest()
        url = source.gateway if isinstance(source, IpfsSource) else source.url
        try:
            with contextlib.closing(HttpClient(url.origin, self._deadline)) as client:
                for chunk, total_bytes in self._chunks(client, source):
                    write(chunk)
                    digest.update(chunk)
                    self._on_progress(digest.size_bytes, total_bytes)
            if isinstance(source, UrlSource) and digest.sha256 != source.sha256:
                raise FetchError(f"sent {digest.size_bytes} bytes of SHA-256 {digest.sha256}")
        except FetchError as error:
            raise FetchError(f"{url.text}: {error}") from None
        return digest

    def _chunks(self, client: HttpClient, source: Source) -> Iterator[tuple[bytes, int | None]]:
        if isinstance(source, UrlSource):
            for chunk in client.get(source.url.target, "*/*", self._max_bytes):
                yield chunk, None
            return
        gateway = Gateway(client, source.gateway.target)
        file = IpfsFile(gateway.block, self._max_bytes)
        for chunk in file.read(source.cid):
            yield chunk, file.size_bytes


def _open_present(directory: int, path: Path) -> BinaryIO:
    """Open the regular file that has the name already. Raises `FetchError` if it is another one."""
    try:
        file, _status = openat2.open_regular_at(directory, path.name)
    except NotRegularError as error:
        raise FetchError(f"{path}: exists and is {error.strerror}; remove it") from None
    return os.fdopen(file, "rb")
