"""The running side of a child: one call into one instance of one compiled module.

Calls wasmtime's C interface directly where its Python wrapper loses something: the wrapper changes
the bits of signalling NaNs, wraps integers silently, aborts the process on signatures with vectors
or references, and lists all exports (in quadratic time) to find one.
"""

import ctypes
import os
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from wasmtime import Instance, Module, Store, Trap, TrapCode, WasiConfig, WasmtimeError
from wasmtime import _ffi as ffi
from wasmtime._func import enter_wasm

from wasmdrop.errors import RefusedError
from wasmdrop.outcome import DETERMINISTIC_CLOCK_NS, Code, bounded_text
from wasmdrop.sandbox.memories import linear_memory_bytes
from wasmdrop.sandbox.messages import RunOrder, RunReport, WasiOrder
from wasmdrop.sandbox.runtime import Runtime

__all__ = ["Run", "StaleCodeError", "run_module"]

#: Frames of a backtrace that a message shows; the innermost ones tell the most.
_FRAMES_SHOWN: Final = 16
#: A function's name in a backtrace, in characters; names are the guest's.
_NAME_SHOWN: Final = 120

#: wasmtime counts fuel in an unsigned 64-bit integer; half of that leaves its sums room.
_MAX_FUEL: Final = (1 << 63) - 1

_KINDS: Final = {
    "i32": ffi.WASMTIME_I32.value,
    "i64": ffi.WASMTIME_I64.value,
    "f32": ffi.WASMTIME_F32.value,
    "f64": ffi.WASMTIME_F64.value,
}
_WIDE: Final = frozenset({"i64", "f64"})


def run_module(
    order: RunOrder,
    runtime: Runtime,
    descriptors: list[int],
    raw: bytes,
    loaded: Callable[[], None],
    report_now: Callable[[RunReport], None],
    kind: "Callable[[RunOrder, Runtime], Run] | None" = None,
) -> RunReport:
    """Load, link, instantiate and call, as ``order`` says; ``kind`` says how, if not as a module.

    ``loaded`` is called when no file is needed any more and before any of the guest's code runs.

    ``report_now`` sends a report and ends the process: for an end that comes in the middle of a
    host call, where no exception could pass through wasmtime.
    """
    run = (kind or Run)(order, runtime)
    started = time.perf_counter()

    def end(code: Code, message: str, exit_code: int | None = None) -> None:
        seconds = time.perf_counter() - started
        report_now(
            RunReport(
                code,
                message,
                exit_code=exit_code,
                fuel_used=run.fuel_used(),
                memory_bytes=run.memory_bytes(),
                run_seconds=seconds,
            )
        )

    run.end = end
    runtime.on_exit = run.exit
    try:
        run.load(descriptors, raw, loaded)
        report = run.call()
    except RefusedError as refusal:
        report = RunReport(refusal.code, refusal.message)
    except StaleCodeError as error:
        return RunReport(Code.INTERNAL, bounded_text(str(error)), stale_code=True)
    finally:
        # It refers to the run, a circle that no collector finds here: a warm-up must leave nothing.
        del run.end
    seconds = time.perf_counter() - started
    return msgspec.structs.replace(
        report, fuel_used=run.fuel_used(), memory_bytes=run.memory_bytes(), run_seconds=seconds
    )


class StaleCodeError(Exception):
    """The machine code can't be loaded by this engine."""


