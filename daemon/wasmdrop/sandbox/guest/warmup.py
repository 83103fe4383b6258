"""Warming up: the way of a job, gone with a module of our own before there is a job.

In the forking server, before any fork, it leaves behind what the first run of anything leaves:
resolved symbols, specialized bytecode, types made by ctypes. Children then share these pages
instead of making, and so copying, each its own. Once more in an idle child, it takes the page
faults of a job off the job's time. There are two ways: that of any order, and a plain call.
"""

import os
from typing import Final

import msgspec
from wasmtime import Module, wat2wasm

from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.sandbox.guest.core_module import ModuleRun, run_module
from wasmdrop.sandbox.guest.engine import Engine
from wasmdrop.sandbox.guest.unchecked_call import UncheckedCall
from wasmdrop.sandbox.memory_shares import MemoryShares
from wasmdrop.sandbox.wire import (
    BINARY_VALUE_BYTES,
    FRAME,
    BoundFunction,
    Invocation,
    Preparation,
    RunReport,
    RunRequest,
    decode_request,
    encode_frame,
)

__all__ = ["Warmup"]

#: CPython 3.11 specializes a function's bytecode at its eighth call.
_CALLS: Final = 16

_MEBIBYTE: Final = 1 << 20

_FUNCTION: Final = """
  (func (export "warm") (param i64) (result i64) (i64.add (local.get 0) (i64.const 1)))
"""
_SIGNATURE: Final = FunctionType(("i64",), ("i64",))


class Warmup:
    """Small modules that were compiled here, in files without a name."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._code = _compiled(f'(module (memory (export "memory") 1) {_FUNCTION})', engine)
        order = RunRequest(
            Preparation(
                options=engine.options,
                memory_export="memory",
                memory_bytes=_MEBIBYTE,
                shares=MemoryShares(_MEBIBYTE, 1, _MEBIBYTE, 1),
                output_bytes=_MEBIBYTE,
                cpu_seconds=1,
                fuel=None,
                has_wasi=False,
                is_component=False,
            ),
            Invocation(
                entry="warm",
                signature=_SIGNATURE,
                args=(1,),
                is_command=False,
                initialize=False,
                wasi=None,
            ),
        )
        self._header = encode_frame(order)[FRAME.size :]
        # This one stays. It has no memory, which a child would take for one of its job's.
        preparation = msgspec.structs.replace(order.preparation, memory_export=None)
        run = ModuleRun(preparation, engine, _never)
        run.load(_compiled(f"(module {_FUNCTION})", engine))
        run.link()
        function = BoundFunction("warm", _SIGNATURE, initialize=False)
        self._plain_call = UncheckedCall(run, function, None)

    def call(self) -> None:
        """Make a plain call."""
        self._plain_call.execute(bytes(BINARY_VALUE_BYTES))

    def once(self) -> None:
        """Run it once, as any order."""
        order = decode_request(self._header)
        assert isinstance(order, RunRequest)  # noqa: S101 - made above
        encode_frame(run_module(order, self._engine, [self._code], b"", _nothing, _never))

    def repeat(self) -> None:
        """Go both ways until nothing is new any more."""
        for _ in range(_CALLS):
            self.once()
            self.call()


def _compiled(text: str, engine: Engine) -> int:
    """Return a descriptor of the module's machine code.

    It is compiled in a process of its own: what the compiler allocates would else be this process's
    for good, and each fork would copy the tables of those pages.
    """
    code = os.memfd_create("warm-up", os.MFD_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.write(code, Module(engine.wasmtime_engine, bytes(wat2wasm(text))).serialize())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return code


def _nothing() -> None:
    """Confine nothing: the order that this process is kept for needs all of it."""


def _never(_report: RunReport) -> None:
    """Take a report in the middle of a host call: this module makes none."""
