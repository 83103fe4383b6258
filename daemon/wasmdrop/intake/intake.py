"""Turns noticed paths into drops: decides which files are new, complete and to be run.

Thread-safe. One thread at a time looks at a path. Drops of one slot are emitted in the order in
which their versions were read.
"""

import contextlib
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

import msgspec
import structlog

from wasmdrop.intake.backlog import Backlog
from wasmdrop.intake.cancel_files import CancelFiles
from wasmdrop.intake.drops import DoneInput, Drop, InputDrop, ModuleDrop
from wasmdrop.intake.file_versions import (
    digest_of,
    is_same_version,
    is_unreadable,
    mtime_ns_of,
    pack,
    pack_unreadable,
)
from wasmdrop.intake.finished_slots import is_done
from wasmdrop.intake.gone_files import GoneFiles
from wasmdrop.intake.input_memory import InputMemory, InputMemoryFullError
from wasmdrop.intake.input_reader import InputReader
from wasmdrop.intake.layout import Layout
from wasmdrop.intake.taken_versions import JournalUnreadableError, TakenVersions
from wasmdrop.intake.untrusted_files import ChangedWhileReadError, open_file
from wasmdrop.intake.write_detection import UnclosedFile, WriteDetector
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import FileVersion, PinnedModule, Slot, top_directory
from wasmdrop.settings import Settings
from wasmdrop.system import openat2
from wasmdrop.system.byte_budget import Reservation
from wasmdrop.system.openat2 import Links

_log = structlog.get_logger()


