"""Check that the mounts support delivery and watching, with a file that daemons ignore.

The file's name begins with a dot, like the daemon's temporary files, so that running daemons and
producers ignore it.
"""

import contextlib
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Final, Self

from wasmdrop.intake.layout import RootedPath
from wasmdrop.intake.tree_walk import walk
from wasmdrop.intake.watchdog_adapter import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchDescriptor,
)
from wasmdrop.intake.watcher import why_unwatched
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.service.doctor.finding import Finding, ok, problem, warning
from wasmdrop.settings import Settings, WatchMode
from wasmdrop.system.durable_files import temporary_name, write_durably
from wasmdrop.system.mount_table import reason_to_poll
from wasmdrop.system.private_files import RUN_AS_OWNER, describe_permissions

_AREA: Final = "mounts"

#: Timeout of an event, in seconds; it takes less than a millisecond on an idle machine.
_EVENT_SECONDS: Final = 2.0

#: Free space, in bytes, below which there may be no room for the next results or journal entries.
_LITTLE_BYTES: Final = 64 * MEBIBYTE
_SCARCE_BYTES: Final = 512 * MEBIBYTE

#: Linux's default (inotify(7)); a burst of drops that exceeds the queue causes a full scan.
_QUEUED_EVENTS: Final = 16_384

_INOTIFY: Final = Path("/proc/sys/fs/inotify")


def examine(settings: Settings) -> list[Finding]:
    """Check the shared and the wasm directory, and inotify's limits."""
    findings = []
    shared, wasm = settings.shared_dir, settings.wasm_dir
    for name, path in (("shared", shared), ("wasm", wasm)):
        presence = _presence(name, path)
        findings.append(presence)
        if presence.advice:
            continue
        is_writable = os.access(path, os.W_OK | os.X_OK)
        if name == "shared" or is_writable:
            findings += _writing(settings, name, path)
        else:
            findings.append(_silence(settings, name, path))
        if name == "shared":
            findings.append(free_space(_AREA, "shared directory", path))
    if settings.watch is not WatchMode.POLL:
        findings += _limits(settings)
    return findings


def free_space(area: str, what: str, path: Path) -> Finding:
    """Check the free space for the files that the daemon writes below ``path``."""
    check = f"{what}: free space"
    status = os.statvfs(path)
    free_bytes = shutil.disk_usage(path).free
    found = f"{free_bytes // MEBIBYTE} MiB free on {path}"
    advice = "make room, or mount a larger volume there"
    if status.f_files and not status.f_favail:
        return problem(area, check, f"no more files can be made on {path}", advice)
    if free_bytes < _LITTLE_BYTES:
        return problem(area, check, found, advice)
    if free_bytes < _SCARCE_BYTES:
        return warning(area, check, found, advice)
    return ok(area, check, found)


def _presence(name: str, path: Path) -> Finding:
    check = f"{name} directory"
    variable = f"WASMDROP_{name.upper()}_DIR"
    try:
        is_there = path.is_dir()
    except OSError as error:
        found = f"user {os.geteuid()} can't look at {path}: {error.strerror}"
        return problem(_AREA, check, found, "let that user enter the directories above it")
    if not is_there:
        return problem(
            _AREA, check, f"{path} is not there", f"make it, mount it, or set {variable}"
        )
    advice = f"chown or chmod it (fsGroup in Kubernetes), {RUN_AS_OWNER}, or set {variable}"
    if not os.access(path, os.R_OK | os.X_OK):
        found = f"{path} can't be read: {describe_permissions(path.stat())}"
        return problem(_AREA, check, found, advice)
    if name == "shared" and _is_read_only(path):
        advice = "results go there: mount it read-write (without :ro or readOnly)"
        return problem(_AREA, check, f"{path} is mounted read-only", advice)
    if name == "shared" and not os.access(path, os.W_OK | os.X_OK):
        found = f"{path} can't be written to: {describe_permissions(path.stat())}"
        return problem(_AREA, check, found, advice)
    rights = "readable and writable" if os.access(path, os.W_OK) else "readable, not writable"
    return ok(_AREA, check, f"{path}, {rights}")


