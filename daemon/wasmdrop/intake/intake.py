"""Turns noticed paths into drops: what is new, what is complete, what it says.

Owns the memory of which versions were taken. May be called from several threads, of which one at a
time looks at a path; drops of one slot leave in the order in which their versions were read.
"""

import contextlib
import hashlib
import os
import stat
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from wasmdrop.intake.backlog import Backlog
from wasmdrop.intake.drops import DoneInput, Drop, InputDrop, ModuleDrop
from wasmdrop.intake.file_versions import (
    digest_of,
    is_odd,
    is_taken,
    mtime_ns_of,
    pack,
    pack_odd,
    with_digest,
)
from wasmdrop.intake.finished_slots import is_done
from wasmdrop.intake.input_memory import InputMemory, InputMemoryFullError
from wasmdrop.intake.layout import Layout, RootedPath
from wasmdrop.intake.taken_versions import JournalUnreadableError, TakenVersions
from wasmdrop.intake.unread_input import describe_unread
from wasmdrop.intake.untrusted_files import ChangedWhileReadError, open_regular, read_regular
from wasmdrop.intake.write_detection import UnclosedFile, WriteDetector
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.input import parse_input
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import FileVersion, InputFile, PinnedModule, Slot
from wasmdrop.settings import Settings
from wasmdrop.system import openat2
from wasmdrop.system.byte_budget import Reservation
from wasmdrop.system.mount_table import MountTable
from wasmdrop.system.openat2 import Links

__all__ = ["Intake"]

_log = structlog.get_logger()

#: Files that may be complete later; a version takes some 300 bytes.
_MOST_SUSPECTS: Final = 10_000

#: How many times as large as the largest input a file may be for its digest to be made.
_DIGESTED: Final = 4


