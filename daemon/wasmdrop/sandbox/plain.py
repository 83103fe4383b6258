"""A plain call: a function of numbers, with as little around it as Python allows.

Each page that a child writes to is copied for it, and a Python object that is only looked at is
written to. So all that a call needs is made once, in the template, and arguments and results are
bits that go from the link into the engine and back.
"""

import ctypes
import os
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from wasmtime import Trap, WasmtimeError
from wasmtime import _ffi as ffi

from wasmdrop.errors import RefusedError
from wasmdrop.outcome import Code
from wasmdrop.sandbox.guest import Run, ended_by, is_a
from wasmdrop.sandbox.link import read_plain, report, wait_for_end
from wasmdrop.sandbox.messages import (
    FRAME,
    PLAIN_REPORT,
    PLAIN_VALUE_BYTES,
    PlainFunction,
    RunReport,
)

__all__ = ["PlainCall"]


class PlainCall:
    """One function of an instance, ready to be called once.

    Raises ``RefusedError`` where the instance has no such function.
    """

    def __init__(self, run: Run, function: PlainFunction) -> None:
        extern = run.export(function.entry)
        if extern is None or not is_a(extern, ffi.WASMTIME_EXTERN_FUNC):
            message = f"the module exports no function {function.entry!r}"
            raise RefusedError(Code.ENTRY_NOT_FOUND, message)
        params, results = function.signature.params, function.signature.results
        slots = max(1, len(params), len(results))
        values = (ffi.wasmtime_val_raw_t * slots)()
        memory = run.exported_memory()
        self._run = run
        self._params = len(params)
        self._args = memoryview(values).cast("B")[: PLAIN_VALUE_BYTES * len(params)]
        self._results = memoryview(values).cast("B")[: PLAIN_VALUE_BYTES * len(results)]
        head = FRAME.pack(0, PLAIN_REPORT.size + len(self._results))
        self._report = bytearray(head + PLAIN_REPORT.pack(0.0, -1, -1))
        self._trap = ctypes.POINTER(ffi.wasm_trap_t)()
        self._context = run.store._context()  # noqa: SLF001 - the wrapper's call makes objects
        self._call: tuple[Any, ...] = (
            self._context,
            ctypes.byref(extern.of.func),
            values,
            slots,
            ctypes.byref(self._trap),
        )
        self._memory = None if memory is None else ctypes.byref(memory.of.memory)

    def obey(self, link_fd: int) -> NoReturn:
        """Take the arguments, call, report, and end."""
        answer = self.carry_out(read_plain(link_fd, self._params))
        if isinstance(answer, RunReport):
            report(link_fd, answer)
        os.writev(link_fd, answer)
        wait_for_end(link_fd)

    def carry_out(self, args: bytes) -> RunReport | Sequence[bytearray | memoryview]:
        """Call and return the report: that of a plain function, or where it failed another."""
        self._args[:] = args
        started = time.perf_counter()
        error = ffi.wasmtime_func_call_unchecked(*self._call)
        seconds = time.perf_counter() - started
        if bool(error) or bool(self._trap):
            end = WasmtimeError._from_ptr(error) if bool(error) else Trap._from_ptr(self._trap)  # noqa: SLF001
            return self._run.completed(ended_by(end), seconds)
        memory_bytes, fuel_used = 0, self._run.fuel_used()
        if self._memory is not None:
            memory_bytes = ffi.wasmtime_memory_data_size(self._context, self._memory)
        fuel_used = -1 if fuel_used is None else fuel_used
        PLAIN_REPORT.pack_into(self._report, FRAME.size, seconds, memory_bytes, fuel_used)
        return self._report, self._results
