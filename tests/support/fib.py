"""A library whose one function computes Fibonacci numbers."""

from pathlib import Path
from typing import Final

from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop

FIB = """
(module (func $fib (export "fib") (param i64) (result i64)
  (if (result i64) (i64.lt_u (local.get 0) (i64.const 2))
    (then (local.get 0))
    (else (i64.add (call $fib (i64.sub (local.get 0) (i64.const 1)))
                   (call $fib (i64.sub (local.get 0) (i64.const 2))))))))
"""


GOOD: Final = '{"entry":"fib","args":[12]}'


def with_fib(base: Path, **variables: str) -> Daemon:
    """Return a daemon, not started, whose default module is ``fib``."""
    daemon = Daemon(base, **variables)
    drop(daemon.wasm / "module.wasm", bytes(wat2wasm(FIB)))
    return daemon
