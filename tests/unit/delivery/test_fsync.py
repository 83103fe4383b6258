"""FsyncBatch: errors, fallbacks, and the calls that the kernel sees."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.durability.trace import command, read_trace
from tests.support.require import require_tools
from wasmdrop.delivery.fsync import FsyncBatch

#: More than the kernel allows (``fs.aio-max-nr``).
TOO_MANY = 1 << 24


@pytest.fixture
def fds(tmp_path: Path) -> Iterator[list[int]]:
    """Yield descriptors of five files with unsynced data."""
    found = []
    for number in range(5):
        found.append(os.open(tmp_path / str(number), os.O_WRONLY | os.O_CREAT))
        os.write(found[-1], b"%d" % number)
    yield found
    for fd in found:
        os.close(fd)


def sync(syncs: FsyncBatch, fds: Sequence[int]) -> list[int | None]:
    """Sync ``fds``; return the errno of each."""
    syncs.begin(fds)
    return [error.errno if error is not None else None for error in syncs.finish()]


@pytest.mark.parametrize("most", [8, 3, 1, TOO_MANY])
def test_fsync_batch_of_mixed_descriptors_reports_each_error(fds: list[int], most: int) -> None:
    """A descriptor that can't be synced does not affect the others, in parallel or one by one."""
    syncs = FsyncBatch(most)
    reader, writer = os.pipe()
    assert sync(syncs, fds) == [None] * 5
    gone = os.dup(reader)
    os.close(gone)
    mixed = [fds[0], writer, fds[1], gone, fds[2]]
    assert sync(syncs, mixed) == [None, errno.EINVAL, None, errno.EBADF, None]
    assert sync(syncs, fds[:1]) == [None]
    assert sync(syncs, [writer]) == [errno.EINVAL]
    assert sync(syncs, []) == []
    os.close(reader)
    os.close(writer)


def test_fsync_batch_on_failing_disk_reports_each_error(
    fds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Completions may come in any order, in several calls, and calls may be interrupted."""
    parts = [[(3, -errno.EIO), (0, 0)], [(2, -errno.ENOSPC), (1, 0)]]
    interruptions = iter([True, False, True, False])

    class Kernel:
        """Reports the completions above."""

        def syscall(self, number: int, _context: object, *arguments: Any) -> int:
            setup, getevents, submit = (206, 208, 209) if number > 200 else (0, 4, 2)
            if number == setup:
                return 0
            if number == submit:
                return 4
            assert number == getevents
            if next(interruptions):
                raise InterruptedError
            for event, (index, result) in zip(arguments[2], parts.pop(0), strict=False):
                event.data, event.result = index, result
            return 2

    monkeypatch.setattr("wasmdrop.delivery.fsync.libc", Kernel())
    assert sync(FsyncBatch(8), fds[:4]) == [None, None, errno.ENOSPC, errno.EIO]
    assert parts == []


@pytest.mark.parametrize("most", [3, TOO_MANY])
def test_fsync_batch_calls_fsync_once_per_descriptor(tmp_path: Path, most: int) -> None:
    """Three in parallel and two one by one, or all one by one, as strace sees it."""
    require_tools("strace")
    code = (
        "import os, sys; from wasmdrop.delivery.fsync import FsyncBatch\n"
        "fds = [os.open(name, os.O_WRONLY | os.O_CREAT) for name in sys.argv[2:]]\n"
        "syncs = FsyncBatch(int(sys.argv[1]))\n"
        "for part in (fds, fds[:2]):\n"
        "    syncs.begin(part); assert not any(syncs.finish())"
    )
    names = [str(tmp_path / str(number)) for number in range(5)]
    trace = tmp_path / "trace"
    subprocess.run([*command(trace), sys.executable, "-c", code, str(most), *names], check=True)
    synced = [call.path(0) for call in read_trace(trace) if call.name == "fsync"]
    assert sorted(synced[:5]) == names
    assert sorted(synced[5:]) == names[:2]
    by_kernel = trace.read_text().count("io_submit(")
    assert by_kernel == (2 if most == 3 else 0)
