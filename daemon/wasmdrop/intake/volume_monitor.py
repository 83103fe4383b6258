"""The storage monitor: sees that the directories are the ones that are watched, and have room.

Looks once a second, on a thread of its own, as looking may block where a server is gone. Takes no
drop and delivers nothing; it tells those who do.
"""

import os
import threading
from collections.abc import Callable, Iterable
from typing import Final

import structlog

__all__ = ["VolumeMonitor"]

_log = structlog.get_logger()

_PERIOD_SECONDS: Final = 1.0

#: Room for results beyond which there is said to be room again, so that it does not flicker.
_ENOUGH: Final = 1.25

_Identity = tuple[int, int]


class VolumeMonitor:
    """Watches over directories.

    ``on_replaced(path)`` hears that a watched directory is another one than before: it was removed
    and made again, or something was mounted there. ``on_room(reason)`` hears that less than
    ``reserve_bytes`` are left where ``writable`` directories lie, in words, and, empty, that there
    is room again.
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
        self._reserve_bytes = reserve_bytes
        self._on_replaced = on_replaced
        self._on_room = on_room
        self._reason = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="storage", daemon=True)

    def start(self) -> None:
        """Look for the first time, then go on in a thread of its own."""
        self._look_for_room()
        self._thread.start()

    def stop(self) -> None:
        """Look no more; a look that hangs is left."""
        self._stop.set()
        self._thread.join(_PERIOD_SECONDS)

    def _run(self) -> None:
        while not self._stop.wait(_PERIOD_SECONDS):
            try:
                self._look_for_others()
                self._look_for_room()
            except Exception:  # noqa: BLE001 - the thread must live
                _log.exception("storage-check-failed")

    def _look_for_others(self) -> None:
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

    def _look_for_room(self) -> None:
        wanted_bytes = self._reserve_bytes * (_ENOUGH if self._reason else 1)
        reason = ""
        for path in self._writable:
            try:
                status = os.statvfs(path)
            except OSError:
                continue  # not there: nothing can be dropped there either
            free_bytes = status.f_bavail * status.f_frsize
            if free_bytes < wanted_bytes:
                reason = f"{path}: {free_bytes} bytes are free, of which results need the last"
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
