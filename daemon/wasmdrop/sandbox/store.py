"""The store: modules that were dropped and the machine code made of them, in the state directory.

``modules/SHA256.wasm`` is a module as it was read, so that what is compiled is what was hashed.
``code/FINGERPRINT/SHA256-OPTIONS.cwasm`` is its machine code and ``….json`` its summary. The
fingerprint covers all else that shapes machine code: wasmtime's version, the processor, the layout
of these files. Loading machine code runs it, so the state directory must be the daemon's alone.
"""

import contextlib
import hashlib
import os
import platform
import shutil
import weakref
from collections import OrderedDict
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from wasmdrop.durable import write_durably
from wasmdrop.errors import StorageError
from wasmdrop.module import ModuleSummary
from wasmdrop.sandbox.messages import EngineOptions

__all__ = ["CompiledModule", "ModuleStore"]

#: Raised when these files or what they mean change.
_LAYOUT: Final = 1

#: Summaries and open descriptors of this many modules are kept at hand; others are read again.
_AT_HAND: Final = 256

_CHUNK_BYTES: Final = 1 << 20

_decoder = msgspec.json.Decoder(ModuleSummary)


class CompiledModule:
    """Machine code ready to be run, and the summary of its module."""

    def __init__(
        self, sha256: str, options: EngineOptions, summary: ModuleSummary, fd: int
    ) -> None:
        self.sha256 = sha256
        self.options = options
        self.summary = summary
        self.fd = fd
        """A descriptor of the machine code, open as long as this object is in use."""
        weakref.finalize(self, os.close, fd)


class ModuleStore:
    """Modules and machine code under ``state_dir``."""

    def __init__(self, state_dir: Path) -> None:
        self._modules = state_dir / "modules"
        all_code = state_dir / "code"
        self._code = all_code / _fingerprint()
        for directory in (self._modules, self._code):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stale in all_code.iterdir():
            if stale != self._code:
                shutil.rmtree(stale)
        for leftover in [*self._modules.glob(".*"), *self._code.glob(".*")]:
            leftover.unlink()
        self._at_hand: OrderedDict[tuple[str, str], CompiledModule] = OrderedDict()

    def ingest(self, source_fd: int) -> str:
        """Keep a copy of the module open at ``source_fd``; return its SHA-256 in hex.

        Raises ``StorageError`` where the file changed while it was read.
        """
        sha256 = _hash(source_fd)
        target = self.module_path(sha256)
        if target.exists():
            return sha256
        copied = hashlib.sha256()
        with write_durably(target) as copy:
            offset = 0
            while chunk := os.pread(source_fd, _CHUNK_BYTES, offset):
                copied.update(chunk)
                copy.write(chunk)
                offset += len(chunk)
            if copied.hexdigest() != sha256:
                raise StorageError("the module changed while it was read")
        return sha256

    def module_path(self, sha256: str) -> Path:
        """Where the copy of a module lies, if it was ever ingested."""
        return self._modules / f"{sha256}.wasm"

    def has_module(self, sha256: str) -> bool:
        """Whether the module was seen before and is still kept."""
        return self.module_path(sha256).exists()

    def code_path(self, sha256: str, options: EngineOptions) -> Path:
        """Where the machine code of a module lies once it was compiled."""
        return self._code / f"{sha256}-{options.token}.cwasm"

    def at_hand(self, sha256: str, options: EngineOptions) -> CompiledModule | None:
        """Return the compiled module if that takes no I/O."""
        key = (sha256, options.token)
        found = self._at_hand.get(key)
        if found is not None:
            self._at_hand.move_to_end(key)
        return found

    def load(self, sha256: str, options: EngineOptions) -> CompiledModule | None:
        """Return the compiled module; None where it was not compiled or is damaged."""
        found = self.at_hand(sha256, options)
        if found is not None:
            return found
        path = self.code_path(sha256, options)
        try:
            summary = _decoder.decode(path.with_suffix(".json").read_bytes())
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        module = CompiledModule(sha256, options, summary, fd)
        self._at_hand[sha256, options.token] = module
        if len(self._at_hand) > _AT_HAND:
            self._at_hand.popitem(last=False)
        return module

    def keep(
        self, sha256: str, options: EngineOptions, summary: ModuleSummary, code: Path
    ) -> CompiledModule:
        """Keep what a compiling child made: ``code`` is its file, moved to its place."""
        path = self.code_path(sha256, options)
        with write_durably(path.with_suffix(".json")) as file:
            file.write(msgspec.json.encode(summary))
        # The child is dead, so nobody holds the file open for writing any more.
        code.chmod(0o444)
        code.replace(path)
        module = self.load(sha256, options)
        if module is None:
            raise StorageError(f"{path}: was written and could not be read back")
        return module

    def forget_code(self, sha256: str, options: EngineOptions) -> None:
        """Drop machine code that the engine refused, so that it is made anew."""
        self._at_hand.pop((sha256, options.token), None)
        self.code_path(sha256, options).unlink(missing_ok=True)

    def forget_module(self, sha256: str) -> None:
        """Drop the copy of something that turned out to be no module."""
        with contextlib.suppress(FileNotFoundError):
            self.module_path(sha256).unlink()


def _hash(fd: int) -> str:
    digest = hashlib.sha256()
    offset = 0
    while chunk := os.pread(fd, _CHUNK_BYTES, offset):
        digest.update(chunk)
        offset += len(chunk)
    return digest.hexdigest()


def _fingerprint() -> str:
    """Name everything but the module that machine code depends on."""
    features = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    parts = (str(_LAYOUT), version("wasmtime"), platform.machine(), features)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
