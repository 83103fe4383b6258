"""Small file systems, and full ones."""

import contextlib
import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.require import require_root


@contextlib.contextmanager
def small_disk(point: Path, size_kib: int = 64, files: int = 0) -> Iterator[Path]:
    """Mount a file system of that size for a block, with room for ``files`` files (0: many)."""
    require_root()
    point.mkdir(parents=True, exist_ok=True)
    options = f"size={size_kib}k,nr_inodes={files},mode=755"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)]
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


def fill_with_files(directory: Path) -> None:
    """Leave no room for another file on the file system of ``directory``."""
    (directory / "files").mkdir()
    with contextlib.suppress(OSError):
        for number in itertools.count():
            (directory / "files" / str(number)).touch()
