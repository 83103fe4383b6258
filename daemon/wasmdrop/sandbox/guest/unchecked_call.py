"""The unchecked call: calls a function of numbers with as little Python as possible.

Each page that a child writes to is copied, and Python writes to an object that it only reads. So
everything that a call needs is created once, in the zygote; arguments and results go from the link
to the engine and back as bits.
"""

import ctypes
import os
import time
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.outcome import Code
from wasmdrop.sandbox.guest.channel import read_binary_call, report, wait_for_end
from wasmdrop.sandbox.guest.core_module import ModuleRun
from wasmdrop.sandbox.guest.wasmtime_ffi import context_of, error_of, ffi, type_of_function
from wasmdrop.sandbox.wire import (
    BINARY_REPORT,
    BINARY_VALUE_BYTES,
    FRAME,
    PROGRAM_NAME,
    BoundFunction,
    RunReport,
)


class UncheckedCall:
    """A function of an instance, ready to be called once.

    Raises ``RefusedError`` if the instance has no such function of that type.
    """

    def __init__(self, run: ModuleRun, function: BoundFunction, wasi: "EmptyWasi | None") -> None:
        params, results = function.signature.params, function.signature.results
        slots = max(1, len(params), len(results))
        values = (ffi.wasmtime_val_raw_t * slots)()
        memory = run.exported_memory()
        self._run = run
        self._params = len(params)
        self._args = memoryview(values).cast("B")[: BINARY_VALUE_BYTES * len(params)]
        self._results = memoryview(values).cast("B")[: BINARY_VALUE_BYTES * len(results)]
        head = FRAME.pack(0, BINARY_REPORT.size + len(self._results))
        self._report = bytearray(head + BINARY_REPORT.pack(0.0, 0.0, -1, -1))
        self._wasi = wasi
        self._trap = ctypes.POINTER(ffi.wasm_trap_t)()
        self._context = context_of(run.store)
        trap = ctypes.byref(self._trap)
        entries = [(function.entry, params, results)]
        if function.initialize:
            entries.insert(0, ("_initialize", (), ()))
        self._calls: list[tuple[Any, ...]] = [
            (self._context, _function(run, *entry), values, slots, trap) for entry in entries
        ]
        self._memory = None if memory is None else ctypes.byref(memory)

    def serve(self, link_fd: int) -> NoReturn:
        """Take the arguments, call, report, and exit."""
        answer = self.execute(read_binary_call(link_fd, self._params))
        if isinstance(answer, RunReport):
            report(link_fd, answer)
        os.writev(link_fd, answer)
        wait_for_end(link_fd)

    def execute(self, args: bytes) -> RunReport | Sequence[bytearray | memoryview]:
        """Call; return the parts of a report in binary form, or another report if it fails."""
        started = self._run.begin()
        if self._wasi is not None:
            self._wasi.enter(self._run)
        for call in self._calls:
            self._args[:] = args  # those of the entry; ``_initialize`` takes none
            error = ffi.wasmtime_func_call_unchecked(*call)
            if bool(error) or bool(self._trap):
                return self._failed(error, time.perf_counter() - started)
        seconds = time.perf_counter() - started
        cpu_seconds = self._run.cpu_seconds()
        memory_bytes, fuel_used = 0, self._run.fuel_used()
        if self._memory is not None:
            memory_bytes = ffi.wasmtime_memory_data_size(self._context, self._memory)
        fuel_used = -1 if fuel_used is None else fuel_used
        BINARY_REPORT.pack_into(
            self._report, FRAME.size, seconds, cpu_seconds, memory_bytes, fuel_used
        )
        return self._report, self._results

    def _failed(self, error: Any, seconds: float) -> RunReport:
        end = error_of(error, self._trap)
        return self._run.with_usage(self._run.failure_report(end), seconds)


#: A function that takes output, and no finalizer of it (wasi.h).
_OUTPUT: Final = ctypes.CFUNCTYPE(
    ctypes.c_ssize_t, ctypes.c_void_p, ctypes.POINTER(ctypes.c_ubyte), ctypes.c_size_t
)
_NO_FINALIZER: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p)()


class EmptyWasi:
    """A WASI context without input, whose parts are created before there is a job.

    The context itself, which draws random numbers, is created by each process. Output goes to
    ``streams``, descriptors of standard output and standard error.
    """

    def __init__(self, streams: Sequence[int]) -> None:
        self._run: ModuleRun | None = None
        self._name = ctypes.create_string_buffer(PROGRAM_NAME.encode())
        pointer = ctypes.POINTER(ctypes.c_char)
        self._argv = (pointer * 1)(ctypes.cast(self._name, pointer))

        def take(fd: int, data: Any, size: int) -> int:
            if self._run is not None:
                self._run.capture(fd, ctypes.string_at(data, size))
            return size

        self._take = _OUTPUT(take)
        self._stdout, self._stderr = map(ctypes.c_void_p, streams)

    def enter(self, run: ModuleRun) -> None:
        """Make it the context of ``run``."""
        self._run = run
        config = ffi.wasi_config_new()
        ffi.wasi_config_set_argv(config, 1, self._argv)
        ffi.wasi_config_set_stdout_custom(config, self._take, self._stdout, _NO_FINALIZER)
        ffi.wasi_config_set_stderr_custom(config, self._take, self._stderr, _NO_FINALIZER)
        error = ffi.wasmtime_context_set_wasi(context_of(run.store), config)
        if bool(error):
            raise error_of(error)


def _function(run: ModuleRun, name: str, params: tuple[str, ...], results: tuple[str, ...]) -> Any:
    """Look up a function and check its type, which is not checked again when it is called."""
    found = run.function(name)
    actual = type_of_function(run.store, found)
    if (tuple(map(str, actual.params)), tuple(map(str, actual.results))) != (params, results):
        raise RefusedError(Code.TRAP, f"the function {name!r} has another type than the call")
    return ctypes.byref(found)  # which keeps what it points to
