"""The scheduler: what is long is under way once, and little of it at a time."""

import threading
from collections import Counter

from tests.support.daemon import wait_until
from wasmdrop.intake.scan_scheduler import ScanScheduler, Steps


class _Items:
    """Items of a thousand steps, which count how many of them are under way."""

    def __init__(self, steps: int = 1000) -> None:
        self.lock = threading.Lock()
        self.steps = steps
        self.open: Counter[str | None] = Counter()
        self.most = 0
        self.ended: Counter[str | None] = Counter()

    def begin(self, item: str | None) -> Steps:
        self.open[item] += 1
        self.most = max(self.most, self.open.total())
        try:
            for _ in range(self.steps):
                yield
            with self.lock:
                self.ended[item] += 1
        finally:
            self.open[item] -= 1


def test_item_is_under_way_once_and_again_when_it_was_due_meanwhile() -> None:
    """However often it is asked for."""
    items = _Items(100_000)
    scheduler = ScanScheduler("test", items.begin)
    scheduler.start()
    for asked in (None, "path"):
        scheduler.schedule(0.0, asked)
        wait_until(lambda asked=asked: items.open[asked], "its begin")  # type: ignore[misc]
        for _ in range(1000):
            scheduler.schedule(0.0, asked)
        wait_until(lambda asked=asked: items.ended[asked] >= 2, "its second end")  # type: ignore[misc]
    wait_until(scheduler.idle.is_set, "the end of all")
    scheduler.stop()
    assert items.most <= 2
    assert items.ended["path"] < 20


def test_items_under_way_are_few() -> None:
    """All of them come to their end."""
    items = _Items()
    scheduler = ScanScheduler("test", items.begin)
    names = [str(number) for number in range(500)]
    for name in names:
        scheduler.schedule(0.0, name)
    scheduler.start()
    wait_until(scheduler.idle.is_set, "the end of all")
    scheduler.stop()
    assert items.ended == Counter(names)
    assert items.most < 20


def test_short_item_passes_the_long_ones() -> None:
    """One step at a time."""
    items = _Items(10**9)
    done = threading.Event()

    def begin(item: str | None) -> Steps:
        if item == "short":
            done.set()
            return
        yield from items.begin(item)

    scheduler = ScanScheduler("test", begin)
    for number in range(100):
        scheduler.schedule(0.0, str(number))
    scheduler.start()
    wait_until(lambda: items.open.total() > 10, "the long ones")
    scheduler.schedule(0.0, "short")
    wait_until(done.is_set, "the short one")
    scheduler.stop()
    scheduler.join(60)
