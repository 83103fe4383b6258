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
from wasmtime import Instance, InstancePre, Module, Store, Trap, WasiConfig, WasmtimeError
from wasmtime import _ffi as ffi
from wasmtime._func import enter_wasm

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.outcome import DETERMINISTIC_CLOCK_NS, Code
from wasmdrop.protocol.text import bounded_text
from wasmdrop.sandbox.guest.engine import Engine
from wasmdrop.sandbox.guest.growth_refusals import MEMORY_EXPORT, PAST_MAXIMUM, TABLE_EXPORT
from wasmdrop.sandbox.guest.memory_usage import memory_sizes
from wasmdrop.sandbox.guest.traps import is_out_of_memory, mebibytes, memory_refusal, trap_refusal
from wasmdrop.sandbox.wire import Invocation, Preparation, RunReport, RunRequest, WasiContext

__all__ = [
    "ModuleRun",
    "StaleCodeError",
    "is_a",
    "run_module",
]

#: wasmtime counts fuel in an unsigned 64-bit integer; half of that leaves its sums room.
_MAX_FUEL: Final = (1 << 63) - 1

_KINDS: Final = {
    "i32": ffi.WASMTIME_I32.value,
    "i64": ffi.WASMTIME_I64.value,
    "f32": ffi.WASMTIME_F32.value,
    "f64": ffi.WASMTIME_F64.value,
}
_WIDE: Final = frozenset({"i64", "f64"})

_FOR_WANT_OF_MEMORY: Final = frozenset({Code.TRAP, Code.EXIT})


def run_module(
    order: RunRequest,
    engine: Engine,
    descriptors: list[int],
    raw: bytes,
    loaded: Callable[[], None],
    report_now: Callable[[RunReport], None],
    kind: "Callable[[Preparation, Engine, Callable[[RunReport], None]], ModuleRun] | None" = None,
) -> RunReport:
    """Make a module ready and call it, as ``order`` says; ``kind`` says how, if not as a module.

    ``loaded`` is called when no file is needed any more and before any of the guest's code runs.
    ``report_now`` is as in :class:`ModuleRun`.
    """
    run = (kind or ModuleRun)(order.preparation, engine, report_now)

    def make_ready() -> None:
        run.load(descriptors[0])
        run.set_up_wasi(order.invocation, descriptors[1:], raw)
        loaded()
        run.link()

    return run.execute(order.invocation, make_ready)


class StaleCodeError(Exception):
    """The machine code can't be loaded by this engine."""


