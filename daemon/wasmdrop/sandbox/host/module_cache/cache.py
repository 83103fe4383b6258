"""The module cache: dropped modules and their machine code, in the state directory.

``modules/SHA256.wasm`` is the copy of a module, so that exactly what was hashed is compiled.
``code/FINGERPRINT/SHA256-OPTIONS.cwasm`` is its machine code and ``….json`` its manifest. The
fingerprint covers everything else that they depend on: the versions of wasmtime and wasmdrop, the
processor, the layout of these files.

To load machine code is to run it. So the directories must belong to the daemon alone, and a file
that does not match its digest or manifest is removed and made again. Checks are made on the open
file, whose descriptor is then used. All files together have a size limit. Thread-safe; methods that
hash or copy must not be called on the event loop.
"""

import contextlib
import errno
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
from wasmdrop.sandbox.host.module_cache.cids import ModuleCids
from wasmdrop.sandbox.host.module_cache.eviction import LruIndex
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
from wasmdrop.unixfs.file_digest import FileDigest

_log = structlog.get_logger()

#: Modules whose summary and descriptor stay in memory; others are read again.
_MAX_IN_MEMORY: Final = 256

#: Limit of these summaries together, as JSON. In memory they take seven times that: a summary of
#: twenty thousand exports is 3 MiB of JSON and takes 20 MiB.
_MAX_IN_MEMORY_BYTES: Final = 16 << 20

_CHUNK_BYTES: Final = 1 << 20

#: Children run as another user and map machine code, so everybody may read it.
_ENTRY_MODE: Final = 0o444

_MODULE_SUFFIX: Final = ".wasm"
_CODE_SUFFIX: Final = ".cwasm"
_MANIFEST_SUFFIX: Final = ".json"
_MODULE_NAME: Final = re.compile(r"([0-9a-f]{64})\.wasm")
_CODE_NAME: Final = re.compile(r"([0-9a-f]{64})-[a-z]+\.(?:cwasm|json)")
_FINGERPRINT_NAME: Final = re.compile(r"[0-9a-f]{16}")
#: Files that a killed daemon may leave: incomplete copies, and the output of compilers.
_LEFTOVER_NAME: Final = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}.*|\.[0-9a-f]{{64}}-[a-z]+")

_Key = tuple[str, str]


class CompiledModule:
    """Machine code that can be run, and the summary of its module."""

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
        """A descriptor of the machine code, open as long as this object exists."""
        weakref.finalize(self, os.close, fd)


