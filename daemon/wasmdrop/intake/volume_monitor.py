"""Monitors the volumes: whether watched directories were replaced, and whether there is free space.

Checks once a second, on a thread of its own, because a check may block if a file server is gone.
"""

import os
import threading
from collections.abc import Callable, Iterable
from typing import Final

import structlog

_log = structlog.get_logger()

_PERIOD_SECONDS: Final = 1.0

#: Intake resumes when this multiple of the reserve is free, so that it does not flicker.
_RESUME_RATIO: Final = 1.25

_Identity = tuple[int, int]


class VolumeMonitor:
    """Monitors directories.

    ``on_replaced(path)`` is called if a watched directory is another one than before: it was
    removed and created again, or something was mounted there. ``on_room(reason)`` is called with
    the reason when a volume of the ``writable`` directories has less than ``reserve_bytes`` free,
    and with an empty one when all have enough again.
    """

    def __init__(
        self,
        watched: Iterable[str],
        writable: Iterable[str],
        reserve_bytes: int,
        on_replaced: Callable[[str], None],
        on_room: Callable[[str], None],
    ) -> None:
        self._watched: dict[str, _Identity | None] = {path: _identity(path) for path in watched}
        self._writable = tuple(writable)
        self.reserve_bytes = reserve_bytes
        self._on_replaced = on_replaced
        self._on_room = on_room
        self._reason = ""
        self.space: dict[str, tuple[int, int]] = {}
        """Bytes that are free, and all bytes, of the volume of each writable directory, when it
        answered last."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="storage", daemon=True)

    def start(self) -> None:
        """Check the free space, then continue on a thread."""
        self._check_space()
        self._thread.start()

    def stop(self) -> None:
        """Stop; a check that hangs is abandoned."""
        self._stop.set()
        if self._thread.is_alive():  # it was started
            self._thread.join(_PERIOD_SECONDS)

    def _run(self) -> None:
        while not self._stop.wait(_PERIOD_SECONDS):
            try:
                self._check_identities()
                self._check_space()
            except Exception:  # noqa: BLE001 - the thread must live
                _log.exception("storage-check-failed")

    def _check_identities(self) -> None:
        for path, known in self._watched.items():
            found = _identity(path)
            if found == known:
                continue
            self._watched[path] = found
            if found is None:
                _log.warning("directory-missing", path=path)
            else:
                _log.warning("directory-replaced", path=path)
                self._on_replaced(path)

    def _check_space(self) -> None:
        wanted_bytes = self.reserve_bytes * (_RESUME_RATIO if self._reason else 1)
        reason = ""
        for path in self._writable:
            try:
                status = os.statvfs(path)
            except OSError:
                continue  # a missing directory needs no space
            free_bytes = status.f_bavail * status.f_frsize
            self.space[path] = free_bytes, status.f_blocks * status.f_frsize
            if free_bytes < wanted_bytes:
                reason = f"{path}: {free_bytes} bytes are free, which are reserved for results"
        if bool(reason) == bool(self._reason):
            return
        self._reason = reason
        if reason:
            _log.warning("intake-paused", reason=reason)
        else:
            _log.info("intake-resumed")
        self._on_room(reason)


def _identity(path: str) -> _Identity | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - may hold any bytes
    except OSError:
        return None
    return status.st_dev, status.st_ino
