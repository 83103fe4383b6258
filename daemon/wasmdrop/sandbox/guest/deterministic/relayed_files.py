"""The common part of the deterministic file functions of both WASI versions."""

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from wasmtime import Store

from wasmdrop.sandbox.guest.deterministic.file_metadata import (
    DiskMetadata,
    FileMetadata,
    FileMetadataTable,
)

#: While the relay runs.
_PLENTY_OF_FUEL: Final = 1 << 62

_File = TypeVar("_File")


class WasiError(Exception):
    """A function of wasmtime's failed; ``error`` is WASI's number or name of the error."""

    def __init__(self, error: Any) -> None:
        super().__init__(error)
        self.error = error


class RelayedFiles(Generic[_File]):
    """The file functions of one job; ``now_ns`` is that of its clock.

    A relay, a module or component of our own, calls wasmtime's functions. Its fuel is not counted.
    """

    _store: Store
    _metadata: FileMetadataTable

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns

    def begin(self) -> None:
        """Start the job's metadata; must come before the job's files are written."""
        self._metadata = FileMetadataTable(self._now_ns)

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return the function's result or WASI's error."""
        fuel = self._store.get_fuel()
        self._store.set_fuel(_PLENTY_OF_FUEL)
        try:
            return function(*args)
        except WasiError as failure:
            return failure.error
        finally:
            self._store.set_fuel(fuel)

    def _disk_metadata(self, file: _File) -> DiskMetadata:
        raise NotImplementedError

    def _stamp(self, file: _File, time_ns: int) -> None:
        """Set a file's modification time on the disk."""
        raise NotImplementedError

    def _look_up(self, file: _File, disk: DiskMetadata) -> FileMetadata:
        def stamp(time_ns: int) -> int | None:
            try:
                self._stamp(file, time_ns)
                return self._disk_metadata(file).modified_ns
            except WasiError:
                return None

        return self._metadata.look_up(disk, stamp)
