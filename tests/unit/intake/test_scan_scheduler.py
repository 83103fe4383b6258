"""The scan scheduler: long scans are in progress once, and few at a time."""

import threading
from collections import Counter

from tests.support.daemon import wait_until
from wasmdrop.intake.scan_scheduler import ScanScheduler, Steps


class _Scans:
    """Scans of a thousand steps, which count how many of them are in progress."""

    def __init__(self, steps: int = 1000) -> None:
        self.lock = threading.Lock()
        self.steps = steps
        self.open: Counter[str | None] = Counter()
        self.most = 0
        self.ended: Counter[str | None] = Counter()

    def begin(self, path: str | None) -> Steps:
        self.open[path] += 1
        self.most = max(self.most, self.open.total())
        try:
            for _ in range(self.steps):
                yield
            with self.lock:
                self.ended[path] += 1
        finally:
            self.open[path] -= 1


def test_scan_due_meanwhile_is_repeated_once() -> None:
    """The number of requests does not matter."""
    scans = _Scans(100_000)
    scheduler = ScanScheduler("test", scans.begin)
    scheduler.start()
    for asked in (None, "path"):
        scheduler.schedule(0.0, asked)
        wait_until(lambda asked=asked: scans.open[asked], "its start")  # type: ignore[misc]
        for _ in range(1000):
            scheduler.schedule(0.0, asked)
        wait_until(lambda asked=asked: scans.ended[asked] >= 2, "its second end")  # type: ignore[misc]
    wait_until(scheduler.idle.is_set, "the end of all scans")
    scheduler.stop()
    assert scans.most <= 2
    assert scans.ended["path"] < 20


def test_scans_in_progress_are_bounded() -> None:
    """All of them end."""
    scans = _Scans()
    scheduler = ScanScheduler("test", scans.begin)
    names = [str(number) for number in range(500)]
    for name in names:
        scheduler.schedule(0.0, name)
    scheduler.start()
    wait_until(scheduler.idle.is_set, "the end of all scans")
    scheduler.stop()
    assert scans.ended == Counter(names)
    assert scans.most < 20


def test_short_scan_overtakes_long_ones() -> None:
    """One step at a time."""
    scans = _Scans(10**9)
    done = threading.Event()

    def begin(path: str | None) -> Steps:
        if path == "short":
            done.set()
            return
        yield from scans.begin(path)

    scheduler = ScanScheduler("test", begin)
    for number in range(100):
        scheduler.schedule(0.0, str(number))
    scheduler.start()
    wait_until(lambda: scans.open.total() > 10, "the long scans")
    scheduler.schedule(0.0, "short")
    wait_until(done.is_set, "the short scan")
    scheduler.stop()
    scheduler.join(60)
