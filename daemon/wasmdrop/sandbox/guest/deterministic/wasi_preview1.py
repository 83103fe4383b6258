"""Deterministic file functions of WASI preview 1, for modules.

Replaces the functions whose results depend on the disk: the order of a directory, the numbers and
times of files, and the size and links of a directory. wasmtime's own functions do the work. They
use the memory of the module that calls them, so a small module, the relay, calls them with a memory
of its own. Its fuel is not counted.
"""

import contextlib
import functools
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

import wasmtime
from wasmtime import (
    Caller,
    Func,
    FuncType,
    Linker,
    Memory,
    Module,
    Store,
    ValType,
    wat2wasm,
)

from wasmdrop.protocol.module_types import WASI_MODULE
from wasmdrop.sandbox.guest.deterministic import guest_memory
from wasmdrop.sandbox.guest.deterministic.file_metadata import DiskMetadata
from wasmdrop.sandbox.guest.deterministic.relayed_files import RelayedFiles, WasiError

#: The functions, and their parameters: i for i32, I for i64.
_PARAMETERS: Final = {
    "fd_filestat_get": "ii",
    "fd_filestat_set_times": "iIIi",
    "fd_readdir": "iiiIi",
    "path_filestat_get": "iiiii",
    "path_filestat_set_times": "iiiiIIi",
    "path_remove_directory": "iii",
    "path_rename": "iiiiii",
    "path_unlink_file": "iii",
}
_TYPES: Final = {"i": "i32", "I": "i64"}

# Addresses in the relay's memory. A page holds any path that Linux accepts.
_PAGE: Final = 1 << 16
_STATUS_AT: Final = 0
_USED_AT: Final = 64
_PATH_AT: Final = _PAGE
_OTHER_PATH_AT: Final = 2 * _PAGE
_LISTING_AT: Final = 3 * _PAGE
_LISTING_BYTES: Final = 13 * _PAGE
_PAGES: Final = 16

_U64: Final = (1 << 64) - 1

# Of preview 1 (witx): errors, kinds of files, flags, and the layouts of filestat and dirent.
_SUCCESS, _FAULT, _NAME_TOO_LONG = 0, 21, 37
_DIRECTORY: Final = 3
_ACCESSED, _ACCESSED_NOW, _MODIFIED, _MODIFIED_NOW = 1, 2, 4, 8
_FILESTAT: Final = struct.Struct("<QQB7xQQQQQ")
_DIRENT: Final = struct.Struct("<QQIB3x")
_SIZE: Final = struct.Struct("<I")


class _Filestat(NamedTuple):
    device: int
    inode: int
    kind: int
    links: int
    size: int
    accessed_ns: int
    modified_ns: int
    changed_ns: int

    def on_disk(self) -> DiskMetadata:
        return DiskMetadata(self.inode, self.links, self.modified_ns)


class _FileReference(NamedTuple):
    """A file as named by a call: a descriptor, or a path in the relay's memory below it."""

    fd: int
    path: tuple[int, ...] | None = None
    """Flags, address and size."""


def compile_relay(engine: wasmtime.Engine) -> Module:
    """Return the module that calls wasmtime's own functions; takes about 5 ms."""
    parts = []
    for name, letters in _PARAMETERS.items():
        kinds = " ".join(_TYPES[letter] for letter in letters)
        parts.append(
            f'(import "{WASI_MODULE}" "{name}" (func ${name} (param {kinds}) (result i32)))'
        )
    parts.append(f'(memory (export "memory") {_PAGES})')
    for name, letters in _PARAMETERS.items():
        kinds = " ".join(_TYPES[letter] for letter in letters)
        given = " ".join(f"(local.get {index})" for index in range(len(letters)))
        body = f"(param {kinds}) (result i32) (call ${name} {given})"
        parts.append(f'(func (export "{name}") {body})')
    return Module(engine, bytes(wat2wasm(f"(module {' '.join(parts)})")))


