"""Run a core module: one call into one instance of compiled machine code."""

import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from wasmtime import Instance, Module, Store, Trap, WasmtimeError

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.outcome import DETERMINISTIC_CLOCK_NS, Code
from wasmdrop.protocol.text import bounded_text
from wasmdrop.sandbox.failures import (
    error_refusal,
    may_lack_memory,
    memory_refusal,
    refused_growth,
    trap_refusal,
    with_growth_reason,
)
from wasmdrop.sandbox.guest.engine import Engine
from wasmdrop.sandbox.guest.growth_refusals import MEMORY_EXPORT, TABLE_EXPORT
from wasmdrop.sandbox.guest.memory_usage import memory_sizes
from wasmdrop.sandbox.guest.wasi_setup import wasi_config
from wasmdrop.sandbox.guest.wasmtime_ffi import (
    call_function,
    find_export,
    global_value,
    memory_bytes,
)
from wasmdrop.sandbox.wire import Invocation, Preparation, RunReport
from wasmdrop.system.descriptors import write_all

#: wasmtime counts fuel in an unsigned 64-bit integer; half of that can't overflow in its sums.
MAX_FUEL: Final = (1 << 63) - 1


def run_module(
    run: "ModuleRun",
    invocation: Invocation,
    descriptors: list[int],
    payload: bytes,
    loaded: Callable[[], None],
) -> RunReport:
    """Load, link and call a module or component.

    ``loaded`` is called when no file is needed any more, before any of the guest's code runs.
    """

    def make_ready() -> None:
        run.load(descriptors[0])
        run.set_up_wasi(invocation, descriptors[1:], payload)
        loaded()
        run.link()

    return run.execute(invocation, make_ready)


class StaleCodeError(Exception):
    """This engine can't load the machine code."""


