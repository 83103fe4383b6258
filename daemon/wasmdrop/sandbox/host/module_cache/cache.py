"""The store: modules that were dropped and the machine code made of them, in the state directory.

``modules/SHA256.wasm`` is a module as it was read, so that what is compiled is what was hashed.
``code/FINGERPRINT/SHA256-OPTIONS.cwasm`` is its machine code and ``….json`` its seal. The
fingerprint covers all else that shapes them: the versions of wasmtime and wasmdrop, the processor,
the layout of these files.

Loading machine code runs it. So the directories must be the daemon's alone, or there is no store;
and a file that is not, or not what its seal says, is removed and made anew. What is checked is the
open file, and that descriptor is handed out. All files together keep to a bound. Safe to call from
several threads; what hashes or copies must not be called on the event loop.
"""

import contextlib
import errno
import hashlib
import os
import re
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import structlog

from wasmdrop.protocol.errors import StorageError
from wasmdrop.protocol.module_types import ModuleSummary
from wasmdrop.sandbox.host.module_cache.lru import LruIndex
from wasmdrop.sandbox.host.module_cache.manifest import (
    DamagedEntryError,
    VerifiedFiles,
    fingerprint,
    make_manifest,
    read_manifest,
    sha256_of,
)
from wasmdrop.sandbox.wire import EngineOptions
from wasmdrop.system.durable_files import TEMPORARY_PREFIX, write_durably
from wasmdrop.system.private_files import (
    NotPrivateError,
    make_private_directory,
    open_private,
    remove,
    require_private_directory,
)

__all__ = ["CompiledModule", "ModuleCache"]

_log = structlog.get_logger()

#: Summaries and open descriptors of this many modules are kept at hand; others are read again.
_AT_HAND: Final = 256

#: Summaries at hand together, as JSON. In memory they take seven times that: one of twenty thousand
#: exports, which is 3 MiB of JSON, takes 20 MiB.
_AT_HAND_BYTES: Final = 16 << 20

_CHUNK_BYTES: Final = 1 << 20

#: ForkingProcess of another user map machine code, so all may read it.
_ENTRY_MODE: Final = 0o444

_MODULE_SUFFIX: Final = ".wasm"
_CODE_SUFFIX: Final = ".cwasm"
_SEAL_SUFFIX: Final = ".json"
_MODULE_NAME: Final = re.compile(r"([0-9a-f]{64})\.wasm")
_CODE_NAME: Final = re.compile(r"([0-9a-f]{64})-[a-z]+\.(?:cwasm|json)")
_FINGERPRINT_NAME: Final = re.compile(r"[0-9a-f]{16}")
#: What a daemon that was killed may leave: copies that were not complete, and compilers' output.
_LEFTOVER_NAME: Final = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}.*|\.[0-9a-f]{{64}}-[a-z]+")

_Key = tuple[str, str]


class CompiledModule:
    """Machine code ready to be run, and the summary of its module."""

    def __init__(
        self,
        sha256: str,
        options: EngineOptions,
        summary: ModuleSummary,
        fd: int,
        summary_bytes: int = 0,
    ) -> None:
        self.summary_bytes = summary_bytes
        """Size of the summary as JSON."""
        self.sha256 = sha256
        self.options = options
        self.summary = summary
        self.fd = fd
        """A descriptor of the machine code, open as long as this object is in use."""
        weakref.finalize(self, os.close, fd)