class Preview1Files(RelayedFiles[_FileReference]):
    """The file functions of one job's module."""

    def __init__(self, relay: Module, linker: Linker, now_ns: Callable[[], int]) -> None:
        """Replace file functions in ``linker``, which must allow shadowing."""
        super().__init__(now_ns)
        self._relay = relay
        self._engine = linker.engine
        self._listings: dict[int, tuple[int, list[bytes]]] = {}
        """The number and entries of the listed directory, by descriptor."""
        types = {"i": ValType.i32(), "I": ValType.i64()}
        for name, letters in _PARAMETERS.items():
            form = FuncType([types[letter] for letter in letters], [types["i"]])
            function = functools.partial(self._error_of, getattr(self, f"_{name}"))
            linker.define_func(WASI_MODULE, name, form, function, access_caller=True)

    def enter(self, store: Store) -> None:
        """Create the relay's instance in ``store``, before the guest's."""
        self._store = store
        linker = Linker(self._engine)
        linker.define_wasi()
        exports = linker.instantiate(store, self._relay).exports(store)
        memory = exports["memory"]
        assert isinstance(memory, Memory)  # noqa: S101 - made above
        self._memory = memory
        self._functions: dict[str, Func] = {}
        for name in _PARAMETERS:
            function = exports[name]
            assert isinstance(function, Func)  # noqa: S101 - made above
            self._functions[name] = function

    def _error_of(self, function: Callable[..., None], caller: Caller, *args: int) -> int:
        return self._run(function, caller, *args) or _SUCCESS

    def _fd_filestat_get(self, caller: Caller, fd: int, at: int) -> None:
        self._get_filestat(caller, _FileReference(fd), at)

    def _path_filestat_get(
        self, caller: Caller, fd: int, flags: int, path: int, size: int, at: int
    ) -> None:
        file = _FileReference(fd, (flags, *self._copy_path(caller, path, size)))
        self._get_filestat(caller, file, at)

    def _fd_filestat_set_times(
        self, _caller: Caller, fd: int, accessed_ns: int, modified_ns: int, flags: int
    ) -> None:
        self._set_times(_FileReference(fd), accessed_ns, modified_ns, flags)

    def _path_filestat_set_times(
        self, caller: Caller, fd: int, lookup_flags: int, path: int, size: int, *times: int
    ) -> None:
        file = _FileReference(fd, (lookup_flags, *self._copy_path(caller, path, size)))
        self._set_times(file, *times)

    def _path_unlink_file(self, caller: Caller, fd: int, path: int, size: int) -> None:
        self._remove(caller, "path_unlink_file", fd, path, size)

    def _path_remove_directory(self, caller: Caller, fd: int, path: int, size: int) -> None:
        self._remove(caller, "path_remove_directory", fd, path, size)

    def _path_rename(
        self, caller: Caller, fd: int, path: int, size: int, new_fd: int, new: int, new_size: int
    ) -> None:
        source = self._copy_path(caller, path, size)
        target = self._copy_path(caller, new, new_size, _OTHER_PATH_AT)
        moved = self._status_if_any(_FileReference(fd, (0, *source)))
        replaced = self._status_if_any(_FileReference(new_fd, (0, *target)))
        self._call("path_rename", fd, *source, new_fd, *target)
        # Renaming one name of a file over another does nothing.
        if replaced and moved and replaced.inode != moved.inode:
            self._metadata.remove(replaced.on_disk(), is_directory=replaced.kind == _DIRECTORY)

    def _fd_readdir(
        self, caller: Caller, fd: int, at: int, size: int, cookie: int, used_at: int
    ) -> None:
        directory = _FileReference(fd)
        number = self._look_up(directory, self._disk_metadata(directory)).number
        known, entries = self._listings.get(fd, (0, []))
        # A listing is read once, so that removals do not change it.
        if cookie == 0 or number != known:
            entries = self._list(fd, number)
            self._listings[fd] = (number, entries)
        size &= 0xFFFFFFFF
        data = bytearray()
        for entry in entries[cookie & _U64 :]:
            data += entry
            if len(data) >= size:
                break
        del data[size:]
        _write(caller, at, bytes(data))
        _write(caller, used_at, _SIZE.pack(len(data)))

    def _call(self, name: str, *args: int) -> None:
        if error := self._functions[name](self._store, *args):
            raise WasiError(error)

    def _copy_path(self, caller: Caller, at: int, size: int, to: int = _PATH_AT) -> tuple[int, int]:
        """Copy a path into the relay's memory; return its address and size."""
        if size & 0xFFFFFFFF > _PAGE:
            raise WasiError(_NAME_TOO_LONG)
        path = guest_memory.read(caller, at, size)
        if path is None:
            raise WasiError(_FAULT)
        if path:
            self._memory.write(self._store, path, to)
        return to, size

    def _status(self, file: _FileReference) -> _Filestat:
        if file.path is None:
            self._call("fd_filestat_get", file.fd, _STATUS_AT)
        else:
            self._call("path_filestat_get", file.fd, *file.path, _STATUS_AT)
        data = self._memory.read(self._store, _STATUS_AT, _STATUS_AT + _FILESTAT.size)
        return _Filestat(*_FILESTAT.unpack(data))

    def _status_if_any(self, file: _FileReference) -> _Filestat | None:
        with contextlib.suppress(WasiError):
            return self._status(file)
        return None

    def _disk_metadata(self, file: _FileReference) -> DiskMetadata:
        return self._status(file).on_disk()

    def _stamp(self, file: _FileReference, time_ns: int) -> None:
        self._set_times_on_disk(file, 0, time_ns, _MODIFIED)

    def _get_filestat(self, caller: Caller, file: _FileReference, at: int) -> None:
        status = self._status(file)
        # The standard streams have no device; their status is the same in every run.
        if status.device:
            entry = self._look_up(file, status.on_disk())
            status = status._replace(
                inode=entry.number,
                accessed_ns=entry.accessed_ns,
                modified_ns=entry.modified_ns,
                changed_ns=entry.modified_ns,
            )
            if status.kind == _DIRECTORY:
                status = status._replace(links=1, size=0)
        _write(caller, at, _FILESTAT.pack(*status))

    def _set_times(
        self, file: _FileReference, accessed_ns: int, modified_ns: int, flags: int
    ) -> None:
        if status := self._status_if_any(file):
            self._look_up(file, status.on_disk())  # so that a time that is not set stays as it was
        if flags & (_ACCESSED_NOW | _MODIFIED_NOW):
            now_ns = self._now_ns()
            # Both flags of one time are an error, which wasmtime detects.
            if flags & (_ACCESSED | _ACCESSED_NOW) == _ACCESSED_NOW:
                accessed_ns, flags = now_ns, flags ^ (_ACCESSED | _ACCESSED_NOW)
            if flags & (_MODIFIED | _MODIFIED_NOW) == _MODIFIED_NOW:
                modified_ns, flags = now_ns, flags ^ (_MODIFIED | _MODIFIED_NOW)
        self._set_times_on_disk(file, accessed_ns, modified_ns, flags)
        self._metadata.set_times(
            self._disk_metadata(file),
            accessed_ns & _U64 if flags & _ACCESSED else None,
            modified_ns & _U64 if flags & _MODIFIED else None,
        )

    def _set_times_on_disk(self, file: _FileReference, *times: int) -> None:
        """Set the times; ``times`` are the access time, the modification time and flags."""
        if file.path is None:
            self._call("fd_filestat_set_times", file.fd, *times)
        else:
            self._call("path_filestat_set_times", file.fd, *file.path, *times)

    def _remove(self, caller: Caller, name: str, fd: int, path: int, size: int) -> None:
        copied = self._copy_path(caller, path, size)
        status = self._status_if_any(_FileReference(fd, (0, *copied)))
        self._call(name, fd, *copied)
        if status is not None:
            self._metadata.remove(status.on_disk(), is_directory=status.kind == _DIRECTORY)

    def _list(self, fd: int, number: int) -> list[bytes]:
        """Return all entries of the directory ``number``."""
        found: list[tuple[bytes, int, int]] = []
        cookie, used = 0, _LISTING_BYTES
        while used == _LISTING_BYTES:
            self._call("fd_readdir", fd, _LISTING_AT, _LISTING_BYTES, cookie, _USED_AT)
            (used,) = _SIZE.unpack(self._memory.read(self._store, _USED_AT, _USED_AT + _SIZE.size))
            data = bytes(self._memory.read(self._store, _LISTING_AT, _LISTING_AT + used))
            at = 0
            while at + _DIRENT.size <= used:
                next_cookie, inode, name_bytes, kind = _DIRENT.unpack_from(data, at)
                at += _DIRENT.size + name_bytes
                if at > used:
                    break  # incomplete: the next part repeats it
                found.append((data[at - name_bytes : at], inode, kind))
                cookie = next_cookie
        # The first two entries are "." and "..", for which wasmtime reports the same directory.
        numbered = [(name, number, kind) for name, _inode, kind in found[:2]] + [
            (name, self._metadata.find(inode).number, kind)
            for name, inode, kind in sorted(found[2:])
        ]
        return [
            _DIRENT.pack(cookie, number, len(name), kind) + name
            for cookie, (name, number, kind) in enumerate(numbered, 1)
        ]


def _write(caller: Caller, at: int, data: bytes) -> None:
    if not guest_memory.write(caller, at, data):
        raise WasiError(_FAULT)
