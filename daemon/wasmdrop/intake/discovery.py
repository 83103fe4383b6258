"""Discovery: notices drops, by inotify events and by scans.

Owns the intake, the watcher and the scanner, which need each other. A directory that can't be
watched is polled. Every ``WASMDROP_RESCAN_SEC`` the daemon tries to watch it again; polling stops
when nothing has failed since.
"""

import os
import time
from collections.abc import Callable

import structlog

from wasmdrop.intake.backlog import Backlog
from wasmdrop.intake.counters import IntakeCounters
from wasmdrop.intake.drops import Drop
from wasmdrop.intake.ignored_names import IgnoredNames
from wasmdrop.intake.intake import Intake
from wasmdrop.intake.layout import Layout
from wasmdrop.intake.scanner import Scanner
from wasmdrop.intake.taken_versions import TakenVersions
from wasmdrop.intake.watcher import Watcher, why_unwatched
from wasmdrop.intake.write_detection import UnclosedFile
from wasmdrop.protocol.slot import PinnedModule, Slot
from wasmdrop.settings import Settings, WatchMode
from wasmdrop.system.mount_table import reason_to_poll

_log = structlog.get_logger()


class Discovery:
    """Notices files in the directories of ``layout``.

    ``on_removals_lost`` is called, on any thread, if files may have been removed without an event.
    The other arguments are those of the intake.
    """

    def __init__(
        self,
        settings: Settings,
        layout: Layout,
        taken: TakenVersions,
        backlog: Backlog,
        known_module: Callable[[Slot, str | None], PinnedModule | None],
        emit: Callable[[Drop], None],
        counters: IntakeCounters,
        on_removals_lost: Callable[[], object] = lambda: None,
    ) -> None:
        self._backlog = backlog
        self._on_removals_lost = on_removals_lost
        self._settings = settings
        self._counters = counters
        self.directories = _directories(settings, layout)
        """Roots of the trees to watch; empty if all are polled."""
        self._normal_seconds = _scan_seconds(settings, layout)
        self._has_failed = False
        """Whether a directory could not be watched since the last attempt to watch all."""
        self._tried_at = time.monotonic()
        self._ignored_names = IgnoredNames(layout, counters, self._recheck)
        self.intake = Intake(
            settings,
            layout,
            taken,
            backlog,
            known_module,
            emit,
            self._recheck,
            self._unclosed,
            self._is_polling,
            self._ignored_names.report,
        )
        self.scanner = Scanner(
            layout,
            self._look,
            self.intake.new_among,
            self._add,
            self._normal_seconds,
            settings.max_depth,
            self._retry_watches,
            self._ignored_names.consider_directory,
        )
        self.watcher = Watcher(
            layout.may_matter,
            backlog.is_busy,
            self.intake.is_unreadable,
            self._consider,
            self._on_removed,
            self._recheck,
            self._on_events_lost,
        )

    def start(self) -> None:
        """Watch, then scan for older files: a drop in between is seen by both."""
        for root in self.directories:
            self._watch(root)
        self.scanner.start()

    def stop(self) -> None:
        """Notice nothing more."""
        self.watcher.stop()
        self.scanner.stop()

    def on_replaced(self, root: str) -> None:
        """Watch and scan the directory that is at ``root`` now."""
        self._watch(root)
        self._recheck(root)
        self.scanner.scan_soon()

    def _recheck(self, path: str, seconds: float = 0.0) -> None:
        self.scanner.recheck(path, seconds)

    def _unclosed(self, path: str) -> UnclosedFile | None:
        return self.watcher.unclosed(path)

    def _is_polling(self) -> bool:
        """Return whether changes may raise no events."""
        return self.scanner.period_seconds <= self._settings.poll_sec

    def _consider(self, path: str) -> None:
        if not self.intake.consider(path):
            self._ignored_names.consider(path)

    def _look(self, path: str) -> None:
        self.intake.gone_files.look(path)
        self._consider(path)

    def _on_removed(self, path: str, is_directory: bool) -> None:
        # Without open jobs there is none to cancel: most inputs are removed after their jobs.
        if not len(self._backlog):
            return
        if not self.intake.gone_files.note(path, is_directory=is_directory):
            self._on_removals_lost()

    def _watch(self, root: str) -> None:
        try:
            self.watcher.watch(root)
        except OSError as error:
            self._start_polling(root, error)

    def _add(self, path: str, fd: int) -> None:
        try:
            self.watcher.add(path, fd)
        except OSError as error:
            self._start_polling(path, error)

    def _start_polling(self, path: str, error: OSError) -> None:
        self._has_failed = True
        every_seconds = self._settings.poll_sec
        if self.scanner.period_seconds > every_seconds:
            reason = why_unwatched(error)
            _log.warning("polling-started", path=path, reason=reason, every_sec=every_seconds)
            self.scanner.scan_every(every_seconds)

    def _retry_watches(self) -> None:
        """Watch everything again if a watch failed. Called before each full scan."""
        now = time.monotonic()
        is_polling = self.scanner.period_seconds < self._normal_seconds
        if not is_polling or now - self._tried_at < self._settings.rescan_sec:
            return
        self._tried_at = now
        if not self._has_failed:
            _log.info("polling-stopped", every_sec=self._normal_seconds)
            self.scanner.period_seconds = self._normal_seconds
            return
        self._has_failed = False
        for root in self.directories:
            self._watch(root)
            self._recheck(root)

    def _on_events_lost(self, reason: str) -> None:
        self._counters.events_lost += 1
        _log.warning("events-lost", reason=reason)
        self.scanner.scan_soon()
        self._on_removals_lost()


def _directories(settings: Settings, layout: Layout) -> list[str]:
    """Return the directories to watch, each once: a second watch would double every event."""
    if settings.watch is WatchMode.POLL:
        return []
    others = (layout.root_slot.input_path, layout.wasm_path)
    directories = (layout.shared_dir, layout.wasm_dir, *map(os.path.dirname, others))
    return list(dict.fromkeys(path.rstrip("/") for path in directories))


def _scan_seconds(settings: Settings, layout: Layout) -> float:
    """Return the time between full scans, which is long if events report most changes."""
    if settings.watch is WatchMode.EVENTS:
        return settings.rescan_sec
    if settings.watch is WatchMode.POLL:
        return settings.poll_sec
    for directory in (layout.shared_dir, layout.wasm_dir):
        reason = reason_to_poll(directory)
        if reason is not None:
            every_seconds = settings.poll_sec
            _log.warning("polling-started", path=directory, reason=reason, every_sec=every_seconds)
            return every_seconds
    return settings.rescan_sec
