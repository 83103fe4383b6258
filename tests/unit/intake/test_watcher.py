"""The watcher, in a process that has no descriptors left."""

import contextlib
import errno
import multiprocessing
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from wasmdrop.intake.watcher import Watcher, why_unwatched


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Leave this process no more than ``count`` descriptors."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.dup(0)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 1 + count, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(held[0])


def open_descriptors() -> int:
    """Return how many this process has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("left", [0, 1, 2])
def test_watcher_without_descriptors_raises_and_starts_later(tmp_path: Path, left: int) -> None:
    """It needs three. It closes the ones that it got."""
    # In a process of its own: threads of earlier tests may still close descriptors in this one.
    process = multiprocessing.get_context("spawn").Process(
        target=_check_without_descriptors, args=(tmp_path, left)
    )
    process.start()
    process.join()
    assert process.exitcode == 0


def _check_without_descriptors(directory: Path, left: int) -> None:
    heard = threading.Event()
    watcher = Watcher(
        bool,
        lambda: False,
        bool,
        lambda _path: heard.set(),
        lambda _path, _is_directory: None,
        lambda _path: None,
        lambda _reason: None,
    )
    before = open_descriptors()
    refusal = pytest.raises(OSError, match=r"limit reached|Too many open files")
    with descriptors_left(left), refusal as caught:
        watcher.watch(str(directory))
    assert caught.value.errno == errno.EMFILE
    with descriptors_left(0):
        assert "this process may open no more files" in why_unwatched(caught.value)
    assert "fs.inotify.max_user_instances" in why_unwatched(caught.value)
    assert open_descriptors() == before
    watcher.watch(str(directory))
    (directory / "input.json").touch()
    assert heard.wait(60)
    watcher.stop()
    assert open_descriptors() == before
