"""Deterministic file functions of WASI 0.2, for components.

Does the same as :mod:`.wasi_preview1` does for modules, with the relay of
:mod:`.wasi_preview2_relay`. ``rename-at`` is not replaced: it borrows two descriptors, and wasmtime
50 fails if a component passes two borrows to a Python function. So if the disk reuses numbers, a
new file may get the number of a file that another was renamed over.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from wasmtime import Store, component
from wasmtime.component import Record, ResourceAny, ResourceHost, ResourceType, Variant

from wasmdrop.sandbox.guest.deterministic.clock_and_random import datetime_record, make_record
from wasmdrop.sandbox.guest.deterministic.file_metadata import DiskMetadata, FileMetadata
from wasmdrop.sandbox.guest.deterministic.relayed_files import RelayedFiles, WasiError
from wasmdrop.sandbox.guest.deterministic.wasi_preview2_relay import INTERFACE, METHODS

#: An arbitrary type number, unique among the host's resources.
_STREAM: Final = 1

#: The longest path that is passed on: longer than any that Linux accepts.
_MAX_PATH_BYTES: Final = 1 << 16

_BILLION: Final = 1_000_000_000


class _FileReference(NamedTuple):
    """A file as named by a call: a descriptor, or a path below it."""

    descriptor: ResourceAny
    at: tuple[Any, ...] = ()
    """Flags and path."""


class Preview2Files(RelayedFiles[_FileReference]):
    """The file functions of one job's component."""

    def __init__(
        self, relay: component.Component, linker: component.Linker, now_ns: Callable[[], int]
    ) -> None:
        """Replace file functions in ``linker``, which must allow shadowing."""
        super().__init__(now_ns)
        self._relay = relay
        self._engine = linker.engine
        self._listings: dict[int, list[Record]] = {}
        """The remaining entries of each directory stream, in reverse order."""
        self._listed = 0
        with linker.root() as root, root.add_instance(INTERFACE) as instance:
            instance.add_resource("directory-entry-stream", ResourceType.host(_STREAM), self._close)
            for name, method in METHODS.items():
                function = getattr(self, f"_{name.removesuffix('-at').replace('-', '_')}")
                # A borrow of our own resource ends in to_host.
                borrows = method.resource == "descriptor"
                answer = functools.partial(self._answer, function, borrows)
                instance.add_func(f"[method]{method.resource}.{name}", answer)

    def enter(self, store: Store) -> None:
        """Create the relay's instance in ``store``, before the guest's."""
        self._store = store
        linker = component.Linker(self._engine)
        linker.add_wasip2()
        self._instance = linker.instantiate(store, self._relay)
        self._functions: dict[str, component.Func] = {}
        for name in METHODS:
            index = self._instance.get_export_index(store, name)
            assert index is not None  # noqa: S101 - made above
            function = self._instance.get_func(store, index)
            assert function is not None  # noqa: S101 - made above
            self._functions[name] = function

    def _answer(
        self, function: Callable[..., Any], borrows: bool, _context: object, *args: Any
    ) -> Any:
        result = self._run(function, *args) if all(map(_is_short, args)) else "name-too-long"
        if borrows:
            for arg in args:
                if isinstance(arg, ResourceAny):
                    arg.drop(self._store)  # ends the borrow
        return result

    def _stat(self, descriptor: ResourceAny, *at: Any) -> Record:
        stat, entry = self._status_and_entry(_FileReference(descriptor, at))
        modified = datetime_record(entry.modified_ns)
        setattr(stat, "data-access-timestamp", datetime_record(entry.accessed_ns))
        setattr(stat, "data-modification-timestamp", modified)
        setattr(stat, "status-change-timestamp", modified)
        if _is_directory(stat):
            setattr(stat, "link-count", 1)
            setattr(stat, "size", 0)  # noqa: B010 - a record has no attributes of its own
        return stat

    def _metadata_hash(self, descriptor: ResourceAny, *at: Any) -> Record:
        _stat, entry = self._status_and_entry(_FileReference(descriptor, at))
        return make_record(lower=entry.number, upper=0)

    def _set_times(self, descriptor: ResourceAny, *args: Any) -> None:
        *at, accessed, modified = args
        file = _FileReference(descriptor, tuple(at))
        with contextlib.suppress(WasiError):
            self._status_and_entry(file)  # so that a time that is not set stays as it was
        if "now" in {accessed.tag, modified.tag}:
            now = Variant("timestamp", datetime_record(self._now_ns()))
            accessed, modified = (
                now if given.tag == "now" else given for given in (accessed, modified)
            )
        self._set_times_on_disk(file, accessed, modified)
        with contextlib.suppress(WasiError):
            disk = self._disk_metadata(file)
            self._metadata.set_times(disk, _given_ns(accessed), _given_ns(modified))

    def _unlink_file(self, descriptor: ResourceAny, path: str) -> None:
        self._remove("unlink-file-at", descriptor, path)

    def _remove_directory(self, descriptor: ResourceAny, path: str) -> None:
        self._remove("remove-directory-at", descriptor, path)

    def _read_directory(self, descriptor: ResourceAny) -> ResourceHost:
        stream = self._call("read-directory", descriptor)
        found: list[Record] = []
        try:
            while (entry := self._call("read-directory-entry", stream)) is not None:
                found.append(entry)
        finally:
            stream.drop(self._store)
        self._listed += 1
        self._listings[self._listed] = sorted(
            found, key=lambda entry: _field(entry, "name"), reverse=True
        )
        return ResourceHost.own(self._listed, _STREAM)

    def _read_directory_entry(self, stream: ResourceAny) -> Record | None:
        left = self._listings[stream.to_host(self._store).rep]
        return left.pop() if left else None

    def _close(self, _context: object, listed: int) -> None:
        del self._listings[listed]

    def _call(self, name: str, *args: Any) -> Any:
        result = self._functions[name](self._store, *args)
        if isinstance(result, str):
            raise WasiError(result)
        return result

    def _status(self, file: _FileReference) -> tuple[Record, DiskMetadata]:
        suffix = "-at" if file.at else ""
        stat = self._call(f"stat{suffix}", file.descriptor, *file.at)
        identity = self._call(f"metadata-hash{suffix}", file.descriptor, *file.at).lower
        modified_ns = _nanoseconds(_field(stat, "data-modification-timestamp"))
        return stat, DiskMetadata(identity, _field(stat, "link-count"), modified_ns)

    def _disk_metadata(self, file: _FileReference) -> DiskMetadata:
        return self._status(file)[1]

    def _stamp(self, file: _FileReference, time_ns: int) -> None:
        time = Variant("timestamp", datetime_record(time_ns))
        self._set_times_on_disk(file, Variant("no-change"), time)

    def _status_and_entry(self, file: _FileReference) -> tuple[Record, FileMetadata]:
        stat, disk = self._status(file)
        return stat, self._look_up(file, disk)

    def _set_times_on_disk(
        self, file: _FileReference, accessed: Variant, modified: Variant
    ) -> None:
        name = "set-times-at" if file.at else "set-times"
        self._call(name, file.descriptor, *file.at, accessed, modified)

    def _remove(self, name: str, descriptor: ResourceAny, path: str) -> None:
        status = None
        with contextlib.suppress(WasiError):
            status = self._status(_FileReference(descriptor, (set(), path)))
        self._call(name, descriptor, path)
        if status is not None:
            self._metadata.remove(status[1], is_directory=_is_directory(status[0]))


def _is_directory(stat: Record) -> bool:
    return bool(_field(stat, "type") == "directory")


def _is_short(arg: object) -> bool:
    return not isinstance(arg, str) or len(arg.encode()) <= _MAX_PATH_BYTES


def _field(record: Record, name: str) -> Any:
    return getattr(record, name)


def _nanoseconds(datetime: Any) -> int:
    return 0 if datetime is None else int(datetime.seconds * _BILLION + datetime.nanoseconds)


def _given_ns(timestamp: Variant) -> int | None:
    return None if timestamp.tag == "no-change" else _nanoseconds(timestamp.payload)