class Run:
    """One instance, and the ways in which it can end."""

    end: Callable[..., None]
    """Reports a code, a message and perhaps an exit code, and ends the process."""

    def __init__(self, order: RunOrder, runtime: Runtime, address_map: int | None = None) -> None:
        self.order = order
        self.runtime = runtime
        self.address_map = address_map
        self.store = Store(runtime.engine)
        self.instance: Instance | None = None
        self.is_instantiated = False
        self._fuel: int | None = None
        self.output_room_bytes = order.output_bytes

    def load(self, descriptors: list[int], raw: bytes, loaded: Callable[[], None]) -> None:
        """Get the instance ready; raises ``RefusedError`` where that is not possible."""
        order = self.order
        self.store.set_limits(memory_size=order.memory_bytes_each)
        self.give_fuel()
        # Deserializing from a path maps the code instead of copying it.
        try:
            module = Module.deserialize_file(self.runtime.engine, f"/proc/self/fd/{descriptors[0]}")
        except WasmtimeError as error:
            raise StaleCodeError(str(error)) from None
        if order.wasi is not None:
            self.give_wasi(order.wasi, descriptors, raw)
        loaded()
        try:
            ready = self.runtime.linker.instantiate_pre(module)
        except WasmtimeError as error:
            raise RefusedError(Code.LINK_ERROR, bounded_text(str(error))) from None
        try:
            self.instance = ready.instantiate(self.store)
            self.is_instantiated = True
        except Trap as trap:
            raise _refusal_of(trap, "while the module was instantiated: ") from None
        except WasmtimeError as error:
            if "shared memory" in str(error):
                message = "the module has a memory that threads share, and there are no threads"
                raise RefusedError(Code.LINK_ERROR, message) from None
            # Linking is behind us, so this is a limit of the store: a minimum size above it.
            raise RefusedError(Code.MEMORY_LIMIT, bounded_text(str(error))) from None

    def call(self) -> RunReport:
        """Call the entry; return how that ended."""
        order = self.order
        try:
            if order.initialize:
                self._invoke("_initialize", (), (), ())
            signature = order.signature
            results = self._invoke(order.entry, signature.params, order.args, signature.results)
        except Trap as trap:
            refusal = _refusal_of(trap)
            return RunReport(refusal.code, refusal.message)
        except WasmtimeError as error:
            return RunReport(Code.TRAP, bounded_text(str(error)))
        return RunReport(Code.OK, "", results, exit_code=0 if order.is_command else None)

    def exit(self, exit_code: int) -> None:
        """End as the guest asked for (``proc_exit``): there is nothing to come back to."""
        if exit_code == 0 and self.order.is_command:
            self.end(Code.OK, "", 0)
        self.end(Code.EXIT, f"the program exited with code {exit_code}", exit_code)

    def give_fuel(self) -> None:
        """Give the store its fuel; without a limit, as much as can be counted."""
        if self.order.options.counts_fuel:
            self._fuel = _MAX_FUEL if self.order.fuel is None else self.order.fuel
            self.store.set_fuel(self._fuel)

    def fuel_used(self) -> int | None:
        """Return how much fuel was used so far; None where none is counted."""
        return None if self._fuel is None else self._fuel - self.store.get_fuel()

    def memory_bytes(self) -> int | None:
        """Size of all memories now; they never shrink, so this is their peak.

        None where there is no instance, or where that can't be found out.
        """
        if not self.is_instantiated:
            return None
        name = self.order.memory_export
        if self.order.has_hidden_memories:
            return None if self.address_map is None else linear_memory_bytes(self.address_map)
        if name is None:
            return 0
        extern = self._export(name)
        if extern is None or not _is(extern, ffi.WASMTIME_EXTERN_MEMORY):
            return None
        return int(
            ffi.wasmtime_memory_data_size(self.store._context(), ctypes.byref(extern.of.memory))  # noqa: SLF001
        )

    def give_wasi(self, wasi: WasiOrder, descriptors: list[int], raw: bytes) -> None:
        """Give the store its WASI world; lays the job's files."""
        _module_fd, stdout_fd, stderr_fd, *directories = descriptors
        config = WasiConfig()
        config.argv = list(wasi.argv)
        config.env = list(wasi.env.items())
        stdin = raw[: wasi.stdin_bytes]
        # The wrapper has no call for this one; the library takes ownership of the copy.
        ffi.wasi_config_set_stdin_bytes(config.ptr(), ctypes.byref(ffi.bytes_to_capi(stdin)))
        if wasi.disk_bytes is not None:
            time_ns = DETERMINISTIC_CLOCK_NS if self.order.options.deterministic else None
            _lay_files(directories[0], wasi.files, memoryview(raw)[wasi.stdin_bytes :], time_ns)
            # Old Rust programs look for a directory of the second name.
            for name in ("/", "."):
                config.preopen_dir(f"/proc/self/fd/{directories[0]}", name)
            for name, fd in zip(wasi.grants, directories[1:], strict=True):
                config.preopen_dir(f"/proc/self/fd/{fd}", f"/{name}", fs_mutable=False)
        config.stdout_custom = lambda data: self._capture(stdout_fd, data)
        config.stderr_custom = lambda data: self._capture(stderr_fd, data)
        self.store.set_wasi(config)

    def _capture(self, fd: int, data: bytes) -> int:
        """Append what the guest wrote; past the limit, end the process here and now."""
        taken = data[: self.output_room_bytes]
        self.output_room_bytes -= len(taken)
        view = memoryview(taken)
        while view:
            view = view[os.write(fd, view) :]
        if len(taken) < len(data):
            self.end(
                Code.OUTPUT_LIMIT, f"wrote more than {self.order.output_bytes} bytes of output"
            )
        return len(data)

    def _export(self, name: str) -> ffi.wasmtime_extern_t | None:
        assert self.instance is not None  # noqa: S101
        extern = ffi.wasmtime_extern_t()
        encoded = name.encode()
        found = ffi.wasmtime_instance_export_get(
            self.store._context(),  # noqa: SLF001
            ctypes.byref(self.instance._instance),  # noqa: SLF001
            ctypes.create_string_buffer(encoded, len(encoded)),
            len(encoded),
            ctypes.byref(extern),
        )
        return extern if found else None

    def _invoke(
        self, name: str, params: tuple[str, ...], bits: tuple[int, ...], results: tuple[str, ...]
    ) -> tuple[int, ...]:
        extern = self._export(name)
        if extern is None or not _is(extern, ffi.WASMTIME_EXTERN_FUNC):
            raise RefusedError(Code.ENTRY_NOT_FOUND, f"the module exports no function {name!r}")
        arguments = (ffi.wasmtime_val_t * len(params))()
        for slot, kind, pattern in zip(arguments, params, bits, strict=True):
            slot.kind = _KINDS[kind]
            # The union's integer members carry the bits of floats unchanged.
            if kind in _WIDE:
                slot.of.i64 = pattern
            else:
                slot.of.i32 = pattern
        values = (ffi.wasmtime_val_t * len(results))()
        with enter_wasm(self.store) as trap:
            error = ffi.wasmtime_func_call(
                self.store._context(),  # noqa: SLF001
                ctypes.byref(extern.of.func),
                arguments,
                len(params),
                values,
                len(results),
                trap,
            )
            if bool(error):
                raise WasmtimeError._from_ptr(error)  # noqa: SLF001
        return tuple(
            value.of.i64 & 0xFFFFFFFFFFFFFFFF if kind in _WIDE else value.of.i32 & 0xFFFFFFFF
            for value, kind in zip(values, results, strict=True)
        )


