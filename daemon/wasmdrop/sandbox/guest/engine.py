"""The engine and linker that compiling and running children share.

Built once in the forking server, before any fork, so that a child finds them warm. Compiling and
running must agree on every setting here: wasmtime refuses machine code of another configuration.
"""

from collections.abc import Callable

import wasmtime
from wasmtime import Config, FuncType, Linker, ValType, component

from wasmdrop.protocol.module_types import WASI_MODULE
from wasmdrop.sandbox.guest.deterministic import wasi_preview1, wasi_preview2
from wasmdrop.sandbox.guest.deterministic.clock_and_random import ClockAndRandom
from wasmdrop.sandbox.guest.deterministic.wasi_preview2_relay import compile_relay
from wasmdrop.sandbox.guest.wasmtime_ffi import ffi
from wasmdrop.sandbox.wire import EngineOptions

__all__ = ["Engine"]


class Engine:
    """An engine for ``options``, and linkers of modules and components that know WASI.

    Built in some 0.4 ms.
    """

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        config = Config()
        # A thread pool does not survive a fork: a child that compiled on one would wait for ever.
        config.parallel_compilation = False
        # Proposals that wasmtime implements, but has off until they are standardized.
        config.wasm_custom_page_sizes = True
        ffi.wasmtime_config_wasm_compact_imports_set(config.ptr(), True)
        config.consume_fuel = options.counts_fuel
        if options.deterministic:
            config.cranelift_nan_canonicalization = True
            config.wasm_relaxed_simd_deterministic = True
        self.wasmtime_engine = wasmtime.Engine(config)
        self.linker = Linker(self.wasmtime_engine)
        self.linker.define_wasi()
        # wasmtime's own tells exit codes up to 125 only; this one tells them all.
        self.linker.allow_shadowing = True
        self.linker.define_func(WASI_MODULE, "proc_exit", FuncType([ValType.i32()], []), self._exit)
        self.component_linker = component.Linker(self.wasmtime_engine)
        self.component_linker.add_wasip2()
        self._world: ClockAndRandom | None = None
        if options.deterministic:
            self.component_linker.allow_shadowing = True
            self._world = ClockAndRandom()
            self._world.install(self.linker, self.component_linker)
        self.files: wasi_preview1.Preview1Files | wasi_preview2.Preview2Files | None = None
        """Set by :meth:`use_deterministic_files`; to enter the job's store."""
        self.on_exit: Callable[[int], None] | None = None
        """Called with the exit code when the guest asks to end; does not return."""

    def use_deterministic_files(self, *, of_component: bool) -> None:
        """Make what a deterministic job is told of files the same each time; other jobs' stays.

        Compiles, which a running guest may not do. Not to be called twice.
        """
        if self._world is None:
            return
        now_ns = self._world.now_ns
        if of_component:
            component_relay = compile_relay(self.wasmtime_engine)
            self.files = wasi_preview2.Preview2Files(component_relay, self.component_linker, now_ns)
        else:
            relay = wasi_preview1.compile_relay(self.wasmtime_engine)
            self.files = wasi_preview1.Preview1Files(relay, self.linker, now_ns)

    def _exit(self, code: int) -> None:
        assert self.on_exit is not None  # noqa: S101 - set as long as a guest runs
        self.on_exit(code & 0xFFFFFFFF)
