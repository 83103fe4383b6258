"""A download into a directory: complete and verified, or not at all."""

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.support.raw_server import RawServer, Request, blocks_of, body, gateway, serving
from wasmdrop.fetch import download as fetch_download
from wasmdrop.fetch.download import Downloader, Fetched
from wasmdrop.fetch.source import parse_source
from wasmdrop.protocol.errors import FetchError, SettingsError, StorageError
from wasmdrop.unixfs.profiles import CIDV1, PROFILES, Profile
from wasmdrop.web.deadline import Deadline

CONTENT: Final = hashlib.shake_256(b"module").digest(CIDV1.chunk_bytes + 1000)
SHA256: Final = hashlib.sha256(CONTENT).hexdigest()
#: A division into blocks that no profile describes.
ROOT, BLOCKS = blocks_of(CONTENT, replace(CIDV1, chunk_bytes=100_000))
LIMIT: Final = 1024 * 1024


def answer(request: Request, connection: socket.socket) -> None:
    """Answer as a gateway, and as a server of the file."""
    if request.target == "/file":
        connection.sendall(body(CONTENT))
    else:
        gateway(BLOCKS)(request, connection)


@pytest.fixture
def server() -> Iterator[RawServer]:
    """Give an honest server."""
    with serving(answer) as it:
        yield it


@pytest.fixture(params=["ipfs", "url"])
def text(request: pytest.FixtureRequest, server: RawServer) -> str:
    """Give what the user writes for each kind of source."""
    return f"ipfs://{ROOT}" if request.param == "ipfs" else f"{server.url}/file#sha256={SHA256}"


def download(directory: Path, text: str, server: RawServer) -> Fetched:
    """Download a source."""
    source = parse_source(text, server.url)
    return Downloader(directory, LIMIT, Deadline(600), lambda _done, _total: None).fetch(source)


def path_of(directory: Path, text: str) -> Path:
    """Return where the file belongs."""
    return directory / (f"{ROOT}.wasm" if text.startswith("ipfs") else f"{SHA256}.wasm")


def test_download_leaves_the_verified_file_alone(
    tmp_path: Path, text: str, server: RawServer
) -> None:
    """With its size and digest; readable as the umask says."""
    path = path_of(tmp_path, text)
    expected = Fetched(path, len(CONTENT), SHA256, is_new=True)
    assert download(tmp_path, text, server) == expected
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == CONTENT
    umask = os.umask(0o22)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_download_tells_its_progress(tmp_path: Path, server: RawServer) -> None:
    """The size is known from the first block."""
    told: list[tuple[int, int | None]] = []
    source = parse_source(f"ipfs://{ROOT}", server.url)
    Downloader(
        tmp_path, LIMIT, Deadline(600), lambda done, total: told.append((done, total))
    ).fetch(source)
    assert told == [(done, len(CONTENT)) for done in (100_000, 200_000, len(CONTENT))]


def test_download_of_a_present_file_leaves_it(tmp_path: Path, text: str, server: RawServer) -> None:
    """It is verified, by a download if its blocks are unknown, and is not written again."""
    path = path_of(tmp_path, text)
    path.write_bytes(CONTENT)
    before = path.stat()
    expected = Fetched(path, len(CONTENT), SHA256, is_new=False)
    assert download(tmp_path, text, server) == expected
    after = path.stat()  # whose atime may differ, because the file was read
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_download_of_a_present_file_in_known_chunks_sends_no_request(
    tmp_path: Path, profile: Profile, server: RawServer
) -> None:
    """Its CID is computed instead."""
    root, _blocks = blocks_of(CONTENT, profile)
    (tmp_path / f"{root}.wasm").write_bytes(CONTENT)
    assert not download(tmp_path, f"ipfs://{root}", server).is_new
    assert server.requests == []


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"\0"])
def test_download_never_replaces_a_file_with_other_content(
    tmp_path: Path, text: str, server: RawServer, content: bytes
) -> None:
    """The message says what is there."""
    path = path_of(tmp_path, text)
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(FetchError, match=f"exists with other content, of SHA-256 {digest}"):
        download(tmp_path, text, server)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["a directory", "a link", "a link to nothing", "a FIFO"])
def test_download_never_replaces_what_is_no_file(
    tmp_path: Path, text: str, server: RawServer, kind: str
) -> None:
    """A FIFO does not block it, and links are not followed."""
    directory = tmp_path / "wasm"
    directory.mkdir()
    path, elsewhere = path_of(directory, text), tmp_path / "elsewhere"
    match kind:
        case "a directory":
            path.mkdir()
        case "a link":
            elsewhere.write_bytes(CONTENT)
            path.symlink_to(elsewhere)
        case "a link to nothing":
            path.symlink_to(elsewhere)
        case _:
            os.mkfifo(path)
    before = path.lstat()
    said = f"{path}: exists and is {kind.removesuffix(' to nothing')}; remove it"
    with pytest.raises(FetchError, match=said):
        download(directory, text, server)
    after = path.lstat()  # whose atime may differ
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not elsewhere.exists() or elsewhere.read_bytes() == CONTENT
    assert server.requests == []


def test_download_into_a_missing_directory_is_wrong_use(tmp_path: Path, server: RawServer) -> None:
    """No directory is made."""
    reason = r"directory .*/missing can't be opened: No such file or directory; make it, or name"
    with pytest.raises(SettingsError, match=reason):
        download(tmp_path / "missing", f"ipfs://{ROOT}", server)
    assert server.requests == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_download_that_can_not_be_stored_leaves_nothing(
    tmp_path: Path, server: RawServer, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A disk that is full or fails is no fault of the server."""

    def fail(*_args: object, **_flags: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StorageError, match=f"{ROOT}.wasm: No space left on device"):
        download(tmp_path, f"ipfs://{ROOT}", server)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_download_interrupted_before_its_first_byte_leaves_nothing(
    tmp_path: Path, server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal may come when the temporary file is made, and nothing knows of it yet."""

    @contextlib.contextmanager
    def interrupted(directory: int, _name: str, temporary: str) -> Iterator[None]:
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, dir_fd=directory))
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(fetch_download, "replace_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download(tmp_path, f"ipfs://{ROOT}", server)
    assert list(tmp_path.iterdir()) == []


def test_download_whose_temporary_file_was_removed_says_so(tmp_path: Path) -> None:
    """A daemon that starts removes the temporary files of others."""

    def remove(request: Request, connection: socket.socket) -> None:
        for path in tmp_path.iterdir():
            path.unlink()
        answer(request, connection)

    with serving(remove) as server, pytest.raises(StorageError, match="run the command again"):
        download(tmp_path, f"ipfs://{ROOT}", server)
    assert list(tmp_path.iterdir()) == []
