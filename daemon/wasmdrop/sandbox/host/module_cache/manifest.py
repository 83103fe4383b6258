"""The manifest of machine code: a file beside it with its module, its digest and its summary.

The manifest also contains a digest of itself. It reveals damage and mix-ups: a flipped bit, a
truncated file, files under the name of another module. It is not a signature: a user who can
write into the directory can replace both files, so owner and mode are checked too.
"""

import contextlib
import errno
import hashlib
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from wasmdrop.protocol.errors import StorageError
from wasmdrop.protocol.module_types import ModuleSummary
from wasmdrop.sandbox.wire import MAX_REPORT_BYTES, EngineOptions

#: Version of the files of the cache and of their meaning.
_LAYOUT: Final = 5

#: Largest manifest: a summary with its defaults is several times larger than its report.
_MAX_MANIFEST_BYTES: Final = 8 * MAX_REPORT_BYTES

_CHUNK_BYTES: Final = 1 << 20


class DamagedEntryError(StorageError):
    """A file that does not match its manifest; the text gives the reason."""


class Manifest(msgspec.Struct, frozen=True):
    """The description of a file with machine code."""

    layout: int
    module: str
    """SHA-256 of the module, in hex."""
    options: str
    """The token of the engine options."""
    code_bytes: int
    code_sha256: str
    summary: ModuleSummary


class _ManifestFile(msgspec.Struct, frozen=True):
    sha256: str
    """Digest of the bytes of ``manifest``."""
    manifest: msgspec.Raw


_file_decoder = msgspec.json.Decoder(_ManifestFile)
_manifest_decoder = msgspec.json.Decoder(Manifest)


def make_manifest(
    sha256: str, options: EngineOptions, summary: ModuleSummary, code_fd: int
) -> bytes:
    """Return the content of the manifest for the machine code open at ``code_fd``."""
    code_bytes = os.fstat(code_fd).st_size
    manifest = Manifest(_LAYOUT, sha256, options.token, code_bytes, sha256_of(code_fd), summary)
    data = msgspec.json.encode(manifest)
    return msgspec.json.encode(_ManifestFile(hashlib.sha256(data).hexdigest(), msgspec.Raw(data)))


def read_manifest(fd: int, sha256: str, options: EngineOptions) -> Manifest:
    """Return the manifest open at ``fd``, which must belong to this module with these options.

    Raises ``DamagedEntryError``.
    """
    size = os.fstat(fd).st_size
    if size > _MAX_MANIFEST_BYTES:
        raise DamagedEntryError(f"its manifest has {size} bytes")
    try:
        file = _file_decoder.decode(os.pread(fd, size, 0))
        # The digest first: if it does not match, the rest is not parsed.
        if hashlib.sha256(file.manifest).hexdigest() != file.sha256:
            raise DamagedEntryError("its manifest does not match its digest")
        manifest = _manifest_decoder.decode(file.manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedEntryError(f"its manifest does not decode: {error}") from None
    if (manifest.layout, manifest.module, manifest.options) != (_LAYOUT, sha256, options.token):
        raise DamagedEntryError("its manifest is that of another module")
    return manifest


class VerifiedFiles:
    """The files whose digests were verified in this run, so that each is read only once for that.

    A file is identified by its name and by the metadata that changes with its content; the change
    time cannot be set.
    """

    def __init__(self) -> None:
        self._versions: dict[str, tuple[int, ...]] = {}

    def require(self, name: str, fd: int, sha256: str) -> None:
        """Raise ``DamagedEntryError`` unless the file open at ``fd`` has this digest."""
        status = os.fstat(fd)
        if self.contains(name, status):
            return
        try:
            if sha256_of(fd) != sha256:
                raise DamagedEntryError("it does not match its digest")
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise DamagedEntryError("it cannot be read any more") from None
        self.add(name, status)

    def contains(self, name: str, status: os.stat_result) -> bool:
        """Whether this version of the file was verified."""
        return self._versions.get(name) == _version(status)

    def add(self, name: str, status: os.stat_result) -> None:
        """Record that this version of the file is intact."""
        self._versions[name] = _version(status)

    def forget(self, name: str) -> None:
        """Remove a file that is gone."""
        self._versions.pop(name, None)


def fingerprint() -> str:
    """Return a digest of everything but the module that machine code and its summary depend on."""
    features = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    # A summary from another version of wasmdrop may lack fields.
    ours = f"{_LAYOUT} {version('wasmdrop')} {msgspec.json.schema(ModuleSummary)}"
    parts = (ours, version("wasmtime"), platform.machine(), features)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def sha256_of(fd: int) -> str:
    """Return the SHA-256 of the file open at ``fd``, in hex, independently of its offset."""
    digest = hashlib.sha256()
    offset = 0
    while chunk := os.pread(fd, _CHUNK_BYTES, offset):
        digest.update(chunk)
        offset += len(chunk)
    return digest.hexdigest()


def _version(status: os.stat_result) -> tuple[int, ...]:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