def _lay_files(
    directory: int,
    files: tuple[tuple[str, int], ...],
    contents: memoryview,
    time_ns: int | None,
) -> None:
    """Write ``contents``, one after the other, into files below ``directory``.

    They seem to have been written at ``time_ns``, or else now.
    """
    made = set()
    for path, size_bytes in files:
        slash = path.find("/")
        while slash != -1:
            if path[:slash] not in made:
                os.mkdir(path[:slash], dir_fd=directory)
                made.add(path[:slash])
            slash = path.find("/", slash + 1)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=directory)
        content, contents = contents[:size_bytes], contents[size_bytes:]
        while content:
            content = content[os.write(fd, content) :]
        if time_ns is not None:
            os.utime(fd, ns=(time_ns, time_ns))
        os.close(fd)


def _is(extern: ffi.wasmtime_extern_t, kind: ctypes.c_uint8) -> bool:
    given: Any = extern.kind  # a plain int, whatever its declaration says
    return bool(given == kind.value)


def _refusal_of(trap: Trap, where: str = "") -> RefusedError:
    kind = trap.trap_code
    if kind is TrapCode.OUT_OF_FUEL:
        return RefusedError(Code.FUEL_LIMIT, f"{where}used up its fuel")
    words = kind.name.lower().replace("_", " ") if kind is not None else "trap"
    return RefusedError(Code.TRAP, f"{where}{words}{_backtrace(trap)}")


def _backtrace(trap: Trap) -> str:
    frames = trap.frames
    lines = [
        f"\n  at {bounded_text(frame.func_name or f'function {frame.func_index}', _NAME_SHOWN)}"
        for frame in frames[:_FRAMES_SHOWN]
    ]
    if len(frames) > _FRAMES_SHOWN:
        lines.append(f"\n  … {len(frames) - _FRAMES_SHOWN} more")
    return "".join(lines)
