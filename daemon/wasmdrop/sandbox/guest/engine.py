"""The engine and linkers that compile and run modules.

The fork server builds them once, before any fork. Compiling and running need the same settings:
wasmtime refuses machine code of another configuration.
"""

from collections.abc import Callable
from typing import Final

import wasmtime
from wasmtime import Config, FuncType, Linker, ValType, component

from wasmdrop.protocol.module_types import WASI_MODULE
from wasmdrop.sandbox.guest.deterministic import wasi_preview1, wasi_preview2
from wasmdrop.sandbox.guest.deterministic.clock_and_random import ClockAndRandom
from wasmdrop.sandbox.guest.deterministic.wasi_preview2_relay import compile_relay
from wasmdrop.sandbox.guest.wasmtime_ffi import ffi
from wasmdrop.sandbox.wire import EngineOptions

#: Stack that the functions of a module may use, in bytes: the default of wasmtime 50. It is set by
#: name because a program that recurses too deeply must trap at the same call with other versions.
MAX_STACK_BYTES: Final = 512 * 1024


class Engine:
    """A wasmtime engine for ``options``, and linkers for modules and components, with WASI.

    Takes about 0.4 ms to build.
    """

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        config = Config()
        # A thread pool does not survive a fork: a child that compiles on it would hang.
        config.parallel_compilation = False
        # Proposals that wasmtime implements but disables until they are standardized.
        config.wasm_custom_page_sizes = True
        ffi.wasmtime_config_wasm_compact_imports_set(config.ptr(), True)
        config.max_wasm_stack = MAX_STACK_BYTES
        config.consume_fuel = options.counts_fuel
        if options.deterministic:
            config.cranelift_nan_canonicalization = True
            config.wasm_relaxed_simd_deterministic = True
        self.wasmtime_engine = wasmtime.Engine(config)
        self.linker = Linker(self.wasmtime_engine)
        self.linker.define_wasi()
        # wasmtime's own proc_exit supports exit codes up to 125 only.
        self.linker.allow_shadowing = True
        self.linker.define_func(WASI_MODULE, "proc_exit", FuncType([ValType.i32()], []), self._exit)
        self.component_linker = component.Linker(self.wasmtime_engine)
        self.component_linker.add_wasip2()
        self._clock_and_random: ClockAndRandom | None = None
        if options.deterministic:
            self.component_linker.allow_shadowing = True
            self._clock_and_random = ClockAndRandom()
            self._clock_and_random.install(self.linker, self.component_linker)
        self.files: wasi_preview1.Preview1Files | wasi_preview2.Preview2Files | None = None
        """Set by :meth:`use_deterministic_files`; added to each store."""
        self.on_exit: Callable[[int], None] | None = None
        """Called with the exit code when the guest exits; does not return."""

    def use_deterministic_files(self, *, of_component: bool) -> None:
        """Make file metadata deterministic, if the engine is for deterministic jobs.

        Must be called once, before confinement forbids compiling.
        """
        if self._clock_and_random is None:
            return
        now_ns = self._clock_and_random.now_ns
        if of_component:
            component_relay = compile_relay(self.wasmtime_engine)
            self.files = wasi_preview2.Preview2Files(component_relay, self.component_linker, now_ns)
        else:
            relay = wasi_preview1.compile_relay(self.wasmtime_engine)
            self.files = wasi_preview1.Preview1Files(relay, self.linker, now_ns)

    def _exit(self, code: int) -> None:
        assert self.on_exit is not None  # noqa: S101 - set while a guest runs
        self.on_exit(code & 0xFFFFFFFF)
