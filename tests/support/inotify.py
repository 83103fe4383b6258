"""The kernel's limits of inotify(7)."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_LIMITS: Final = Path("/proc/sys/fs/inotify")


@contextlib.contextmanager
def kernel_setting(name: str, value: int) -> Iterator[None]:
    """Change a limit of inotify(7) for queues and watches that are made in the block."""
    path = _LIMITS / name
    before = path.read_text()
    path.write_text(str(value))
    try:
        yield
    finally:
        path.write_text(before)