class ModuleCache:
    """Modules and machine code under ``state_dir``, of at most ``cache_bytes`` where that can be.

    Whatever was used least recently goes; what is in use, or was just asked for, stays even where
    it is larger than the bound. ``clock`` counts seconds. Raises ``StorageError`` where a directory
    can be changed by others, or not be made.
    """

    def __init__(
        self, state_dir: Path, cache_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._modules = state_dir / "modules"
        self._code = state_dir / "code" / fingerprint()
        require_private_directory(state_dir)
        for directory in (self._modules, self._code.parent, self._code):
            make_private_directory(directory)
        self._lock = threading.RLock()
        self._ledger = LruIndex(cache_bytes, clock)
        self._at_hand: OrderedDict[_Key, CompiledModule] = OrderedDict()
        """The least recently used first."""
        self._in_memory: weakref.WeakValueDictionary[_Key, CompiledModule] = (
            weakref.WeakValueDictionary()
        )
        self._whole = VerifiedFiles()
        try:
            self._take_stock()
            self._make_room()
        except OSError as error:
            raise StorageError(f"{state_dir}: the cache can't be read: {error}") from error

    # Modules

    def ingest(self, source_fd: int) -> str:
        """Keep a copy of the module open at ``source_fd``; return its SHA-256 in hex.

        Raises ``StorageError`` where the file changed while it was read, ``OSError`` where it can't
        be copied.
        """
        sha256 = sha256_of(source_fd)
        if self._has_copy(sha256):
            return sha256
        self._make_room(os.fstat(source_fd).st_size)
        copied = hashlib.sha256()
        target = self.module_path(sha256)
        offset = 0
        with write_durably(target) as copy:
            os.fchmod(copy.fileno(), _ENTRY_MODE)
            while chunk := os.pread(source_fd, _CHUNK_BYTES, offset):
                copied.update(chunk)
                copy.write(chunk)
                offset += len(chunk)
            if copied.hexdigest() != sha256:
                raise StorageError("the module changed while it was read")
        with self._lock:
            self._ledger.add(sha256, target.name, offset)
            self._use(sha256)
        return sha256

    def open_module(self, sha256: str) -> int:
        """Return a descriptor of a module's copy, checked against its digest.

        Raises ``FileNotFoundError`` where no copy is kept, or it was damaged and is gone now.
        """
        path = self.module_path(sha256)
        try:
            return self._open_whole(path, sha256)
        except FileNotFoundError:
            self._remove(sha256, path)
            raise
        except (NotPrivateError, DamagedEntryError) as error:
            self._refuse(sha256, path, str(error))
            raise FileNotFoundError(errno.ENOENT, "no copy is kept", str(path)) from None

    def module_path(self, sha256: str) -> Path:
        """Where the copy of a module lies, if it was ever ingested."""
        return self._modules / f"{sha256}{_MODULE_SUFFIX}"

    def has_module(self, sha256: str) -> bool:
        """Whether the module was seen before and is still kept; keeps it for the next moments."""
        with self._lock:
            found = self._ledger.has(sha256, f"{sha256}{_MODULE_SUFFIX}")
            if found:
                self._use(sha256)
            return found

    def module_bytes(self, sha256: str) -> int | None:
        """Return the size of a module that was seen before; None where it is not kept."""
        if not self.has_module(sha256):
            return None
        with contextlib.suppress(FileNotFoundError):
            return self.module_path(sha256).stat().st_size
        return None

    def forget_module(self, sha256: str) -> None:
        """Drop the copy of something that turned out to be no module."""
        self._remove(sha256, self.module_path(sha256))

    @contextlib.contextmanager
    def held(self, sha256: str) -> Iterator[None]:
        """Keep a module for as long as the block takes."""
        with self._lock:
            self._ledger.hold(sha256)
        try:
            yield
        finally:
            with self._lock:
                self._ledger.release(sha256)

    # Machine code

    def code_path(self, sha256: str, options: EngineOptions) -> Path:
        """Where the machine code of a module lies once it was compiled."""
        return self._code / f"{sha256}-{options.token}{_CODE_SUFFIX}"

    def at_hand(self, sha256: str, options: EngineOptions) -> CompiledModule | None:
        """Return the compiled module if that takes no I/O."""
        key = (sha256, options.token)
        with self._lock:
            found = self._at_hand.get(key)
            if found is not None:
                self._at_hand.move_to_end(key)
                self._use(sha256)
            return found

    def load(self, sha256: str, options: EngineOptions) -> CompiledModule | None:
        """Return the compiled module; None where it was not compiled or must be anew."""
        found = self.at_hand(sha256, options)
        if found is not None:
            return found
        path = self.code_path(sha256, options)
        try:
            return self._put_at_hand(self._open_code(path, sha256, options))
        except FileNotFoundError:
            self.forget_code(sha256, options)  # half of a pair is worth nothing
            return None
        except (NotPrivateError, DamagedEntryError) as error:
            self._refuse(sha256, path, str(error))
            return None

    def keep(
        self, sha256: str, options: EngineOptions, summary: ModuleSummary, code: Path
    ) -> CompiledModule:
        """Keep what a compiling child made: ``code`` is its file, moved to its place.

        Assumes that the child is dead, so that nobody holds the file open for writing. Raises
        ``OSError`` and ``StorageError``.
        """
        path = self.code_path(sha256, options)
        fd = open_private(code)
        try:
            os.fchmod(fd, _ENTRY_MODE)
            seal = make_manifest(sha256, options, summary, fd)
            with write_durably(path.with_suffix(_SEAL_SUFFIX)) as file:
                os.fchmod(file.fileno(), _ENTRY_MODE)
                file.write(seal)
            code.replace(path)
            status = os.fstat(fd)
        except BaseException:
            os.close(fd)
            raise
        with self._lock:
            self._whole.vouch(path.name, status)
            self._ledger.add(sha256, path.name, status.st_size)
            self._ledger.add(sha256, path.with_suffix(_SEAL_SUFFIX).name, len(seal))
            module = self._put_at_hand(CompiledModule(sha256, options, summary, fd, len(seal)))
        self._make_room()
        return module

    def forget_code(self, sha256: str, options: EngineOptions) -> None:
        """Drop machine code that the engine refused, so that it is made anew."""
        path = self.code_path(sha256, options)
        with self._lock:
            self._at_hand.pop((sha256, options.token), None)
            self._remove(sha256, path)
            self._remove(sha256, path.with_suffix(_SEAL_SUFFIX))

    # Checks

    def _open_code(self, path: Path, sha256: str, options: EngineOptions) -> CompiledModule:
        seal_fd = open_private(path.with_suffix(_SEAL_SUFFIX))
        try:
            seal = read_manifest(seal_fd, sha256, options)
            seal_bytes = os.fstat(seal_fd).st_size
        finally:
            os.close(seal_fd)
        fd = self._open_whole(path, seal.code_sha256)
        return CompiledModule(sha256, options, seal.summary, fd, seal_bytes)

    def _open_whole(self, path: Path, sha256: str) -> int:
        """Return a descriptor of a private file that has this digest."""
        fd = open_private(path)
        try:
            self._whole.require(path.name, fd, sha256)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _has_copy(self, sha256: str) -> bool:
        try:
            fd = self.open_module(sha256)
        except FileNotFoundError:
            return False
        with self._lock:
            self._ledger.add(sha256, self.module_path(sha256).name, os.fstat(fd).st_size)
            self._use(sha256)
        os.close(fd)
        return True

    def _refuse(self, sha256: str, path: Path, reason: str) -> None:
        _log.warning("cache-entry-refused", entry=path.name, reason=reason)
        self._remove(sha256, path)
        if path.suffix == _CODE_SUFFIX:
            self._remove(sha256, path.with_suffix(_SEAL_SUFFIX))

    def _remove(self, sha256: str, path: Path) -> None:
        with self._lock:
            remove(path)
            self._whole.forget(path.name)
            self._ledger.remove(sha256, path.name)

    # The bound

    def _put_at_hand(self, module: CompiledModule) -> CompiledModule:
        key = (module.sha256, module.options.token)
        with self._lock:
            self._at_hand[key] = self._in_memory[key] = module
            self._use(module.sha256)
            self._at_hand.move_to_end(key)
            total = sum(one.summary_bytes for one in self._at_hand.values())
            while len(self._at_hand) > 1 and (
                len(self._at_hand) > _AT_HAND or total > _AT_HAND_BYTES
            ):
                _key, gone = self._at_hand.popitem(last=False)
                total -= gone.summary_bytes
        return module

    def _use(self, sha256: str) -> None:
        """Note a use, now and then on disk too: the time of the copy is that of its last use."""
        if not self._ledger.use(sha256):
            return
        path = self.module_path(sha256)
        with contextlib.suppress(OSError):
            was_whole = self._whole.knows(path.name, path.lstat())
            os.utime(path, follow_symlinks=False)
            if was_whole:
                self._whole.vouch(path.name, path.lstat())

    def _make_room(self, incoming_bytes: int = 0) -> None:
        """Remove what was used least recently until the rest and what comes are in the bound."""
        with self._lock:
            for sha256 in self._ledger.surplus(incoming_bytes):
                if self._is_run(sha256):
                    continue
                before_bytes = self._ledger.total_bytes
                for name in self._ledger.files(sha256):
                    self._remove(sha256, self._directory_of(name) / name)
                freed_bytes = before_bytes - self._ledger.total_bytes
                _log.info("cache-evicted", module=sha256, bytes=freed_bytes)

    def _is_run(self, sha256: str) -> bool:
        """Whether a job has the machine code open, so that removing it would free nothing."""
        keys = [key for key in self._in_memory if key[0] == sha256]
        for key in keys:
            self._at_hand.pop(key, None)
        # Whatever nobody else refers to is gone, and closed, by now.
        in_use = {key: used for key in keys if (used := self._in_memory.get(key)) is not None}
        self._at_hand.update(in_use)
        return bool(in_use)

    def _take_stock(self) -> None:
        """Sweep what an earlier daemon left, and enter what it kept by the time of its last use."""
        for entry in os.scandir(self._code.parent):
            if _FINGERPRINT_NAME.fullmatch(entry.name) and entry.name != self._code.name:
                remove(Path(entry.path))
        found: dict[str, list[tuple[str, int]]] = {}
        used_at_ns: dict[str, int] = {}
        for directory, pattern in ((self._modules, _MODULE_NAME), (self._code, _CODE_NAME)):
            for entry in os.scandir(directory):
                if _LEFTOVER_NAME.fullmatch(entry.name):
                    remove(Path(entry.path))
                elif (match := pattern.fullmatch(entry.name)) is not None:
                    status = entry.stat(follow_symlinks=False)
                    found.setdefault(match[1], []).append((entry.name, status.st_size))
                    used_at_ns[match[1]] = max(used_at_ns.get(match[1], 0), status.st_mtime_ns)
        for sha256 in sorted(found, key=lambda sha256: used_at_ns[sha256]):
            for name, size_bytes in found[sha256]:
                self._ledger.add(sha256, name, size_bytes)

    def _directory_of(self, name: str) -> Path:
        return self._modules if name.endswith(_MODULE_SUFFIX) else self._code
