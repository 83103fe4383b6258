"""Discovery: how drops are noticed, by events where there are any and by looking where not.

Owns the watcher and the scanner. A directory that can't be watched is polled. The daemon tries to
watch it again every ``WASMDROP_RESCAN_SEC``, and polls no more when nothing failed since.
"""

import os
import time
from collections.abc import Callable

import structlog

from wasmdrop.intake.counters import IntakeCounters
from wasmdrop.intake.ignored_names import IgnoredNames
from wasmdrop.intake.intake import Intake
from wasmdrop.intake.layout import Layout
from wasmdrop.intake.scanner import Scanner
from wasmdrop.intake.watcher import Watcher, why_unwatched
from wasmdrop.settings import Settings, WatchMode
from wasmdrop.system.mount_table import reason_to_poll

__all__ = ["Discovery"]

_log = structlog.get_logger()


class Discovery:
    """Tells ``intake`` of what may be a drop. ``is_busy()``: as for the :class:`Watcher`."""

    def __init__(
        self,
        settings: Settings,
        layout: Layout,
        intake: Intake,
        counters: IntakeCounters,
        is_busy: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._counters = counters
        self.directories = _directories(settings, layout)
        """Those to watch, with what is below them; none when all are polled."""
        self._slow_seconds = _scan_seconds(settings, layout)
        self._has_failed = False
        """Whether a directory could not be watched since all were tried the last time."""
        self._tried_at = time.monotonic()
        self._intake = intake
        self._ignored_names = IgnoredNames(layout, counters, self._recheck)
        self.scanner = Scanner(
            layout,
            self._consider,
            intake.new_among,
            self._add,
            self._slow_seconds,
            settings.max_depth,
            self._try_again,
            self._ignored_names.consider_directory,
        )
        self.watcher = Watcher(
            layout.may_matter,
            is_busy,
            intake.is_unreadable,
            self._consider,
            lambda path: self._recheck(path, 0.0),
            lambda directory: self._recheck(directory, 0.0),
            self._lost,
        )

    @property
    def is_polling(self) -> bool:
        """Whether changes may go without events."""
        return self.scanner.period_seconds <= self._settings.poll_sec

    def start(self) -> None:
        """Watch, then look at what was there before: a drop in between is seen by both."""
        for root in self.directories:
            self._watch(root)
        self.scanner.start()

    def stop(self) -> None:
        """Notice nothing more."""
        self.watcher.stop()
        self.scanner.stop()

    def replaced(self, root: str) -> None:
        """Watch what is at ``root`` now, and look through it."""
        self._watch(root)
        self.scanner.recheck(root, 0.0)
        self.scanner.scan_soon()

    def _recheck(self, path: str, seconds: float) -> None:
        self.scanner.recheck(path, seconds)

    def _consider(self, path: str) -> None:
        if not self._intake.consider(path):
            self._ignored_names.consider(path)

    def _watch(self, root: str) -> None:
        try:
            self.watcher.watch(root)
        except OSError as error:
            self._poll(root, error)

    def _add(self, path: str, fd: int) -> None:
        try:
            self.watcher.add(path, fd)
        except OSError as error:
            self._poll(path, error)

    def _poll(self, path: str, error: OSError) -> None:
        """Look through everything often, because a directory can't be watched."""
        self._has_failed = True
        every_seconds = self._settings.poll_sec
        if self.scanner.period_seconds > every_seconds:
            reason = why_unwatched(error)
            _log.warning("polling-started", path=path, reason=reason, every_sec=every_seconds)
            self.scanner.scan_every(every_seconds)

    def _try_again(self) -> None:
        """Watch everything anew if something could not be watched; called before each walk."""
        now = time.monotonic()
        is_polling = self.scanner.period_seconds < self._slow_seconds
        if not is_polling or now - self._tried_at < self._settings.rescan_sec:
            return
        self._tried_at = now
        if not self._has_failed:
            _log.info("polling-stopped", every_sec=self._slow_seconds)
            self.scanner.period_seconds = self._slow_seconds
            return
        self._has_failed = False
        for root in self.directories:
            self._watch(root)
            self.scanner.recheck(root, 0.0)

    def _lost(self, reason: str) -> None:
        self._counters.events_lost += 1
        _log.warning("events-lost", reason=reason)
        self.scanner.scan_soon()


def _directories(settings: Settings, layout: Layout) -> list[str]:
    """Return the directories to watch, each once: every watch is an event more for each change."""
    if settings.watch is WatchMode.POLL:
        return []
    others = (layout.root_slot.input_path, layout.wasm_path)
    directories = (layout.shared_dir, layout.wasm_dir, *map(os.path.dirname, others))
    return list(dict.fromkeys(path.rstrip("/") for path in directories))


def _scan_seconds(settings: Settings, layout: Layout) -> float:
    """Return how often to walk through everything: slowly where events tell most of it."""
    if settings.watch is WatchMode.EVENTS:
        return settings.rescan_sec
    if settings.watch is WatchMode.POLL:
        return settings.poll_sec
    for directory in (layout.shared_dir, layout.wasm_dir):
        reason = reason_to_poll(directory)
        if reason is not None:
            _log.warning(
                "polling-started", path=directory, reason=reason, every_sec=settings.poll_sec
            )
            return settings.poll_sec
    return settings.rescan_sec