class ModuleCache:
    """Modules and machine code below ``state_dir``, limited to ``cache_bytes``.

    The least recently used module is evicted; one that is in use, or was just looked up, stays even
    if it exceeds the limit. ``clock``: a monotonic clock in seconds. Raises ``StorageError`` if a
    directory can be changed by others, or cannot be created.
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
        self._index = LruIndex(cache_bytes, clock)
        self._recent: OrderedDict[_Key, CompiledModule] = OrderedDict()
        """The least recently used first."""
        self._open: weakref.WeakValueDictionary[_Key, CompiledModule] = (
            weakref.WeakValueDictionary()
        )
        self._verified = VerifiedFiles()
        self.cids: Final = ModuleCids(self.open_module)
        try:
            self._scan()
            self._make_room()
        except OSError as error:
            raise StorageError(f"{state_dir}: the cache cannot be read: {error}") from error

    @property
    def total_bytes(self) -> int:
        """The size of all modules and their machine code."""
        return self._index.total_bytes

    # Modules

    def ingest(self, source_fd: int) -> str:
        """Copy the module open at ``source_fd``; return its SHA-256 in hex.

        Raises ``StorageError`` if the file changes while it is read, ``OSError`` if it cannot be
        copied.
        """
        sha256 = sha256_of(source_fd)
        if self._has_copy(sha256):
            return sha256
        self._make_room(os.fstat(source_fd).st_size)
        copied = FileDigest()
        target = self.module_path(sha256)
        offset = 0
        with write_durably(target) as copy:
            os.fchmod(copy.fileno(), _ENTRY_MODE)
            while chunk := os.pread(source_fd, _CHUNK_BYTES, offset):
                copied.update(chunk)
                copy.write(chunk)
                offset += len(chunk)
            if copied.sha256 != sha256:
                raise StorageError("the module changed while it was read")
        with self._lock:
            self._index.add(sha256, target.name, offset)
            self._use(sha256)
        self.cids.add(copied)
        return sha256

    def open_module(self, sha256: str) -> int:
        """Return a descriptor of a module's copy, after a check of its digest.

        Raises ``FileNotFoundError`` if there is no copy, or it was damaged and is removed.
        """
        path = self.module_path(sha256)
        try:
            return self._open_verified(path, sha256)
        except FileNotFoundError:
            self._remove(sha256, path)
            raise
        except (NotPrivateError, DamagedEntryError) as error:
            self._refuse(sha256, path, str(error))
            raise FileNotFoundError(errno.ENOENT, "the cache has no copy", str(path)) from None

    def module_path(self, sha256: str) -> Path:
        """Return the path of a module's copy."""
        return self._modules / f"{sha256}{_MODULE_SUFFIX}"

    def has_module(self, sha256: str) -> bool:
        """Whether the cache has the module; it is then not evicted for the next seconds."""
        with self._lock:
            found = self._index.has(sha256, f"{sha256}{_MODULE_SUFFIX}")
            if found:
                self._use(sha256)
            return found

    def module_bytes(self, sha256: str) -> int | None:
        """Return the size of a module, or None if the cache does not have it."""
        if not self.has_module(sha256):
            return None
        with contextlib.suppress(FileNotFoundError):
            return self.module_path(sha256).stat().st_size
        return None

    def forget_module(self, sha256: str) -> None:
        """Remove the copy of a file that is not a module."""
        self._remove(sha256, self.module_path(sha256))

    @contextlib.contextmanager
    def held(self, sha256: str) -> Iterator[None]:
        """Protect a module from eviction during the block."""
        with self._lock:
            self._index.hold(sha256)
        try:
            yield
        finally:
            with self._lock:
                self._index.release(sha256)

    # Machine code

    def code_path(self, sha256: str, options: EngineOptions) -> Path:
        """Return the path of a module's machine code."""
        return self._code / f"{sha256}-{options.token}{_CODE_SUFFIX}"

    def at_hand(self, sha256: str, options: EngineOptions) -> CompiledModule | None:
        """Return the compiled module if it is in memory; no I/O."""
        key = (sha256, options.token)
        with self._lock:
            found = self._recent.get(key)
            if found is not None:
                self._recent.move_to_end(key)
                self._use(sha256)
            return found

    def load(self, sha256: str, options: EngineOptions) -> CompiledModule | None:
        """Return the compiled module, or None if it must be compiled (again)."""
        found = self.at_hand(sha256, options)
        if found is not None:
            return found
        path = self.code_path(sha256, options)
        try:
            return self._remember(self._open_code(path, sha256, options))
        except FileNotFoundError:
            self.forget_code(sha256, options)  # one file of the pair is useless
            return None
        except (NotPrivateError, DamagedEntryError) as error:
            self._refuse(sha256, path, str(error))
            return None

    def keep(
        self, sha256: str, options: EngineOptions, summary: ModuleSummary, code: Path
    ) -> CompiledModule:
        """Add the machine code in the file ``code``, which is moved into the cache.

        Assumes that the child that wrote it is dead, so that no process has it open for writing.
        Raises ``OSError`` and ``StorageError``.
        """
        path = self.code_path(sha256, options)
        fd = open_private(code)
        try:
            os.fchmod(fd, _ENTRY_MODE)
            manifest = make_manifest(sha256, options, summary, fd)
            with write_durably(path.with_suffix(_MANIFEST_SUFFIX)) as file:
                os.fchmod(file.fileno(), _ENTRY_MODE)
                file.write(manifest)
            code.replace(path)
            status = os.fstat(fd)
        except BaseException:
            os.close(fd)
            raise
        with self._lock:
            self._verified.add(path.name, status)
            self._index.add(sha256, path.name, status.st_size)
            self._index.add(sha256, path.with_suffix(_MANIFEST_SUFFIX).name, len(manifest))
            module = self._remember(CompiledModule(sha256, options, summary, fd, len(manifest)))
        self._make_room()
        return module

    def forget_code(self, sha256: str, options: EngineOptions) -> None:
        """Remove machine code that the engine refused, so that the module is compiled again."""
        path = self.code_path(sha256, options)
        with self._lock:
            self._recent.pop((sha256, options.token), None)
            self._remove(sha256, path)
            self._remove(sha256, path.with_suffix(_MANIFEST_SUFFIX))

    # Checks

    def _open_code(self, path: Path, sha256: str, options: EngineOptions) -> CompiledModule:
        manifest_fd = open_private(path.with_suffix(_MANIFEST_SUFFIX))
        try:
            manifest = read_manifest(manifest_fd, sha256, options)
            manifest_bytes = os.fstat(manifest_fd).st_size
        finally:
            os.close(manifest_fd)
        fd = self._open_verified(path, manifest.code_sha256)
        return CompiledModule(sha256, options, manifest.summary, fd, manifest_bytes)

    def _open_verified(self, path: Path, sha256: str) -> int:
        """Return a descriptor of a private file, after a check of its digest."""
        fd = open_private(path)
        try:
            self._verified.require(path.name, fd, sha256)
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
            self._index.add(sha256, self.module_path(sha256).name, os.fstat(fd).st_size)
            self._use(sha256)
        os.close(fd)
        return True

    def _refuse(self, sha256: str, path: Path, reason: str) -> None:
        _log.warning("cache-entry-refused", entry=path.name, reason=reason)
        self._remove(sha256, path)
        if path.suffix == _CODE_SUFFIX:
            self._remove(sha256, path.with_suffix(_MANIFEST_SUFFIX))

    def _remove(self, sha256: str, path: Path) -> None:
        with self._lock:
            remove(path)
            self._verified.forget(path.name)
            self._index.remove(sha256, path.name)

    # Eviction

    def _remember(self, module: CompiledModule) -> CompiledModule:
        key = (module.sha256, module.options.token)
        with self._lock:
            self._recent[key] = self._open[key] = module
            self._use(module.sha256)
            self._recent.move_to_end(key)
            total = sum(one.summary_bytes for one in self._recent.values())
            while len(self._recent) > 1 and (
                len(self._recent) > _MAX_IN_MEMORY or total > _MAX_IN_MEMORY_BYTES
            ):
                _key, gone = self._recent.popitem(last=False)
                total -= gone.summary_bytes
        return module

    def _use(self, sha256: str) -> None:
        """Record a use; at intervals also on disk, as the modification time of the copy."""
        if not self._index.use(sha256):
            return
        path = self.module_path(sha256)
        with contextlib.suppress(OSError):
            was_verified = self._verified.contains(path.name, path.lstat())
            os.utime(path, follow_symlinks=False)
            if was_verified:
                self._verified.add(path.name, path.lstat())

    def _make_room(self, incoming_bytes: int = 0) -> None:
        """Evict modules until the rest and ``incoming_bytes`` keep to the limit."""
        with self._lock:
            for sha256 in self._index.surplus(incoming_bytes):
                if self._is_in_use(sha256):
                    continue
                before_bytes = self._index.total_bytes
                for name in self._index.files(sha256):
                    self._remove(sha256, self._directory_of(name) / name)
                freed_bytes = before_bytes - self._index.total_bytes
                _log.info("cache-evicted", module=sha256, bytes=freed_bytes)

    def _is_in_use(self, sha256: str) -> bool:
        """Whether a job has the machine code open, so that its removal would free nothing."""
        keys = [key for key in self._open if key[0] == sha256]
        for key in keys:
            self._recent.pop(key, None)
        # Modules without another reference are closed by now.
        in_use = {key: used for key in keys if (used := self._open.get(key)) is not None}
        self._recent.update(in_use)
        return bool(in_use)

    def _scan(self) -> None:
        """Remove leftovers of earlier daemons, and index the rest by the time of its last use."""
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
                self._index.add(sha256, name, size_bytes)

    def _directory_of(self, name: str) -> Path:
        return self._modules if name.endswith(_MODULE_SUFFIX) else self._code