class Intake:
    """Considers noticed paths, and remembers which versions of files were taken.

    ``taken`` are the versions that the journal has. ``known_module`` returns the module of a slot,
    by the input's reference to it, if it was read before. ``emit`` is called with each drop.
    ``recheck(path, seconds)`` has a path considered again later. ``unclosed`` and ``is_polling``:
    see :class:`WriteDetector`. ``on_refused(path, reason)`` is called with cancel files that do not
    count.
    """

    def __init__(
        self,
        settings: Settings,
        layout: Layout,
        taken: TakenVersions,
        backlog: Backlog,
        known_module: Callable[[Slot, str | None], PinnedModule | None],
        emit: Callable[[Drop], None] = lambda _drop: None,
        recheck: Callable[[str, float], None] = lambda _path, _seconds: None,
        unclosed: Callable[[str], UnclosedFile | None] = lambda _path: None,
        is_polling: Callable[[], bool] = lambda: False,
        on_refused: Callable[[str, str], None] = lambda _path, _reason: None,
    ) -> None:
        self._settle_seconds = settings.settle_sec
        self._layout = layout
        self._taken = taken
        self._write_detector = WriteDetector(
            settings.settle_sec, settings.rescan_sec, unclosed, recheck, is_polling
        )
        self._reader = InputReader(layout, settings.max_input_mb * MEBIBYTE)
        self.trusts_markers = False
        """Whether an input that was never taken may be done: the journal was lost."""
        self._backlog = backlog
        self._memory = InputMemory(recheck, layout.shared_dir)
        self._device = openat2.status(layout.shared_dir, "").st_dev
        self._emit = emit
        self._recheck = recheck
        self._known_module = known_module
        self._on_refused = on_refused
        self._considered: dict[str, bool] = {}
        """Paths under consideration, and whether each was noticed again meanwhile."""
        self._lock = threading.Lock()
        self._cancel_files = CancelFiles(layout, taken)
        self.gone_files = GoneFiles(
            *(layout, taken, self._considered, self._lock, emit, recheck), settings.settle_sec
        )

    def consider(self, path: str) -> bool:
        """Look at a noticed path and take it if it is a drop.

        Return whether it is the path of an input, a module or a cancel file.
        """
        layout = self._layout
        slot = layout.slot_of(layout.input_announced_by(path) or path)
        if slot is not None:
            path = slot.input_path
        elif not layout.is_module(path) and layout.slot_cancelled_by(path) is None:
            return False
        # One thread at a time looks at a path, and looks again if others noticed it meanwhile. No
        # lock is held during I/O: a file on a mount that hangs blocks only itself.
        with self._lock:
            if path in self._considered:
                self._considered[path] = True
                return True
            self._considered[path] = False
        while True:
            try:
                self._look(path, slot)
            except BaseException:
                with self._lock:
                    del self._considered[path]
                raise
            with self._lock:
                if not self._considered.pop(path):
                    return True
                self._considered[path] = False

    def _look(self, path: str, slot: Slot | None) -> None:
        layout = self._layout
        try:
            if slot is not None and layout.announces_inputs:
                if not layout.is_ready(slot):
                    return
            elif self._write_detector.will_close(path, layout.rooted(path)):
                return
            self._take(path, slot)
        except (FileNotFoundError, NotADirectoryError):
            self._write_detector.forget(path)  # gone before it was read: no drop
        except ChangedWhileReadError:
            self._recheck(path, self._settle_seconds)
        except JournalUnreadableError:
            return  # the daemon is about to end, and the next one finds the file
        except InputMemoryFullError as error:
            error.await_room(path)
        except OSError as error:
            # The next scan tries again.
            _log.warning("drop-unreadable", path=path, error=str(error))

    def _take(self, path: str, slot: Slot | None) -> None:
        if slot is not None:
            self._consider_input(slot)
        elif (cancelled := self._layout.slot_cancelled_by(path)) is not None:
            self._consider_cancel_file(path, cancelled)
        else:
            self._consider_module(path)

    def close(self) -> None:
        """Close the journal, which is then complete in one file."""
        self._taken.close()

    def has_taken_nothing(self) -> bool:
        """Return whether no drop was ever taken: a first start, or the journal was lost."""
        return self._taken.is_empty()

    def new_among(self, found: Sequence[tuple[str, os.stat_result]]) -> list[str]:
        """Return the paths of those files of which this version was not taken.

        A scan then opens no other files.
        """
        try:
            taken = self._taken.get_all([path for path, _status in found])
        except JournalUnreadableError:
            return []
        return [path for path, status in found if not is_same_version(taken.get(path, b""), status)]

    def is_unreadable(self, path: str) -> bool:
        """Return whether the file at ``path`` could not be read when it was last considered."""
        try:
            return is_unreadable(self._taken.get(path) or b"")
        except JournalUnreadableError:
            return False

    def hold(self, path: str) -> bool:
        """Keep all threads from looking at an input until :meth:`release`.

        Return False, and hold nothing, if a thread looks at it now.
        """
        with self._lock:
            if path in self._considered:
                return False
            self._considered[path] = False
            return True

    def taken_version(self, path: str) -> bytes | None:
        """Return the version that was taken of a file, if one was."""
        return self._taken.get(path)

    def taken_pages(self) -> Iterator[list[tuple[str, bytes]]]:
        """Yield all paths with the versions that were taken, some hundred at a time."""
        return self._taken.pages()

    def release(self, path: str, *, is_gone: bool) -> None:
        """End a hold. If the file ``is_gone``, its version is forgotten."""
        with self._lock:
            if is_gone:
                self._taken.put(path, None)
            was_noticed = self._considered.pop(path)
        if was_noticed:
            self._recheck(path, 0.0)

    def read_now(self, slot: Slot) -> InputDrop | None:
        """Read a slot's input, whatever was taken before; return None if there is none."""
        try:
            return self._reader.describe_unread(self._reader.read(slot))
        except (FileNotFoundError, NotADirectoryError, ChangedWhileReadError):
            return None

    def read_again(self, slot: Slot) -> InputDrop | None:
        """Read the input that a slot took last, for another run.

        Return None if there is none, or if it changed since: then it is a drop of its own, which
        may not be complete yet.
        """
        found = self.read_now(slot)
        with self._lock:  # so that the drop of a version that is being taken is emitted before
            taken = self._taken.get(slot.input_path)
        return None if found is None or taken != found.taken else found

    def is_module_written(self, path: str, version: FileVersion, recent_seconds: float) -> bool:
        """Return whether a process has, or may have, that version of a module open for writing.

        Without events it may if the module changed recently. May hang on the module's mount.
        """
        file = self._layout.rooted(path)
        return self._write_detector.may_have_writer(path, file, version.mtime_ns, recent_seconds)

    def _consider_input(self, slot: Slot) -> None:
        with contextlib.ExitStack() as stack:
            reserved: list[Reservation] = []

            def admit(status: os.stat_result) -> None:
                is_other_mount = status.st_dev != self._device
                memory = self._memory.reserve(status.st_size, is_other_mount=is_other_mount)
                reserved.append(memory)
                stack.callback(memory.release)

            drop = self._new_drop(slot, admit)
            if drop is None or not self._backlog.take(top_directory(slot.key)):
                return
            memory = reserved[0] if reserved else None
            drop = msgspec.structs.replace(drop, module=self._module_of(drop), memory=memory)
            with self._lock:
                self._taken.put(slot.input_path, drop.taken)
                self._emit(drop)
            stack.pop_all()  # the receiver of the drop releases its memory

    def _new_drop(self, slot: Slot, admit: Callable[[os.stat_result], None]) -> InputDrop | None:
        """Read a slot's input; return it if it is new, complete and not done."""
        path = slot.input_path
        known = self._taken.get(path) or b""
        drop = self._reader.read(slot, admit)
        # With its digest: two writes within one tick of the kernel's clock share a version.
        if known == drop.taken:
            return None
        if drop.data and digest_of(known) == digest_of(drop.taken) and self._is_link(path):
            self._remember(path, drop.taken)  # a volume was swapped, and the content is the same
            return None
        if is_unreadable(drop.taken) and is_same_version(known, self._lstat(path)):
            return None  # it was refused before and has not changed since
        if drop.refusal is None:
            self._write_detector.forget(path)
        elif not self._write_detector.has_settled(path, self._layout.rooted(path), drop.taken):
            return None
        drop = self._reader.describe_unread(drop)
        if self.trusts_markers and not known and _is_done(drop):
            self._remember(path, drop.taken)
            return None
        return drop

    def _remember(self, path: str, taken: bytes) -> None:
        """Record a version that needs no job, here and in the journal."""
        with self._lock:
            self._taken.put(path, taken)
            self._emit(DoneInput(path, taken))

    def _module_of(self, drop: InputDrop) -> PinnedModule | None:
        if drop.spec is None:
            return None
        try:
            return self._known_module(drop.slot, drop.spec.module)
        except (RefusedError, OSError):
            return None  # the job meets the same error and reports it

    def _is_link(self, path: str) -> bool:
        """Return whether the file is behind a link, as in ConfigMap volumes."""
        return stat.S_ISLNK(self._lstat(path).st_mode)

    def _consider_module(self, path: str) -> None:
        file = self._layout.rooted(path)
        try:
            code = Code.INVALID_MODULE
            with open_file(file, sys.maxsize, code, Links.ANY) as opened:
                version = FileVersion.of(opened.status)
            taken = pack(version)
        except RefusedError:
            # Jobs that need it report the fault. Another file in its place is another drop, and
            # so is this one when it becomes readable.
            status = self._lstat(path)
            version, taken = FileVersion.of(status), pack_unreadable(status)
        with self._lock:
            if self._taken.get(path) != taken:
                self._taken.put(path, taken)
                self._emit(ModuleDrop(path, version, taken, self.trusts_markers))

    def _consider_cancel_file(self, path: str, slot: Slot) -> None:
        try:
            found = self._cancel_files.read(path, slot)
        except RefusedError as error:
            taken = pack_unreadable(self._lstat(path))
            if self._taken.get(path) != taken:
                self._remember(path, taken)
                self._on_refused(path, error.message)
            return
        if found is None:
            return
        with self._lock:
            if found.taken is not None:
                self._taken.put(path, found.taken)
            self._emit(found)

    def _lstat(self, path: str) -> os.stat_result:
        file = self._layout.rooted(path)
        return openat2.lstat(file.root, file.relative)


def _is_done(drop: InputDrop) -> bool:
    return is_done(drop.slot, drop.input, mtime_ns_of(drop.taken))