class ModuleRun:
    """One instance of a module, and the report of how its call ended.

    ``report_now`` sends a report and ends the process. It is for a guest that ends in the middle of
    a host call, because an exception can't pass through wasmtime.
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
        self.instance: Instance | None = None
        self.is_instantiated = False
        self.output_room_bytes = preparation.output_bytes
        self._report_now = report_now
        self._is_command = False
        self._started = self._cpu_started = 0.0
        self._fuel: int | None = None

    def load(self, code_fd: int) -> None:
        """Map the machine code; raise ``StaleCodeError`` if this engine can't load it."""
        self.set_store_limits()
        # Deserializing from a path maps the code instead of copying it.
        try:
            self.module = Module.deserialize_file(
                self.engine.wasmtime_engine, f"/proc/self/fd/{code_fd}"
            )
        except WasmtimeError as error:
            raise StaleCodeError(str(error)) from None

    def set_store_limits(self) -> None:
        """Set the limits for instantiation."""
        # The relay's memory must not count against the guest's limits.
        if self.engine.files is not None:
            self.engine.files.enter(self.store)
        shares = self.preparation.shares
        self._limit(shares.memory_bytes_at_first, shares.table_elements_at_first)
        if self.preparation.options.counts_fuel:
            fuel = self.preparation.fuel
            self._fuel = MAX_FUEL if fuel is None else fuel
            self.store.set_fuel(self._fuel)

    def set_growth_limits(self) -> None:
        """Set the limits of growth, after instantiation."""
        shares = self.preparation.shares
        self.is_instantiated = True
        self._limit(shares.memory_bytes, shares.table_elements)

    def _limit(self, memory_bytes: int, table_elements: int) -> None:
        self.store.set_limits(memory_size=memory_bytes, table_elements=table_elements)

    def link(self) -> None:
        """Create the instance; raise ``RefusedError`` if that fails."""
        assert self.module is not None  # noqa: S101 - loaded before
        try:
            linked = self.engine.linker.instantiate_pre(self.module)
        except WasmtimeError as error:
            raise RefusedError(Code.LINK_ERROR, bounded_text(str(error))) from None
        try:
            self.instance = linked.instantiate(self.store)
            self.set_growth_limits()
        except Trap as trap:
            raise _refusal_of(trap, "while the module was instantiated: ") from None
        except WasmtimeError as error:
            # The module is linked, so its minimum size exceeds a limit of the store.
            raise memory_refusal(str(error)) from None

    def set_up_wasi(self, invocation: Invocation, descriptors: list[int], raw: bytes) -> None:
        """Set up WASI and write the job's files, if the invocation asks for it."""
        if invocation.wasi is None:
            return
        if self.engine.files is not None:
            self.engine.files.begin()
        time_ns = DETERMINISTIC_CLOCK_NS if self.preparation.options.deterministic else None
        self.store.set_wasi(wasi_config(invocation.wasi, descriptors, raw, self.capture, time_ns))

    def execute(self, invocation: Invocation, before: Callable[[], None]) -> RunReport:
        """Call ``before``, then the entry; return the report."""
        self.begin(is_command=invocation.is_command)
        try:
            before()
            report = self.call(invocation)
        except RefusedError as refusal:
            report = RunReport(refusal.code, refusal.message)
        except StaleCodeError as error:
            return RunReport(Code.INTERNAL, bounded_text(str(error)), stale_code=True)
        finally:
            # A reference to this run keeps the descriptor of its machine code. It would be closed
            # later, when its number may belong to another file.
            self.engine.on_exit = None
        return self.with_usage(report, time.perf_counter() - self._started)

    def begin(self, *, is_command: bool = False) -> float:
        """Start the clocks and handle ``proc_exit`` from now on; return the start time."""
        self._cpu_started = time.process_time()
        self._started = time.perf_counter()
        self._is_command = is_command
        self.engine.on_exit = self.exit
        return self._started

    def call(self, invocation: Invocation) -> RunReport:
        """Call the entry; return the report."""
        try:
            if invocation.initialize:
                call_function(self.store, self.function("_initialize"), (), (), ())
            signature = invocation.signature
            entry = self.function(invocation.entry)
            results = call_function(
                self.store, entry, signature.params, invocation.args, signature.results
            )
        except (Trap, WasmtimeError) as end:
            return self.failure_report(end)
        return RunReport(Code.OK, "", results, exit_code=0 if invocation.is_command else None)

    def failure_report(self, end: Trap | WasmtimeError) -> RunReport:
        """Return the report of a call that failed with ``end``."""
        refusal = _refusal_of(end) if isinstance(end, Trap) else error_refusal(str(end))
        return self.with_growth_reason(RunReport(refusal.code, refusal.message))

    def with_growth_reason(self, report: RunReport) -> RunReport:
        """Return the report, with the refused growth of a memory or table if there was one."""
        if not may_lack_memory(report):
            return report
        refused, is_by_limit = self.refused_growth()
        return with_growth_reason(report, refused, is_by_limit=is_by_limit)

    def refused_growth(self) -> tuple[str, bool]:
        """Return a description of refused growth, and whether the job's limit refused it."""
        return refused_growth(
            self.preparation, self._refused(MEMORY_EXPORT), self._refused(TABLE_EXPORT)
        )

    def _refused(self, name: str) -> int:
        """Return an instrumented module's record of a refusal; 0 if there is none."""
        if not self.preparation.tells_refusals or self.instance is None:
            return 0
        exported = find_export(self.store, self.instance, name, "global")
        return 0 if exported is None else global_value(self.store, exported)

    def exit(self, exit_code: int) -> None:
        """Handle ``proc_exit``: report and end the process."""
        if exit_code == 0 and self._is_command:
            self.end(RunReport(Code.OK, exit_code=0))
        message = f"the program exited with code {exit_code}"
        report = self.with_growth_reason(RunReport(Code.EXIT, message, exit_code=exit_code))
        self.end(report)

    def end(self, report: RunReport) -> None:
        """Send the report and end the process."""
        self._report_now(self.with_usage(report, time.perf_counter() - self._started))

    def with_usage(self, report: RunReport, run_seconds: float) -> RunReport:
        """Return the report with the resources that the run used."""
        return msgspec.structs.replace(
            report,
            fuel_used=self.fuel_used(),
            memory_bytes=self.memory_bytes(),
            run_seconds=run_seconds,
            cpu_seconds=self.cpu_seconds(),
        )

    def cpu_seconds(self) -> float:
        """Return the CPU time of the run so far."""
        return time.process_time() - self._cpu_started

    def fuel_used(self) -> int | None:
        """Return the fuel used so far; None if fuel is not counted."""
        return None if self._fuel is None else self._fuel - self.store.get_fuel()

    def exported_memory(self) -> Any | None:
        """Return the memory whose size is reported; None if the module exports none."""
        name = self.preparation.memory_export
        if self.instance is None or name is None:
            return None
        return find_export(self.store, self.instance, name, "memory")

    def memory_bytes(self) -> int | None:
        """Return the size of all memories, which never shrink; None if it is unknown."""
        if not self.is_instantiated:
            return None
        if self.preparation.has_hidden_memories:
            return None if self.address_map is None else sum(memory_sizes(self.address_map))
        if self.preparation.memory_export is None:
            return 0
        memory = self.exported_memory()
        return None if memory is None else memory_bytes(self.store, memory)

    def capture(self, fd: int, data: bytes) -> int:
        """Append the guest's output to a stream; end the process if it exceeds the limit."""
        write_all(fd, data[: self.output_room_bytes])
        self.output_room_bytes -= len(data)
        if self.output_room_bytes < 0:
            message = f"wrote more than {self.preparation.output_bytes} bytes of output"
            self.end(RunReport(Code.OUTPUT_LIMIT, message))
        return len(data)

    def function(self, name: str) -> Any:
        """Return an exported function; raise ``RefusedError`` if there is none of this name."""
        assert self.instance is not None  # noqa: S101 - linked before
        found = find_export(self.store, self.instance, name, "func")
        if found is None:
            raise RefusedError(Code.ENTRY_NOT_FOUND, f"the module exports no function {name!r}")
        return found


def _refusal_of(trap: Trap, where: str = "") -> RefusedError:
    names = [frame.func_name or f"function {frame.func_index}" for frame in trap.frames]
    number = None if trap.trap_code is None else trap.trap_code.value
    return trap_refusal(number, str(trap), names, len(names), where)
