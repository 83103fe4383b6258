"""The warm-up: runs a module of our own before there is a job.

In the fork server, before any fork, it produces everything that a first run produces: resolved
symbols, specialized bytecode, ctypes types. Children then share these pages and do not copy them.
In an idle child, it takes the page faults of a job before the job comes. There are two paths: that
of any request, and the unchecked call.
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

#: CPython 3.11 specializes a function's bytecode at its eighth call.
_CALLS: Final = 16

_MEBIBYTE: Final = 1 << 20

_FUNCTION: Final = """
  (func (export "warm") (param i64) (result i64) (i64.add (local.get 0) (i64.const 1)))
"""
_SIGNATURE: Final = FunctionType(("i64",), ("i64",))


class Warmup:
    """Small modules, compiled here into anonymous files."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._code = _compiled(f'(module (memory (export "memory") 1) {_FUNCTION})', engine)
        preparation = Preparation(
            options=engine.options,
            memory_export="memory",
            memory_bytes=_MEBIBYTE,
            shares=MemoryShares(_MEBIBYTE, 1, _MEBIBYTE, 1),
            output_bytes=_MEBIBYTE,
            fuel=None,
            has_wasi=False,
            is_component=False,
        )
        invocation = Invocation(
            entry="warm",
            signature=_SIGNATURE,
            args=(1,),
            is_command=False,
            initialize=False,
            cpu_seconds=1,
            wasi=None,
        )
        self._header = encode_frame(RunRequest(invocation, preparation))[FRAME.size :]
        # This instance stays. It has no memory, which a child would take for one of its job's.
        run = ModuleRun(msgspec.structs.replace(preparation, memory_export=None), engine, _never)
        run.load(_compiled(f"(module {_FUNCTION})", engine))
        run.link()
        function = BoundFunction("warm", _SIGNATURE, initialize=False)
        self._unchecked_call = UncheckedCall(run, function, None)

    def call(self) -> None:
        """Make an unchecked call."""
        self._unchecked_call.execute(bytes(BINARY_VALUE_BYTES))

    def run_once(self) -> None:
        """Run it once, as any request."""
        request = decode_request(self._header)
        assert isinstance(request, RunRequest)  # noqa: S101 - encoded above
        assert request.preparation is not None  # noqa: S101
        run = ModuleRun(request.preparation, self._engine, _never)
        encode_frame(run_module(run, request.invocation, [self._code], b"", _nothing))

    def repeat(self) -> None:
        """Take both paths until nothing changes any more."""
        for _ in range(_CALLS):
            self.run_once()
            self.call()


def _compiled(text: str, engine: Engine) -> int:
    """Return a descriptor of the module's machine code.

    It is compiled in another process: what the compiler allocates would stay in this process, and
    each fork would copy the page tables.
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
    """Confine nothing: the request that this process waits for needs all of it."""


def _never(_report: RunReport) -> None:
    """Take a report in the middle of a host call: this module makes none."""
