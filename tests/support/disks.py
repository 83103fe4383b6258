"""Small file systems, and full ones."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.require import require_root


@contextlib.contextmanager
def small_disk(point: Path) -> Iterator[Path]:
    """Mount a file system of 64 KiB for a block."""
    require_root()
    point.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(point)]
    subprocess.run(command, check=True)
    try:
        yield point
    finally:
        # Detached: an open file must not keep the test from cleaning up.
        subprocess.run(["umount", "--lazy", str(point)], check=True)


def fill(directory: Path) -> None:
    """Leave no room on the file system of ``directory``."""
    with (directory / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
