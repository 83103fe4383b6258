"""The seal of machine code: a small file beside it that says whose code it is and what is in it.

The seal holds the module's summary and the digest of the code, and its own digest over all that.
It shows damage and mix-ups: a bit that flipped, a file that was cut short, one pair of files under
the name of another. It is no signature: whoever may write into the directory can make both anew,
which is why owner and mode are looked at too.
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

__all__ = [
    "DamagedEntryError",
    "Manifest",
    "VerifiedFiles",
    "fingerprint",
    "make_manifest",
    "read_manifest",
    "sha256_of",
]

#: Raised when the files of the store or what they mean change.
_LAYOUT: Final = 4

#: Largest seal that is read: a summary with its defaults written out is some times larger than the
#: report that it came in.
_MAX_SEAL_BYTES: Final = 8 * MAX_REPORT_BYTES

_CHUNK_BYTES: Final = 1 << 20


class DamagedEntryError(StorageError):
    """An entry that is not what its seal says; its text says in what."""


class Manifest(msgspec.Struct, frozen=True):
    """What the machine code in one file is."""

    layout: int
    module: str
    """SHA-256 of the module, in hex."""
    options: str
    """The engine's options, by their token."""
    code_bytes: int
    code_sha256: str
    summary: ModuleSummary


class _ManifestFile(msgspec.Struct, frozen=True):
    sha256: str
    """Of the very bytes of ``seal``."""
    seal: msgspec.Raw


_sealed_decoder = msgspec.json.Decoder(_ManifestFile)
_seal_decoder = msgspec.json.Decoder(Manifest)


def make_manifest(
    sha256: str, options: EngineOptions, summary: ModuleSummary, code_fd: int
) -> bytes:
    """Return the content of the seal for the machine code open at ``code_fd``."""
    code_bytes = os.fstat(code_fd).st_size
    seal = Manifest(_LAYOUT, sha256, options.token, code_bytes, sha256_of(code_fd), summary)
    data = msgspec.json.encode(seal)
    return msgspec.json.encode(_ManifestFile(hashlib.sha256(data).hexdigest(), msgspec.Raw(data)))


def read_manifest(fd: int, sha256: str, options: EngineOptions) -> Manifest:
    """Return the seal open at ``fd``, which must be that of this module with these options.

    Raises ``DamagedEntryError``.
    """
    size = os.fstat(fd).st_size
    if size > _MAX_SEAL_BYTES:
        raise DamagedEntryError(f"its seal has {size} bytes")
    try:
        sealed = _sealed_decoder.decode(os.pread(fd, size, 0))
        # Its digest first: what does not match was not written by us, and is not even parsed.
        if hashlib.sha256(sealed.seal).hexdigest() != sealed.sha256:
            raise DamagedEntryError("its seal does not have the digest that it says")
        seal = _seal_decoder.decode(sealed.seal)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedEntryError(f"its seal does not decode: {error}") from None
    if (seal.layout, seal.module, seal.options) != (_LAYOUT, sha256, options.token):
        raise DamagedEntryError("its seal is that of another module")
    return seal


class VerifiedFiles:
    """Which files were found to be whole in this run, so that each is read for that only once.

    A file is known by its name and by all that changes where its content does; only its owner can
    set the change time back.
    """

    def __init__(self) -> None:
        self._versions: dict[str, tuple[int, ...]] = {}

    def require(self, name: str, fd: int, sha256: str) -> None:
        """Raise ``DamagedEntryError`` unless the file open at ``fd`` has this digest."""
        status = os.fstat(fd)
        if self.knows(name, status):
            return
        try:
            if sha256_of(fd) != sha256:
                raise DamagedEntryError("it does not have the digest that it should have")
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise DamagedEntryError("it can't be read any more") from None
        self.vouch(name, status)

    def knows(self, name: str, status: os.stat_result) -> bool:
        """Whether this version of the file was found to be whole."""
        return self._versions.get(name) == _version(status)

    def vouch(self, name: str, status: os.stat_result) -> None:
        """Note that this version of the file is whole."""
        self._versions[name] = _version(status)

    def forget(self, name: str) -> None:
        """Note that the file is gone."""
        self._versions.pop(name, None)


def fingerprint() -> str:
    """Name everything but the module that machine code, its summary and these files depend on."""
    features = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    # A summary that another wasmdrop made may lack what this one asks of it.
    ours = f"{_LAYOUT} {version('wasmdrop')} {msgspec.json.schema(ModuleSummary)}"
    parts = (ours, version("wasmtime"), platform.machine(), features)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def sha256_of(fd: int) -> str:
    """Return the SHA-256 of the file open at ``fd``, in hex, wherever its offset is."""
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
