"""Small disks below a storm that become full at random moments, and have room again."""

import contextlib
import os
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.support.disks import fill, fill_with_files, small_disk

_SIZE_KIB: Final = 48 * 1024
_FILES: Final = 3000
#: Bytes that may be left on a full disk: enough for some writes, or for a part of one.
_LEFT_BYTES: Final = 300_000


class FullDisks:
    """The disks of the shared and the state directory below ``base``."""

    def __init__(self, base: Path, dice: random.Random) -> None:
        self._disks = [base / "shared", base / "state"]
        self._dice = random.Random(dice.random())  # noqa: S311 - a test's dice
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.fillings = 0
        """How often a disk became full."""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Mount the disks and fill them again and again during a block."""
        thread = threading.Thread(target=self._run, name="filler")
        with contextlib.ExitStack() as mounted:
            for disk in self._disks:
                mounted.enter_context(small_disk(disk, _SIZE_KIB, _FILES))
            thread.start()
            try:
                yield
            finally:
                self._ended.set()
                thread.join()

    @contextlib.contextmanager
    def room(self) -> Iterator[None]:
        """Keep the disks from being full for a block."""
        with self._lock:
            self._make_room()
            yield

    def _run(self) -> None:
        dice = self._dice
        while not self._ended.wait(dice.uniform(0.2, 3)):
            with self._lock:
                for disk in dice.choice((self._disks, self._disks[:1], self._disks[1:])):
                    self._fill(disk)
            self._ended.wait(dice.uniform(0, 2))
            with self._lock:
                self._make_room()

    def _fill(self, disk: Path) -> None:
        self.fillings += 1
        with contextlib.suppress(OSError):  # something else filled it first
            if self._dice.random() < 0.3:
                fill_with_files(disk)
            else:
                fill(disk)
                size_bytes = (disk / "filler").stat().st_size
                left_bytes = self._dice.choice((0, self._dice.randrange(_LEFT_BYTES)))
                os.truncate(disk / "filler", max(0, size_bytes - left_bytes))

    def _make_room(self) -> None:
        for disk in self._disks:
            (disk / "filler").unlink(missing_ok=True)
            shutil.rmtree(disk / "files", ignore_errors=True)
