"""Fixtures: a daemon of one's own, and modules written as text."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop

FIB = """
(module (func $fib (export "fib") (param i64) (result i64)
  (if (result i64) (i64.lt_u (local.get 0) (i64.const 2))
    (then (local.get 0))
    (else (i64.add (call $fib (i64.sub (local.get 0) (i64.const 1)))
                   (call $fib (i64.sub (local.get 0) (i64.const 2))))))))
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Give a running daemon whose default module is ``fib``; it must stop cleanly."""
    it = Daemon(tmp_path)
    drop(it.wasm / "module.wasm", bytes(wat2wasm(FIB)))
    with it.running():
        yield it
