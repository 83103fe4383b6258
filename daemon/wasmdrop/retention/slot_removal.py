"""Remove old slots from one directory, which a hostile user may own.

A slot is removed only if its marker is a true one of the daemon, names every file by digest, and
names the input that is there, if there is one. Anyone who can write to the directory can replace
what is in it meanwhile, but not make the daemon remove a file of another directory or name.

Guarantees that at any moment, also after a power cut, the slot holds no marker or a true one. The
marker is first renamed, durably: by the new name a later sweep completes the removal. It is removed
last.
"""

import contextlib
import hashlib
import os
from typing import Final, Self

import msgspec

from wasmdrop.intake.file_versions import (
    digest_of,
    is_same_version,
    is_unreadable,
    pack,
    with_digest,
)
from wasmdrop.intake.layout import RootedPath
from wasmdrop.protocol.marker import MAX_MARKER_BYTES, Marker, parse_slot_marker
from wasmdrop.protocol.slot import (
    MARKER_SUFFIX,
    OUTPUT_SUFFIX,
    RESULT_SUFFIXES,
    FileVersion,
    Slot,
)
from wasmdrop.retention.withdrawal import REMOVING_PREFIX, FinishedInput, InputDirectory
from wasmdrop.system import openat2, renaming
from wasmdrop.system.durable_files import temporary_name
from wasmdrop.system.tree_removal import is_daemon_directory, remove_tree
from wasmdrop.system.untrusted_trees import TreeLimitError, inventory

_SECOND_NS: Final = 1_000_000_000


class OldSlot(msgspec.Struct, frozen=True):
    """A slot that may be old enough to be removed."""

    slot: Slot
    taken: bytes | None
    """The version of its input that was taken last, if that is known."""
    last_job: str | None
    """The id of its last job, if the journal has one."""


class RemovedSlot(msgspec.Struct, frozen=True):
    """A slot that was removed."""

    input_path: str
    had_input: bool


class _Removal(msgspec.Struct, frozen=True):
    """A removal that has begun: the marker has its other name."""

    old: OldSlot
    job_id: str
    files: list[str]
    """Result files to remove."""
    has_output: bool
    input: FinishedInput | None
    """The input to remove; None if there is none."""


