"""Fixtures of a running daemon and of a small file system."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop
from tests.support.disks import small_disk
from tests.support.fib import FIB


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Give a running daemon whose default module is ``fib``; it must stop cleanly."""
    it = Daemon(tmp_path)
    drop(it.wasm / "module.wasm", bytes(wat2wasm(FIB)))
    with it.running():
        yield it


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Give a small file system below a shared directory."""
    with small_disk(tmp_path / "shared" / "small") as point:
        yield point
