"""Deterministic file functions of WASI 0.2, for components.

Does the same as :mod:`.wasi_preview1` does for modules, with the relay of
:mod:`.wasi_preview2_relay`. ``rename-at`` is not replaced: it borrows two descriptors, and wasmtime
50 fails if a component passes two borrows to a Python function. So if the disk reuses numbers, a
new file may get the number of a file that another was renamed over.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from wasmtime import Store, component
from wasmtime.component import Record, ResourceAny, ResourceHost, ResourceType, Variant

from wasmdrop.sandbox.guest.deterministic.file_metadata import (
    DiskMetadata,
    FileMetadata,
    FileMetadataTable,
)
from wasmdrop.sandbox.guest.deterministic.wasi_preview2_relay import INTERFACE, METHODS

__all__ = ["Preview2Files"]

#: An arbitrary type number, unique among the host's resources.
_STREAM: Final = 1

#: The longest path that is passed on: longer than any that Linux accepts.
_MAX_PATH_BYTES: Final = 1 << 16

#: While the relay runs.
_PLENTY_OF_FUEL: Final = 1 << 62
_BILLION: Final = 1_000_000_000


class _FileReference(NamedTuple):
    """A file as named by a call: a descriptor, or a path below it."""

    descriptor: ResourceAny
    at: tuple[Any, ...] = ()
    """Flags and path."""


class Preview2Files:
    """The file functions of one job's component; ``now_ns`` is that of its clock."""

    def __init__(
        self, relay: component.Component, linker: component.Linker, now_ns: Callable[[], int]
    ) -> None:
        """Replace file functions in ``linker``, which must allow shadowing."""
        self._relay = relay
        self._engine = linker.engine
        self._now_ns = now_ns
        self._listings: dict[int, list[Record]] = {}
        """The remaining entries of each directory stream, in reverse order."""
        self._listed = 0
        with linker.root() as root, root.add_instance(INTERFACE) as instance:
            instance.add_resource("directory-entry-stream", ResourceType.host(_STREAM), self._close)
            for name, method in METHODS.items():
                function = getattr(self, f"_{name.removesuffix('-at').replace('-', '_')}")
                # A borrow of our own resource ends in to_host.
                run = self._without_fuel(function, lends=method.resource == "descriptor")
                instance.add_func(f"[method]{method.resource}.{name}", run)

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

    def begin(self) -> None:
        """Start the job's metadata; must come before the job's files are written."""
        self._metadata = FileMetadataTable(self._now_ns)

    def _without_fuel(self, function: Callable[..., Any], *, lends: bool) -> Callable[..., Any]:
        def run(_context: object, *args: Any) -> Any:
            fuel = self._store.get_fuel()
            self._store.set_fuel(_PLENTY_OF_FUEL)
            try:
                result = function(*args) if all(map(_is_short, args)) else "name-too-long"
                if lends:
                    for arg in args:
                        if isinstance(arg, ResourceAny):
                            arg.drop(self._store)  # ends the borrow
            finally:
                self._store.set_fuel(fuel)
            return result

        return run

    # The replacing functions return an error as its name.

    def _stat(self, descriptor: ResourceAny, *at: Any) -> Record | str:
        file = _FileReference(descriptor, at)
        found = self._look(file)
        if isinstance(found, str):
            return found
        stat, entry = found
        modified = _datetime(entry.modified_ns)
        setattr(stat, "data-access-timestamp", _datetime(entry.accessed_ns))
        setattr(stat, "data-modification-timestamp", modified)
        setattr(stat, "status-change-timestamp", modified)
        if _is_directory(stat):
            setattr(stat, "link-count", 1)
            setattr(stat, "size", 0)  # noqa: B010 - a record has no attributes of its own
        return stat

    def _metadata_hash(self, descriptor: ResourceAny, *at: Any) -> Record | str:
        found = self._look(_FileReference(descriptor, at))
        if isinstance(found, str):
            return found
        return _record(lower=found[1].number, upper=0)

    def _set_times(self, descriptor: ResourceAny, *args: Any) -> str | None:
        *at, accessed, modified = args
        file = _FileReference(descriptor, tuple(at))
        self._look(file)  # so that a time that is not set stays as it was
        if "now" in {accessed.tag, modified.tag}:
            now = Variant("timestamp", _datetime(self._now_ns()))
            accessed, modified = (
                now if given.tag == "now" else given for given in (accessed, modified)
            )
        error = self._set_times_on_disk(file, accessed, modified)
        status = self._status(file)
        if error is None and not isinstance(status, str):
            self._metadata.set_times(
                _disk_metadata(*status), _given_ns(accessed), _given_ns(modified)
            )
        return error

    def _unlink_file(self, descriptor: ResourceAny, path: str) -> str | None:
        return self._remove("unlink-file-at", descriptor, path)

    def _remove_directory(self, descriptor: ResourceAny, path: str) -> str | None:
        return self._remove("remove-directory-at", descriptor, path)

    def _read_directory(self, descriptor: ResourceAny) -> ResourceHost | str:
        stream = self._call("read-directory", descriptor)
        if isinstance(stream, str):
            return stream
        found: list[Record] = []
        while isinstance(entry := self._call("read-directory-entry", stream), Record):
            found.append(entry)
        stream.drop(self._store)
        if isinstance(entry, str):
            return entry
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
        return self._functions[name](self._store, *args)

    def _status(self, file: _FileReference) -> tuple[Record, int] | str:
        """Return a file's status on the disk and its identity; the name of an error otherwise."""
        suffix = "-at" if file.at else ""
        stat = self._call(f"stat{suffix}", file.descriptor, *file.at)
        if isinstance(stat, str):
            return stat
        identity = self._call(f"metadata-hash{suffix}", file.descriptor, *file.at)
        return identity if isinstance(identity, str) else (stat, identity.lower)

    def _look(self, file: _FileReference) -> tuple[Record, FileMetadata] | str:
        status = self._status(file)
        if isinstance(status, str):
            return status

        def stamp(time_ns: int) -> int | None:
            time = Variant("timestamp", _datetime(time_ns))
            if self._set_times_on_disk(file, Variant("no-change"), time) is not None:
                return None
            stamped = self._status(file)
            return None if isinstance(stamped, str) else _disk_metadata(*stamped).modified_ns

        return status[0], self._metadata.look_up(_disk_metadata(*status), stamp)

    def _set_times_on_disk(
        self, file: _FileReference, accessed: Variant, modified: Variant
    ) -> str | None:
        name = "set-times-at" if file.at else "set-times"
        error: str | None = self._call(name, file.descriptor, *file.at, accessed, modified)
        return error

    def _remove(self, name: str, descriptor: ResourceAny, path: str) -> str | None:
        status = self._status(_FileReference(descriptor, (set(), path)))
        error: str | None = self._call(name, descriptor, path)
        if error is None and not isinstance(status, str):
            self._metadata.remove(_disk_metadata(*status), is_directory=_is_directory(status[0]))
        return error


def _disk_metadata(stat: Record, identity: int) -> DiskMetadata:
    modified = _field(stat, "data-modification-timestamp")
    return DiskMetadata(identity, _field(stat, "link-count"), _nanoseconds(modified))


def _is_directory(stat: Record) -> bool:
    return bool(_field(stat, "type") == "directory")


def _is_short(arg: object) -> bool:
    return not isinstance(arg, str) or len(arg.encode()) <= _MAX_PATH_BYTES


def _field(record: Record, name: str) -> Any:
    return getattr(record, name)


def _record(**fields: int) -> Record:
    record = Record()
    for name, value in fields.items():
        setattr(record, name, value)
    return record


def _datetime(time_ns: int) -> Record:
    seconds, nanoseconds = divmod(time_ns, _BILLION)
    return _record(seconds=seconds, nanoseconds=nanoseconds)


def _nanoseconds(datetime: Any) -> int:
    return 0 if datetime is None else int(datetime.seconds * _BILLION + datetime.nanoseconds)


def _given_ns(timestamp: Variant) -> int | None:
    return None if timestamp.tag == "no-change" else _nanoseconds(timestamp.payload)