class Intake:
    """Reads and judges what the watcher noticed.

    ``emit`` gets each drop. ``recheck`` is asked to notice a path once more after some seconds.
    ``taken`` is what the journal remembers: path to version. ``known_module`` finds the module of a
    slot, by the input's reference to it, where it was read before. ``unclosed`` and
    ``is_polling``: see :class:`WriteDetector`.
    """

    def __init__(
        self,
        settings: Settings,
        layout: Layout,
        taken: TakenVersions,
        backlog: Backlog,
        emit: Callable[[Drop], None],
        recheck: Callable[[str, float], None],
        known_module: Callable[[Slot, str | None], PinnedModule | None],
        unclosed: Callable[[str], UnclosedFile | None] = lambda _path: None,
        is_polling: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settle_seconds = settings.settle_sec
        self._max_input_bytes = settings.max_input_mb * MEBIBYTE
        self._layout = layout
        self._taken = taken
        self._write_detector = WriteDetector(
            settings.settle_sec, settings.rescan_sec, unclosed, recheck, is_polling
        )
        self.trusts_markers = False
        """Whether an input that was never taken may be done: the journal was lost."""
        self._backlog = backlog
        self._memory = InputMemory(recheck, layout.shared_dir)
        self._device = openat2.status(layout.shared_dir, "").st_dev
        self._emit = emit
        self._recheck = recheck
        self._known_module = known_module
        self._suspects: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        """Versions that can't be read as an input, and since when they are the same."""
        self._noticed: dict[str, bool] = {}
        """Paths that are being looked at, and whether they were noticed again meanwhile."""
        self._awaited: set[str] = set()
        """Mounts at which :meth:`forget_gone` looks, and may hang."""
        self._lock = threading.Lock()

    def consider(self, path: str) -> bool:
        """Look at a noticed path and take it if it is a drop.

        Return whether it is the path of an input or a module.
        """
        layout = self._layout
        slot = layout.slot_of(layout.input_announced_by(path) or path)
        if slot is not None:
            path = slot.input_path
        elif not layout.is_module(path):
            return False
        # One thread at a time looks at a path, and looks again if others noticed it meanwhile. No
        # lock is held during I/O: a file on a mount that hangs holds up nothing but itself.
        with self._lock:
            if path in self._noticed:
                self._noticed[path] = True
                return True
            self._noticed[path] = False
        while True:
            try:
                self._look(path, slot)
            except BaseException:
                with self._lock:
                    del self._noticed[path]
                raise
            with self._lock:
                if not self._noticed.pop(path):
                    return True
                self._noticed[path] = False

    def _look(self, path: str, slot: Slot | None) -> None:
        layout = self._layout
        try:
            if slot is not None and layout.announces_inputs:
                if not layout.is_ready(slot):
                    return
            elif self._write_detector.will_close(path, layout.rooted(path)):
                return
            if slot is not None:
                self._consider_input(slot)
            else:
                self._consider_module(path)
        except (FileNotFoundError, NotADirectoryError):
            self._suspects.pop(path, None)  # gone before it was read: no drop
        except ChangedWhileReadError:
            self._recheck(path, self._settle_seconds)
        except JournalUnreadableError:
            return  # the next daemon finds it
        except InputMemoryFullError as error:
            error.await_room(path)
        except OSError as error:
            # The next scan looks at it again.
            _log.warning("drop-unreadable", path=path, error=str(error))

    def close(self) -> None:
        """Let go of the journal, which is then whole in one file."""
        self._taken.close()

    def has_taken_nothing(self) -> bool:
        """Whether no drop was ever taken: this is the first start, or the journal was lost."""
        return self._taken.is_empty()

    def new_among(self, found: Sequence[tuple[str, os.stat_result]]) -> list[str]:
        """Return the paths of those files of which another version was taken, or none.

        Spares a scan from opening the others.
        """
        try:
            taken = self._taken.get_all([path for path, _status in found])
        except JournalUnreadableError:
            return []  # the next daemon finds them
        return [path for path, status in found if not is_taken(taken.get(path, b""), status)]

    def is_unreadable(self, path: str) -> bool:
        """Whether the file at ``path`` could not be read when it was looked at last."""
        try:
            return is_odd(self._taken.get(path) or b"")
        except JournalUnreadableError:
            return False  # the next daemon finds it

    def forget_gone(self, on_forgotten: Callable[[str], None]) -> None:
        """Forget the versions of files that exist no more, and tell ``on_forgotten`` of each path.

        A file that seems gone together with its volume is remembered: when the volume is back,
        it would else be run again. So is whatever can't be looked at, and what is on a mount at
        which an earlier call still waits.
        """
        mounts = MountTable()
        try:
            self._forget_gone(mounts, on_forgotten)
        finally:
            mounts.close()

    def _forget_gone(self, mounts: MountTable, on_forgotten: Callable[[str], None]) -> None:
        for page in self._taken.pages():
            for path, taken in page:
                point = mounts.of(path).point
                if point in self._awaited:
                    continue
                self._awaited.add(point)
                try:
                    is_gone = self._is_gone(path, taken)
                finally:
                    self._awaited.discard(point)
                if not is_gone:
                    continue
                with self._lock:
                    # Not where it is back, and being taken, meanwhile.
                    if path not in self._noticed and self._taken.get(path) == taken:
                        self._taken.put(path, None)
                        # Within the lock: a later drop must be told of after this.
                        on_forgotten(path)

    def read_now(self, slot: Slot) -> InputDrop | None:
        """Read a slot's input, whatever was taken before; None where there is none."""
        try:
            return self._described(self._read(slot))
        except (FileNotFoundError, NotADirectoryError, ChangedWhileReadError):
            return None

    def read_again(self, slot: Slot) -> InputDrop | None:
        """Read the input that a slot took last, for another run.

        None where there is none, and where it changed since: then it is a drop of its own, which
        may not be complete yet.
        """
        found = self.read_now(slot)
        if found is None or self._taken.get(slot.input_path) != found.taken:
            return None
        return found

    def is_module_written(self, path: str, version: FileVersion, lately: float) -> bool:
        """Return whether a process has that version of a module open for writing, or may have.

        Without events it may if it changed in the last ``lately`` seconds. May hang on its mount.
        """
        place = self._layout.rooted(path)
        return self._write_detector.may_have_open(path, place, version.mtime_ns, lately)

    def _consider_input(self, slot: Slot) -> None:
        with contextlib.ExitStack() as stack:
            reserved: list[Reservation] = []

            def admit(status: os.stat_result) -> None:
                is_apart = status.st_dev != self._device
                memory = self._memory.reserve(status.st_size, is_apart=is_apart)
                reserved.append(memory)
                stack.callback(memory.release)

            drop = self._judge(slot, admit)
            if drop is None or not self._backlog.take():
                return
            memory = reserved[0] if reserved else None
            drop = msgspec.structs.replace(drop, module=self._module_of(drop), memory=memory)
            with self._lock:
                self._taken.put(slot.input_path, drop.taken)
                self._emit(drop)
            stack.pop_all()  # who takes the drop releases its memory

    def _judge(self, slot: Slot, admit: Callable[[os.stat_result], None]) -> InputDrop | None:
        """Read a slot's input and return it if it is a drop to be taken."""
        path = slot.input_path
        known = self._taken.get(path) or b""
        drop = self._read(slot, admit)
        # Not the version alone: two writes within one tick of the kernel's clock share one.
        if known == drop.taken:
            return None
        if drop.data and digest_of(known) == digest_of(drop.taken) and self._is_link(path):
            self._remember(path, drop.taken)  # a volume was swapped, and this file is what it was
            return None
        if is_odd(drop.taken) and is_taken(known, self._lstat(path)):
            return None  # it was read before, and has not changed since
        if drop.refusal is not None and not self._is_quiet(path, drop.taken):
            return None
        self._suspects.pop(path, None)
        drop = self._described(drop)
        if self.trusts_markers and not known and self._is_done(drop):
            self._remember(path, drop.taken)
            return None
        return drop

    def _remember(self, path: str, taken: bytes) -> None:
        """Note a version that needs no job, here and in the journal."""
        with self._lock:
            self._taken.put(path, taken)
            self._emit(DoneInput(path, taken))

    def _module_of(self, drop: InputDrop) -> PinnedModule | None:
        if drop.spec is None:
            return None
        try:
            return self._known_module(drop.slot, drop.spec.module)
        except (RefusedError, OSError):
            return None  # the job itself will run into it and say so

    def _read(
        self, slot: Slot, admit: Callable[[os.stat_result], None] = lambda _status: None
    ) -> InputDrop:
        path = slot.input_path
        place = self._layout.rooted(path)
        dropped_at_ns = time.time_ns()
        spec, refusal, data = None, None, b""
        try:
            read = read_regular(
                *(place.root, place.relative, self._max_input_bytes, Code.INVALID_INPUT),
                admit=admit,
            )
            data = read.data
            if slot.directory == os.path.dirname(path):  # noqa: PTH120 - may hold any bytes
                slot = msgspec.structs.replace(slot, found_in=read.found_in)
            version = pack(read.version)
            spec = parse_input(data)
        except RefusedError as error:
            refusal = error
            if not data:
                version = pack_odd(openat2.lstat(place.root, place.relative))
        sha256 = hashlib.sha256(data)
        return InputDrop(
            slot,
            dropped_at_ns,
            data,
            InputFile(path, sha256.hexdigest(), len(data)),
            spec,
            refusal,
            with_digest(version, sha256.digest()),
        )

    def _described(self, drop: InputDrop) -> InputDrop:
        """Return the drop with the truth about an input that was refused unread."""
        if drop.refusal is None or drop.data:
            return drop
        path = drop.slot.input_path
        place, max_bytes = self._layout.rooted(path), _DIGESTED * self._max_input_bytes
        described = describe_unread(path, place, max_bytes, drop.refusal.message)
        return msgspec.structs.replace(drop, input=described)

    def _is_quiet(self, path: str, taken: bytes) -> bool:
        """Whether what can't be read as an input has stayed the same for long enough."""
        now = time.monotonic()
        suspect, since = self._suspects.get(path, (b"", 0.0))
        if suspect != taken:
            self._suspects[path] = (taken, now)
            if len(self._suspects) > _MOST_SUSPECTS:
                self._suspects.popitem(last=False)  # a later look begins anew
            self._recheck(path, self._settle_seconds)
            return False
        left_seconds = since + self._settle_seconds - now
        if left_seconds > 0:
            self._recheck(path, left_seconds)
            return False
        is_long = now - since >= self._write_detector.quiet_seconds
        if not is_long and self._write_detector.has_open(path, self._layout.rooted(path)):
            self._recheck(path, self._settle_seconds)
            return False
        return True

    def _is_done(self, drop: InputDrop) -> bool:
        return is_done(drop.slot, drop.input, mtime_ns_of(drop.taken))

    def _is_link(self, path: str) -> bool:
        """Whether the file is behind a link, as in ConfigMap volumes."""
        return stat.S_ISLNK(self._lstat(path).st_mode)

    def _consider_module(self, path: str) -> None:
        place = self._layout.rooted(path)
        try:
            code = Code.INVALID_MODULE
            with open_regular(place.root, place.relative, sys.maxsize, code, Links.ANY) as file:
                version = FileVersion.of(file.status)
            taken = pack(version)
        except RefusedError:
            # Jobs that need it will say what is wrong. Another file in its place is another drop,
            # and so is this one when it can be read.
            status = self._lstat(path)
            version, taken = FileVersion.of(status), pack_odd(status)
        with self._lock:
            if self._taken.get(path) != taken:
                self._taken.put(path, taken)
                self._emit(ModuleDrop(path, version, taken, self.trusts_markers))

    def _lstat(self, path: str) -> os.stat_result:
        place = self._layout.rooted(path)
        return openat2.lstat(place.root, place.relative)

    def _is_gone(self, path: str, taken: bytes) -> bool:
        """Whether nothing is at ``path``, and the filesystem that the version was on is there."""
        place = self._layout.rooted(path)
        try:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                openat2.lstat(place.root, place.relative)
                return False
            return taken.startswith(_device_above(place).to_bytes(8, "little"))
        except OSError:
            return False


def _device_above(place: RootedPath) -> int:
    """Return the filesystem of the deepest directory on the way to a file that is there."""
    relative = place.relative
    while relative:
        relative = relative.rpartition("/")[0]
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return openat2.status(place.root, relative, Links.NONE).st_dev
    raise FileNotFoundError  # not even the watched directory is
