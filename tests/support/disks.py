"""Small file systems, and full ones."""

import contextlib
import ctypes
import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.require import require, require_root


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


@contextlib.contextmanager
def hanging_disk(point: Path) -> Iterator[Path]:
    """Mount a file system that answers nothing for a block, as one whose server is gone."""
    require_root()
    require(Path("/dev/fuse").exists(), "/dev/fuse")
    point.mkdir(parents=True, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    # Its server is this process, which reads no request.
    server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
        if libc.mount(b"none", os.fsencode(point), b"fuse", 0, options):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        yield point
    finally:
        os.close(server)  # ends all requests
        subprocess.run(["umount", "--lazy", str(point)], check=False)


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
