"""Turns noticed paths into drops: what is new, what is complete, what it says.

Owns the memory of which versions were taken. May be called from several threads; drops of one slot
leave in the order in which their versions were read.
"""

import errno
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from wasmdrop.errors import RefusedError
from wasmdrop.intake.markers import is_done
from wasmdrop.intake.reader import ChangedWhileReadError, read_regular
from wasmdrop.intake.spec import InputSpec, parse_input
from wasmdrop.job import FileVersion, PinnedModule, Slot
from wasmdrop.layout import Layout
from wasmdrop.limits import MEBIBYTE
from wasmdrop.outcome import Code
from wasmdrop.settings import Settings

__all__ = ["Backlog", "DoneInput", "InputDrop", "Intake", "ModuleDrop"]

_log = structlog.get_logger()

#: Bytes of the content's digest kept beside each taken version.
_DIGEST_KEPT_BYTES: Final = 8


class InputDrop(msgspec.Struct, frozen=True):
    """One version of an input file, read whole, with what it says or why it says nothing."""

    slot: Slot
    dropped_at_ns: int
    data: bytes
    sha256: str
    spec: InputSpec | None
    refusal: RefusedError | None
    taken: bytes
    """The version as the journal keeps it."""
    module: PinnedModule | None = None
    """The module that it is to run, where that is known: what is dropped later is not its."""


class ModuleDrop(msgspec.Struct, frozen=True):
    """One version of a module file; nobody has read it yet."""

    path: str
    version: FileVersion
    taken: bytes
    is_found: bool = False
    """Whether it may have been there for long, with slots that have run it: there is no journal."""


class DoneInput(msgspec.Struct, frozen=True):
    """One version of an input file whose slot holds its results: no drop, but to be remembered."""

    path: str
    taken: bytes


