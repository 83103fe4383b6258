"""The engine and linker that compiling and running children share.

Built once in the forking server, before any fork, so that a child finds them warm. Compiling and
running must agree on every setting here: wasmtime refuses machine code of another configuration.
"""

from dataclasses import dataclass

from wasmtime import Config, Engine, Linker

from wasmdrop.sandbox.messages import EngineOptions

__all__ = ["Runtime"]


@dataclass(frozen=True)
class Runtime:
    """An engine with its options, and a linker that knows WASI preview 1."""

    options: EngineOptions
    engine: Engine
    linker: Linker

    @classmethod
    def build(cls, options: EngineOptions) -> "Runtime":
        """Build the engine for ``options``; about 0.1 ms."""
        config = Config()
        # A thread pool does not survive a fork: a child that compiled on one would wait for ever.
        config.parallel_compilation = False
        config.consume_fuel = options.fuel
        engine = Engine(config)
        linker = Linker(engine)
        linker.define_wasi()
        return cls(options, engine, linker)
