"""Fixtures of a running daemon and of a small file system."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.disks import small_disk
from tests.support.fib import with_fib
from tests.support.outcomes import faults


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Give a running daemon whose default module is ``fib``; it must stop cleanly."""
    with with_fib(tmp_path).running() as it:
        yield it


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Give a small file system below a shared directory."""
    with small_disk(tmp_path / "shared" / "small") as point:
        yield point


@pytest.fixture
def no_fault(daemon: Daemon) -> Iterator[None]:
    """Check that the test makes the daemon log no fault of its own."""
    before = len(faults(daemon))
    yield
    assert faults(daemon)[before:] == []