class SlotDirectory:
    """Removes slots whose results are in one directory; a context manager. All methods block.

    ``before_ns``: slots that finished before that time are old. Raises ``OSError`` if the directory
    can't be opened, or if a link is on the way.
    """

    def __init__(
        self, directory: RootedPath, inputs: RootedPath, ready_suffix: str, before_ns: int
    ) -> None:
        self._before_ns = before_ns
        self._opened = contextlib.ExitStack()
        self._fd = openat2.open_directory(directory.root, directory.relative)
        self._opened.callback(os.close, self._fd)
        with contextlib.ExitStack() as undo:
            undo.push(self._opened)
            self._inputs = self._opened.enter_context(InputDirectory(inputs, ready_suffix))
            undo.pop_all()
        self._removals: list[_Removal] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._opened.close()

    def begin(self, old: OldSlot) -> None:
        """Begin to remove a slot if it may be removed; see :meth:`complete`. Raises ``OSError``."""
        name = old.slot.stem + MARKER_SUFFIX
        found = self._read_marker(name, old)
        if found is None:
            return
        marker, status = found
        is_last = old.last_job in {None, marker.job}
        is_old = (
            max(status.st_mtime_ns, status.st_ctime_ns) < self._before_ns
            and marker.finished_at.timestamp() * _SECOND_NS < self._before_ns
        )
        if not is_last or not is_old:
            return
        may_go, finished_input = self._input_of(old, marker)
        if not may_go or not self._is_true(old.slot.stem, marker):
            return
        hidden = REMOVING_PREFIX + name
        os.rename(name, hidden, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        moved = os.stat(hidden, dir_fd=self._fd, follow_symlinks=False)
        if FileVersion.of(moved) != FileVersion.of(status):
            with contextlib.suppress(FileExistsError):
                renaming.rename_to_new(hidden, self._fd, name, self._fd)
            return
        self._removals.append(self._removal(old, marker, finished_input))

    def resume(self, old: OldSlot) -> None:
        """Resume a removal that an earlier daemon did not complete. Raises ``OSError``."""
        hidden = REMOVING_PREFIX + old.slot.stem + MARKER_SUFFIX
        found = self._read_marker(hidden, old)
        if found is None:
            return
        marker, _status = found
        self._recover_input(old, marker)
        if self._exists(old.slot.stem + MARKER_SUFFIX) or old.last_job not in {None, marker.job}:
            # A later job has replaced all result files.
            os.unlink(hidden, dir_fd=self._fd)
            return
        _may_go, finished_input = self._input_of(old, marker)
        self._removals.append(self._removal(old, marker, finished_input))

    def complete(self) -> tuple[list[RemovedSlot], OSError | None]:
        """Complete the removals, durably; return them, and the first error.

        A slot that can't be removed does not keep the others. Raises ``OSError`` if a sync fails.
        """
        if not self._removals:
            return [], None
        os.fsync(self._fd)  # no marker is back after a power cut
        removed: dict[str, RemovedSlot] = {}
        """By the name of the hidden marker."""
        first: OSError | None = None
        for one in self._removals:
            try:
                had_input = self._empty(one)
            except OSError as error:
                first = first or error
                continue
            name = REMOVING_PREFIX + one.old.slot.stem + MARKER_SUFFIX
            removed[name] = RemovedSlot(one.old.slot.input_path, had_input)
        self._inputs.sync()
        os.fsync(self._fd)
        for name in removed:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._fd)
        return list(removed.values()), first

    def _empty(self, one: _Removal) -> bool:
        """Remove results and input; return whether there was an input."""
        for name in one.files:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._fd)
        if one.has_output:
            # A daemon that dies meanwhile leaves a temporary name, which the next one removes.
            away = temporary_name()
            name = one.old.slot.stem + OUTPUT_SUFFIX
            os.rename(name, away, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            remove_tree(self._fd, away, only_own=True)
        self._inputs.remove_cancel_file(one.old.slot.input_path, self._before_ns)
        return one.input is not None and self._inputs.withdraw(one.input)

    def _removal(
        self, old: OldSlot, marker: Marker, finished_input: FinishedInput | None
    ) -> _Removal:
        stem = old.slot.stem
        results = [stem + suffix for suffix in RESULT_SUFFIXES if stem + suffix in marker.files]
        files = [name for name in results if self._is_file(name, marker)]
        has_output = self._has_output(stem, marker)
        return _Removal(old, marker.job, files, has_output, finished_input)

    def _recover_input(self, old: OldSlot, marker: Marker) -> None:
        path, claimed = old.slot.input_path, marker.input
        status = self._inputs.removing_status(path)
        if status is None or claimed is None or claimed.sha256 is None:
            return
        version = with_digest(pack(FileVersion.of(status)), bytes.fromhex(claimed.sha256))
        one = FinishedInput(path, marker.job, old.taken or version, None)
        self._inputs.recover(one, archives=False)

    def _read_marker(self, name: str, old: OldSlot) -> tuple[Marker, os.stat_result] | None:
        """Return a marker of the daemon for this slot, with its status; None if it is no such."""
        try:
            fd, status = openat2.open_regular_at(self._fd, name)
        except OSError:
            return None
        with os.fdopen(fd, "rb") as file:
            if status.st_uid != os.geteuid() or status.st_size > MAX_MARKER_BYTES:
                return None
            marker = parse_slot_marker(file.read(MAX_MARKER_BYTES), old.slot.stem)
        return None if marker is None or marker.slot != old.slot.key else (marker, status)

    def _input_of(self, old: OldSlot, marker: Marker) -> tuple[bool, FinishedInput | None]:
        """Return whether the slot may go, and the input to remove, if there is one."""
        path, claimed = old.slot.input_path, marker.input
        status = self._inputs.status(path)
        if status is None:
            return True, None
        sha256 = claimed.sha256 if claimed is not None else None
        if sha256 is None:
            return False, None
        version = with_digest(pack(FileVersion.of(status)), bytes.fromhex(sha256))
        # One that was not taken is an unread drop, whatever a marker says: another user can rename
        # an output of their own program to the name of a marker. If the journal was lost, intake
        # takes the inputs of true markers again.
        is_same = (
            old.taken is not None
            and not is_unreadable(old.taken)
            and is_same_version(old.taken, status)
            and digest_of(old.taken) == digest_of(version)
            and self._inputs.has_content(path, version)
        )
        if not is_same:
            return False, None
        self._inputs.require_removable(status)
        return True, FinishedInput(path, marker.job, version, None)

    def _is_true(self, stem: str, marker: Marker) -> bool:
        """Whether all files that the marker names are there and the daemon's, and no others."""
        output = stem + OUTPUT_SUFFIX + "/"
        results = {stem + suffix for suffix in RESULT_SUFFIXES}
        if not all(name in results or name.startswith(output) for name in marker.files):
            return False  # of a later version
        files = [name for name in marker.files if name in results]
        has_output = marker.output is not None or len(files) < len(marker.files)
        return all(self._is_file(name, marker) for name in files) and (
            not has_output or self._has_output(stem, marker)
        )

    def _is_file(self, name: str, marker: Marker) -> bool:
        """Whether a result file is there, the daemon's, and as the marker says."""
        claimed = marker.files[name]
        try:
            fd, status = openat2.open_regular_at(self._fd, name)
        except OSError:
            return False
        with os.fdopen(fd, "rb") as file:
            if status.st_uid != os.geteuid() or status.st_size != claimed.bytes:
                return False
            return hashlib.file_digest(file, "sha256").hexdigest() == claimed.sha256

    def _has_output(self, stem: str, marker: Marker) -> bool:
        """Whether the output directory is there, the daemon's, and as the marker says."""
        name = stem + OUTPUT_SUFFIX
        prefix = name + "/"
        claimed = {
            (file.removeprefix(prefix), entry.sha256, entry.bytes)
            for file, entry in marker.files.items()
            if file.startswith(prefix)
        }
        if not claimed and marker.output is None:
            return False
        try:
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            if not is_daemon_directory(status):
                return False
            size_bytes = sum(size for _path, _sha256, size in claimed)
            found = inventory(f"/proc/self/fd/{self._fd}/{name}", size_bytes)
        except (OSError, TreeLimitError):
            return False
        files = {(file.path, file.sha256, file.size_bytes) for file in found.files}
        return files == claimed and not found.left_out

    def _exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True