def _is_read_only(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _silence(settings: Settings, name: str, path: Path) -> Finding:
    """Judge events by the filesystem type, because the directory is read-only."""
    reason = reason_to_poll(str(path))
    if reason is not None and settings.watch is not WatchMode.POLL:
        return _no_events(settings, f"{name} directory: events", reason)
    return ok(_AREA, f"{name} directory: events", "its kind of filesystem raises them; not tried")


def _writing(settings: Settings, name: str, path: Path) -> list[Finding]:
    """Deliver a file as results are, and wait for its event."""
    check = f"{name} directory: events"
    file = path / temporary_name()
    if settings.watch is WatchMode.POLL:
        polled = ok(_AREA, check, f"not needed: polled every {settings.poll_sec:g} s")
        return [_delivery(name, file), polled]
    try:
        with _Listener(file) as listener:
            delivered = _delivery(name, file)
            is_heard = bool(delivered.advice) or listener.heard.wait(_EVENT_SECONDS)
    except OSError as error:
        return [_delivery(name, file), _unwatched(settings, check, path, error)]
    if not is_heard:
        return [delivered, _deaf(check)]
    reason = reason_to_poll(str(path))
    if reason is not None:
        return [delivered, _no_events(settings, check, reason)]
    if delivered.advice:
        return [delivered]
    return [delivered, ok(_AREA, check, "renaming a file into place raises one")]


def _delivery(name: str, file: Path) -> Finding:
    """Write and replace a file as results are; leave nothing."""
    check = f"{name} directory: durable rename"
    started = time.perf_counter()
    try:
        for content in (b"old", b"new"):
            with write_durably(file) as opened:
                opened.write(content)
        seconds = time.perf_counter() - started
        is_replaced = file.read_bytes() == b"new"
    except OSError as error:
        return problem(
            _AREA,
            check,
            f"writing, syncing or renaming in {file.parent} failed: {error.strerror or error}",
            "use a filesystem that honours rename and fsync, with room on it",
        )
    finally:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
    if not is_replaced:
        advice = "use a filesystem that honours rename"
        return problem(_AREA, check, "a file that was replaced is still the old one", advice)
    return ok(_AREA, check, f"write, sync, rename and sync again take {seconds * 500:.1f} ms")


def _unwatched(settings: Settings, check: str, path: Path, error: OSError) -> Finding:
    found = (
        f"{path} is polled every {settings.poll_sec:g} s while it can't be watched:"
        f" {why_unwatched(error)}"
    )
    advice = "change that, or set WASMDROP_WATCH=poll if polling is good enough"
    return warning(_AREA, check, found, advice)


def _deaf(check: str) -> Finding:
    return problem(
        _AREA,
        check,
        f"no event came within {_EVENT_SECONDS:g} s of a rename into place",
        "set WASMDROP_WATCH=poll: drops are then found every WASMDROP_POLL_SEC",
    )


def _no_events(settings: Settings, check: str, reason: str) -> Finding:
    if settings.watch is WatchMode.AUTO:
        found = f"{reason}: it is polled every {settings.poll_sec:g} s"
        advice = "drops are noticed later; use a local filesystem if that matters"
        return warning(_AREA, check, found, advice)
    advice = "set WASMDROP_WATCH to auto or poll, or use a local filesystem"
    return problem(_AREA, check, reason, advice)


class _Listener:
    """Waits for the event of one file as the watcher does (a ``WatchCallback`` of watchdog)."""

    def __init__(self, file: Path) -> None:
        self.heard = threading.Event()
        self._file = file
        self._inotify = InotifyFD()

    def __enter__(self) -> Self:
        self._inotify.start()
        mask = Mask(InotifyConstants.IN_MOVED_TO | InotifyConstants.IN_ONLYDIR)
        directory = os.fsencode(self._file.parent)
        try:
            self._inotify.add_callback(directory, mask, self, CallbackId(0))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self._inotify.stop()
        self._inotify.join()

    def on_event(self, event: InotifyEvent) -> None:
        """Note the event of the file."""
        if event.name == os.fsencode(self._file.name):
            self.heard.set()

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """Ignore it."""

    def on_queue_overflow(self) -> None:
        """Ignore it."""


def _limits(settings: Settings) -> list[Finding]:
    try:
        watches = int((_INOTIFY / "max_user_watches").read_text())
        queued = int((_INOTIFY / "max_queued_events").read_text())
    except (OSError, ValueError):
        advice = "nothing, if the lines above say that events arrive"
        return [warning(_AREA, "inotify", "its limits can't be read here", advice)]
    roots = dict.fromkeys((str(settings.shared_dir), str(settings.wasm_dir)))
    directories = sum(_count_directories(root, settings.max_depth) for root in roots)
    return [_watches(directories, watches), _queue(queued)]


def _watches(directories: int, watches: int) -> Finding:
    found = f"{directories} directories, of {watches} that a user may watch"
    advice = f"raise it: sysctl fs.inotify.max_user_watches={max(watches, directories) * 2}"
    if directories >= watches:
        return problem(_AREA, "inotify watches", found, advice)
    if directories > watches // 2:
        return warning(_AREA, "inotify watches", found, advice)
    return ok(_AREA, "inotify watches", found)


def _queue(queued: int) -> Finding:
    found = f"{queued} events may wait"
    if queued < _QUEUED_EVENTS:
        advice = (
            "bursts of drops overflow it, and a whole scan follows:"
            f" sysctl fs.inotify.max_queued_events={_QUEUED_EVENTS}"
        )
        return warning(_AREA, "inotify queue", found, advice)
    return ok(_AREA, "inotify queue", found)


def _count_directories(root: str, max_depth: int) -> int:
    """Return the number of directories that the watcher would watch."""
    count = 0

    def found(_path: str, _fd: int) -> None:
        nonlocal count
        count += 1

    for _batch in walk(RootedPath(root, ""), max_depth, lambda _path: False, found):
        pass
    return count