class Backlog:
    """How many drops were taken and are not done, against the bound."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._count = 0
        self._lock = threading.Lock()
        self._left_some = False
        self._is_paused = False

    def __len__(self) -> int:
        return self._count

    def take(self) -> bool:
        """Count one more drop; False where there is no room, so that it stays where it is."""
        with self._lock:
            if self._count >= self._bound or self._is_paused:
                self._left_some = True
                return False
            self._count += 1
            return True

    def add(self) -> None:
        """Count one more job, of which nothing is left lying anywhere, whatever the bound."""
        with self._lock:
            self._count += 1

    def pause(self) -> None:
        """Let every drop stay where it is until :meth:`resume`."""
        self._is_paused = True

    def resume(self) -> None:
        """Take drops again; whoever calls looks for those that were left."""
        self._is_paused = False

    def done(self) -> bool:
        """Count one less; True when drops were left and it is time to look for them again."""
        with self._lock:
            self._count -= 1
            # Half empty, so that the scan that follows is worth its while.
            if self._left_some and self._count <= self._bound // 2:
                self._left_some = False
                return True
            return False


class Intake:
    """Reads and judges what the watcher noticed.

    ``emit`` gets each drop. ``look_again`` is asked to notice a path once more after some seconds.
    ``taken`` is what the journal remembers: path to version. ``known_module`` finds the module of a
    slot, by the input's reference to it, where it was read before.
    """

    def __init__(
        self,
        settings: Settings,
        layout: Layout,
        taken: dict[str, bytes],
        backlog: Backlog,
        emit: Callable[[InputDrop | ModuleDrop | DoneInput], None],
        look_again: Callable[[str, float], None],
        known_module: Callable[[Slot, str | None], PinnedModule | None],
    ) -> None:
        self._settle_seconds = settings.settle_sec
        self._max_input_bytes = settings.max_input_mb * MEBIBYTE
        self._layout = layout
        self._taken = taken
        self.believes_markers = False
        """Whether an input that was never taken may be done: the journal was lost."""
        self._backlog = backlog
        self._emit = emit
        self._look_again = look_again
        self._known_module = known_module
        self._suspects: dict[str, tuple[bytes, float]] = {}
        self._lock = threading.Lock()

    def consider(self, path: str, created: bool = False) -> None:
        """Look at a noticed path and take it if it is a drop.

        ``created`` says that the file was only just made, so that somebody may still write it.
        """
        layout = self._layout
        slot = layout.slot_of(layout.input_announced_by(path) or path)
        if slot is not None:
            path = slot.input_path
            if not layout.is_ready(slot):
                return
        elif not layout.is_module(path):
            return
        with self._lock:
            try:
                if created and _may_be_open_for_writing(path):
                    # Its close will be the event. Where none comes, it was a link after all.
                    self._look_again(path, self._settle_seconds)
                elif slot is not None:
                    self._consider_input(slot)
                else:
                    self._consider_module(path)
            except FileNotFoundError:
                self._suspects.pop(path, None)  # gone before it was read: no drop
            except ChangedWhileReadError:
                self._look_again(path, self._settle_seconds)
            except OSError as error:
                _log.warning("drop-unreadable", path=path, error=str(error))
                self._look_again(path, max(1.0, self._settle_seconds))

    def has_taken_nothing(self) -> bool:
        """Whether no drop was ever taken: this is the first start, or the journal was lost."""
        return not self._taken

    def is_taken(self, path: str, status: os.stat_result) -> bool:
        """Whether this very version was taken before: spares a scan from opening the file."""
        taken = self._taken.get(path)
        return taken is not None and taken.startswith(_pack(FileVersion.of(status)))

    def forget_gone(self, on_forgotten: Callable[[str], None]) -> None:
        """Forget the versions of files that exist no more, and tell ``on_forgotten`` of each path.

        A file that seems gone together with its volume is remembered: when the volume is back,
        it would else be run again. So is whatever can't be looked at.
        """
        with self._lock:
            paths = list(self._taken)
        for path in paths:
            if not os.path.lexists(path):
                with self._lock:
                    taken = self._taken.get(path)
                    if taken is not None and _is_gone(path, taken):
                        del self._taken[path]
                        # Within the lock: who hears of a later drop must hear of this before.
                        on_forgotten(path)

    def read_now(self, slot: Slot) -> InputDrop | None:
        """Read a slot's input, whatever was taken before; None where there is none."""
        with self._lock:
            try:
                return self._read(slot)
            except (FileNotFoundError, ChangedWhileReadError):
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

    def _consider_input(self, slot: Slot) -> None:
        path = slot.input_path
        known = self._taken.get(path, b"")
        drop = self._read(slot)
        # Not the version alone: two writes within one tick of the kernel's clock share one.
        if known == drop.taken:
            return
        if drop.data and _digest(known) == _digest(drop.taken) and self._is_behind_link(path):
            self._taken[path] = drop.taken  # a volume was swapped, and this file is what it was
            return
        if drop.refusal is not None and not self._is_quiet(path, drop.taken):
            return
        self._suspects.pop(path, None)
        if self.believes_markers and not known and self._is_done(drop):
            self._taken[path] = drop.taken
            self._emit(DoneInput(path, drop.taken))
            return
        if self._backlog.take():
            self._taken[path] = drop.taken
            self._emit(msgspec.structs.replace(drop, module=self._module_of(drop)))

    def _module_of(self, drop: InputDrop) -> PinnedModule | None:
        if drop.spec is None:
            return None
        try:
            return self._known_module(drop.slot, drop.spec.module)
        except (RefusedError, OSError):
            return None  # the job itself will run into it and say so

    def _read(self, slot: Slot) -> InputDrop:
        path = slot.input_path
        place = self._layout.root_of(path)
        dropped_at_ns = time.time_ns()
        spec, refusal, data = None, None, b""
        try:
            read = read_regular(
                place.root, place.relative, self._max_input_bytes, Code.INVALID_INPUT
            )
            data = read.data
            version = _pack(read.version)
            spec = parse_input(data)
        except RefusedError as error:
            refusal = error
            if not data:
                version = _pack_odd(os.lstat(path))
        sha256 = hashlib.sha256(data)
        return InputDrop(
            slot,
            dropped_at_ns,
            data,
            sha256.hexdigest(),
            spec,
            refusal,
            version + sha256.digest()[:_DIGEST_KEPT_BYTES],
        )

    def _is_quiet(self, path: str, taken: bytes) -> bool:
        """Whether what can't be read as an input has stayed the same for long enough."""
        now = time.monotonic()
        suspect, since = self._suspects.get(path, (b"", 0.0))
        if suspect != taken:
            self._suspects[path] = (taken, now)
            self._look_again(path, self._settle_seconds)
            return False
        left_seconds = since + self._settle_seconds - now
        if left_seconds > 0:
            self._look_again(path, left_seconds)
            return False
        return True

    def _is_done(self, drop: InputDrop) -> bool:
        try:
            written_ns = os.stat(drop.slot.input_path).st_mtime_ns  # noqa: PTH116 - may hold any bytes
        except OSError:
            return False  # it goes on as any other drop does
        return is_done(drop.slot, drop.sha256, written_ns)

    def _is_behind_link(self, path: str) -> bool:
        """Whether a link below the watched directory leads to the file, as in ConfigMap volumes."""
        place = self._layout.root_of(path)
        root = os.path.realpath(place.root)
        return os.path.realpath(path) != os.path.join(root, place.relative)  # noqa: PTH118

    def _consider_module(self, path: str) -> None:
        try:
            version = FileVersion.of(os.stat(path))  # noqa: PTH116 - may hold any bytes
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return  # links in a circle: no file that could have a version
        taken = _pack(version)
        if self._taken.get(path) != taken:
            self._taken[path] = taken
            self._emit(ModuleDrop(path, version, taken, self.believes_markers))


def _pack(version: FileVersion) -> bytes:
    """Return the version in 32 bytes: a hundred thousand of them are kept in memory."""
    return b"".join(
        (number & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")
        for number in (version.device, version.inode, version.size_bytes, version.mtime_ns)
    )


def _pack_odd(status: os.stat_result) -> bytes:
    """Return the version of what is no readable file: its sizes and times mean nothing."""
    if stat.S_ISREG(status.st_mode):
        return _pack(FileVersion.of(status))
    kind = stat.S_IFMT(status.st_mode)
    # A link can't change, but its inode's number may serve another one a moment later.
    changed_ns = status.st_ctime_ns if stat.S_ISLNK(status.st_mode) else 0
    return _pack(FileVersion(status.st_dev, status.st_ino, kind, changed_ns))


def _is_gone(path: str, taken: bytes) -> bool:
    """Whether nothing is at ``path``, and the filesystem that the version was on is there."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError:
        return False
    else:
        return False
    directory = os.path.dirname(path)  # noqa: PTH120 - may hold any bytes
    while not os.path.isdir(directory):  # noqa: PTH112
        directory = os.path.dirname(directory)  # noqa: PTH120
    device = os.stat(directory).st_dev  # noqa: PTH116
    return taken.startswith(device.to_bytes(8, "little"))


def _digest(taken: bytes) -> bytes:
    return taken[-_DIGEST_KEPT_BYTES:]


def _may_be_open_for_writing(path: str) -> bool:
    status = os.lstat(path)
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1