class ModuleRun:
    """One instance, and the ways in which it can end.

    ``report_now`` sends a report and ends the process: for an end that comes in the middle of a
    host call, where no exception could pass through wasmtime.
    """

    def __init__(
        self,
        preparation: Preparation,
        engine: Engine,
        report_now: Callable[[RunReport], None],
        address_map: int | None = None,
    ) -> None:
        self.preparation = preparation
        self.engine = engine
        self.address_map = address_map
        self.store = Store(engine.wasmtime_engine)
        self.module: Module | None = None
        self.linked: InstancePre | None = None
        self.instance: Instance | None = None
        self.is_instantiated = False
        self.output_room_bytes = preparation.output_bytes
        self._report_now = report_now
        self._is_command = False
        self._started = self._cpu_started = 0.0
        self._fuel: int | None = None

    def load(self, code_fd: int) -> None:
        """Map the machine code; raises ``StaleCodeError``."""
        self.set_store_limits()
        # Deserializing from a path maps the code instead of copying it.
        try:
            self.module = Module.deserialize_file(
                self.engine.wasmtime_engine, f"/proc/self/fd/{code_fd}"
            )
        except WasmtimeError as error:
            raise StaleCodeError(str(error)) from None

    def with_fresh_store(self) -> "ModuleRun":
        """Return another run of the same module, with a store of its own and no instance yet."""
        run = ModuleRun(self.preparation, self.engine, self._report_now)
        run.module, run.linked = self.module, self.linked
        run.set_store_limits()
        return run

    def close(self) -> None:
        """Let go of the instance and all that is its: what it prints to keeps it else for ever."""
        self.store.close()

    def set_store_limits(self) -> None:
        """Give the store its limits."""
        # Before there are limits, which are the guest's alone.
        if self.engine.files is not None:
            self.engine.files.enter(self.store)
        shares = self.preparation.shares
        self._bound(shares.memory_bytes_at_first, shares.table_elements_at_first)
        self.give_fuel()

    def set_growth_limits(self) -> None:
        """Give the store the limits of growth, now that it has what the module has at first."""
        shares = self.preparation.shares
        self.is_instantiated = True
        if (shares.memory_bytes, shares.table_elements) != (
            shares.memory_bytes_at_first,
            shares.table_elements_at_first,
        ):
            self._bound(shares.memory_bytes, shares.table_elements)

    def _bound(self, memory_bytes: int, table_elements: int) -> None:
        self.store.set_limits(memory_size=memory_bytes, table_elements=table_elements)

    def link(self) -> None:
        """Make the instance; raises ``RefusedError`` where that is not possible."""
        assert self.module is not None  # noqa: S101 - loaded before
        try:
            self.linked = self.linked or self.engine.linker.instantiate_pre(self.module)
        except WasmtimeError as error:
            raise RefusedError(Code.LINK_ERROR, bounded_text(str(error))) from None
        try:
            self.instance = self.linked.instantiate(self.store)
            self.set_growth_limits()
        except Trap as trap:
            raise trap_refusal(trap, "while the module was instantiated: ") from None
        except WasmtimeError as error:
            # Linking is behind us, so this is a limit of the store: a minimum size above it.
            raise memory_refusal(str(error)) from None

    def set_up_wasi(self, invocation: Invocation, descriptors: list[int], raw: bytes) -> None:
        """Give the instance its world of WASI, if it has one."""
        if invocation.wasi is not None:
            self._give_wasi(invocation.wasi, descriptors, raw)

    def execute(self, invocation: Invocation, before: Callable[[], None]) -> RunReport:
        """Do what comes ``before``, then the call; return how that ended."""
        self.begin(is_command=invocation.is_command)
        try:
            before()
            report = self.call(invocation)
        except RefusedError as refusal:
            report = RunReport(refusal.code, refusal.message)
        except StaleCodeError as error:
            return RunReport(Code.INTERNAL, bounded_text(str(error)), stale_code=True)
        finally:
            # Nothing may keep this run, and with it the descriptor that its machine code was mapped
            # from, until there is another one: that number may by then be another file's.
            self.engine.on_exit = None
        return self.with_usage(report, time.perf_counter() - self._started)

    def begin(self, *, is_command: bool = False) -> float:
        """Begin the time of the run, and be who hears of ``proc_exit``; return the clock."""
        self._cpu_started = time.process_time()
        self._started = time.perf_counter()
        self._is_command = is_command
        self.engine.on_exit = self.exit
        return self._started

    def call(self, invocation: Invocation) -> RunReport:
        """Call the entry; return how that ended."""
        try:
            if invocation.initialize:
                self._invoke("_initialize", (), (), ())
            signature = invocation.signature
            results = self._invoke(
                invocation.entry, signature.params, invocation.args, signature.results
            )
        except (Trap, WasmtimeError) as end:
            return self.failure_report(end)
        return RunReport(Code.OK, "", results, exit_code=0 if invocation.is_command else None)

    def failure_report(self, end: Trap | WasmtimeError) -> RunReport:
        """Return the report of a call that ended so."""
        if isinstance(end, Trap):
            refusal = trap_refusal(end)
        elif is_out_of_memory(text := str(end)):
            refusal = memory_refusal(text)
        else:
            refusal = RefusedError(Code.TRAP, bounded_text(text))
        return self.with_growth_reason(RunReport(refusal.code, refusal.message))

    def with_growth_reason(self, report: RunReport) -> RunReport:
        """Return the report of a failed run; if growth was refused before, it says so.

        That is then the reason of a trap and of an exit code other than 0: most programs end so for
        want of memory, and none tells otherwise.
        """
        if report.code not in _FOR_WANT_OF_MEMORY or report.exit_code == 0:
            return report
        refused, is_by_limit = self.refused_growth()
        if not refused:
            return report
        code = Code.MEMORY_LIMIT if is_by_limit else report.code
        message = f"{refused}, and then the program ended: {report.message}"
        return msgspec.structs.replace(report, code=code, message=message)

    def refused_growth(self) -> tuple[str, bool]:
        """Return which growth was refused, in words, and whether by the job's limit.

        Nothing if none was, as far as the module tells.
        """
        memory_bytes, elements = self._told(MEMORY_EXPORT), self._told(TABLE_EXPORT)
        shares = self.preparation.shares
        if memory_bytes > 0:
            words = f"a memory was refused growth to {mebibytes(memory_bytes)}"
            if shares.memory_bytes < self.preparation.memory_bytes:
                words += f" (its share is {mebibytes(shares.memory_bytes)})"
            return words, True
        if elements > 0:
            words = f"a table was refused growth to {elements} elements"
            return f"{words} (its share is {shares.table_elements})", True
        for kind, told in (("memory", memory_bytes), ("table", elements)):
            if told == PAST_MAXIMUM:
                words = f"a {kind} was refused growth past the maximum that the module declares"
                return words, False
        return "", False

    def _told(self, name: str) -> int:
        """Return a global of the module's that tells of a refusal; 0 if it has none."""
        if not self.preparation.tells_refusals or self.instance is None:
            return 0
        extern, value = self.export(name), ffi.wasmtime_val_t()
        if extern is None or not is_a(extern, ffi.WASMTIME_EXTERN_GLOBAL):
            return 0
        context = self.store._context()  # noqa: SLF001
        ffi.wasmtime_global_get(context, ctypes.byref(extern.of.global_), ctypes.byref(value))
        return int(value.of.i64)

    def exit(self, exit_code: int) -> None:
        """End as the guest asked for (``proc_exit``): there is nothing to come back to."""
        if exit_code == 0 and self._is_command:
            self.end(RunReport(Code.OK, exit_code=0))
        message = f"the program exited with code {exit_code}"
        report = self.with_growth_reason(RunReport(Code.EXIT, message, exit_code=exit_code))
        self.end(report)

    def end(self, report: RunReport) -> None:
        """Report here and now; does not return."""
        self._report_now(self.with_usage(report, time.perf_counter() - self._started))

    def with_usage(self, report: RunReport, run_seconds: float) -> RunReport:
        """Return the report with what the store can tell."""
        return msgspec.structs.replace(
            report,
            fuel_used=self.fuel_used(),
            memory_bytes=self.memory_bytes(),
            run_seconds=run_seconds,
            cpu_seconds=self.cpu_seconds(),
        )

    def cpu_seconds(self) -> float:
        """Return the processor time of the run so far."""
        return time.process_time() - self._cpu_started

    def give_fuel(self) -> None:
        """Give the store its fuel; without a limit, as much as can be counted."""
        if self.preparation.options.counts_fuel:
            fuel = self.preparation.fuel
            self._fuel = _MAX_FUEL if fuel is None else fuel
            self.store.set_fuel(self._fuel)

    def fuel_used(self) -> int | None:
        """Return how much fuel was used so far; None where none is counted."""
        return None if self._fuel is None else self._fuel - self.store.get_fuel()

    def exported_memory(self) -> ffi.wasmtime_extern_t | None:
        """Return the memory whose size is reported; None where the module exports none."""
        name = self.preparation.memory_export
        if self.instance is None or name is None:
            return None
        extern = self.export(name)
        return extern if extern is not None and is_a(extern, ffi.WASMTIME_EXTERN_MEMORY) else None

    def memory_bytes(self) -> int | None:
        """Size of all memories now; they never shrink, so this is their peak.

        None where there is no instance, or where that can't be found out.
        """
        if not self.is_instantiated:
            return None
        if self.preparation.has_hidden_memories:
            return None if self.address_map is None else sum(memory_sizes(self.address_map))
        if self.preparation.memory_export is None:
            return 0
        extern = self.exported_memory()
        if extern is None:
            return None
        return int(
            ffi.wasmtime_memory_data_size(self.store._context(), ctypes.byref(extern.of.memory))  # noqa: SLF001
        )

    def _give_wasi(self, wasi: WasiContext, descriptors: list[int], raw: bytes) -> None:
        """Give the store its WASI world; lays the job's files."""
        stdout_fd, stderr_fd, *directories = descriptors
        config = WasiConfig()
        config.argv = list(wasi.argv)
        config.env = list(wasi.env.items())
        stdin = raw[: wasi.stdin_bytes]
        # The wrapper has no call for this one; the library takes ownership of the copy.
        ffi.wasi_config_set_stdin_bytes(config.ptr(), ctypes.byref(ffi.bytes_to_capi(stdin)))
        if self.engine.files is not None:
            self.engine.files.begin()
        if wasi.disk_bytes is not None:
            time_ns = DETERMINISTIC_CLOCK_NS if self.preparation.options.deterministic else None
            _lay_files(directories[0], wasi.files, memoryview(raw)[wasi.stdin_bytes :], time_ns)
            # Old Rust programs look for a directory of the second name.
            for name in ("/", "."):
                config.preopen_dir(f"/proc/self/fd/{directories[0]}", name)
            for name, fd in zip(wasi.grants, directories[1:], strict=True):
                config.preopen_dir(f"/proc/self/fd/{fd}", f"/{name}", fs_mutable=False)
        config.stdout_custom = lambda data: self.capture(stdout_fd, data)
        config.stderr_custom = lambda data: self.capture(stderr_fd, data)
        self.store.set_wasi(config)

    def capture(self, fd: int, data: bytes) -> int:
        """Append the guest's output to a stream; past the limit, end the process here and now."""
        view = memoryview(data)[: self.output_room_bytes]
        while view:
            view = view[os.write(fd, view) :]
        self.output_room_bytes -= len(data)
        if self.output_room_bytes < 0:
            message = f"wrote more than {self.preparation.output_bytes} bytes of output"
            self.end(RunReport(Code.OUTPUT_LIMIT, message))
        return len(data)

    def export(self, name: str) -> ffi.wasmtime_extern_t | None:
        """Look one export up: listing them all takes time that grows with their square."""
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
        extern = self.export(name)
        if extern is None or not is_a(extern, ffi.WASMTIME_EXTERN_FUNC):
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

    They, and directories, seem to have been made at ``time_ns``, or else now.
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
    if time_ns is not None:
        for path in made:
            os.utime(path, ns=(time_ns, time_ns), dir_fd=directory)


def is_a(extern: ffi.wasmtime_extern_t, kind: ctypes.c_uint8) -> bool:
    """Whether an export is of this kind."""
    given: Any = extern.kind  # a plain int, whatever its declaration says
    return bool(given == kind.value)
