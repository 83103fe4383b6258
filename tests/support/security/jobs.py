"""Modules and calls that must give the same result with a zygote and without."""

from typing import Final

from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.wire import EngineOptions

LIMITS: Final = Limits(timeout_sec=20, memory_mb=16, output_mb=1)
FUEL: Final = EngineOptions(fuel=True)
NOTHING: Final = FunctionType((), ())
AN_I32: Final = FunctionType((), ("i32",))

WASI: Final = "wasi_snapshot_preview1"
YIELD: Final = f'(import "{WASI}" "sched_yield" (func (result i32)))'

#: Adds one to a global, to a word of memory and to the size of a table; returns their sum.
STATE: Final = """
  (global $g (mut i32) (i32.const 0)) (memory (export "memory") 1) (table $t 0 funcref)
  (func (export "run") (result i32)
    (global.set $g (i32.add (global.get $g) (i32.const 1)))
    (i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 100)))
    (drop (table.grow $t (ref.null func) (i32.const 1)))
    (i32.add (i32.add (global.get $g) (i32.load (i32.const 8)))
             (i32.mul (table.size $t) (i32.const 10000))))
"""
PRINT: Final = f"""
  (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "{WASI}" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "{WASI}" "proc_exit" (func $exit (param i32)))
  (import "{WASI}" "args_sizes_get" (func $args (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func $say (param $bytes i32)
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (local.get $bytes))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12))))
"""
ECHO: Final = f"""
  {PRINT}
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1000))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 12)))
    (call $say (i32.load (i32.const 12)))
    (drop (call $args (i32.const 64) (i32.const 68))) (call $say (i32.const 8)))
"""
RANDOM: Final = f"""
  (import "{WASI}" "random_get" (func $random (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "run") (result i64)
    (drop (call $random (i32.const 0) (i32.const 8))) (i64.load (i32.const 0)))
"""
LOOP: Final = '(func (export "run") (result i32) (loop (br 0)) (unreachable))'
#: Returns 1 after the given number of iterations.
TURNS: Final = """
  (func (export "run") (param i64) (result i32)
    (loop (local.set 0 (i64.sub (local.get 0) (i64.const 1)))
      (br_if 0 (i64.gt_s (local.get 0) (i64.const 0)))) (i32.const 1))
"""

#: Modules and their calls, by name.
SAME: Final[dict[str, tuple[str, Call, Limits, EngineOptions]]] = {
    "a result": (STATE, Call("run", AN_I32), LIMITS, EngineOptions()),
    "a result with WASI": (YIELD + STATE, Call("run", AN_I32), LIMITS, EngineOptions()),
    "a trap": (
        '(func $deep (unreachable)) (func (export "run") (call $deep))',
        Call("run", NOTHING),
        LIMITS,
        EngineOptions(),
    ),
    "a trap with WASI": (
        YIELD + '(func (export "run") (unreachable))',
        Call("run", NOTHING),
        LIMITS,
        EngineOptions(),
    ),
    "too deep a stack": (
        '(func $f (export "run") (call $f) (call $f))',
        Call("run", NOTHING),
        LIMITS,
        EngineOptions(),
    ),
    "a timeout": (
        LOOP,
        Call("run", AN_I32),
        Limits(timeout_sec=0.3, memory_mb=16),
        EngineOptions(),
    ),
    "all the available memory": (
        """(memory (export "memory") 1) (func (export "run") (result i32)
          (loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) (memory.size))""",
        Call("run", AN_I32),
        LIMITS,
        EngineOptions(),
    ),
    "used fuel": (
        TURNS,
        Call("run", FunctionType(("i64",), ("i32",)), (100,)),
        LIMITS,
        FUEL,
    ),
    "no fuel left": (
        TURNS,
        Call("run", FunctionType(("i64",), ("i32",)), (100_000,)),
        Limits(timeout_sec=20, memory_mb=16, fuel=1000),
        FUEL,
    ),
    "bits of floats": (
        '(func (export "run") (param f32 f64) (result f64 f32) (local.get 1) (local.get 0))',
        Call(
            "run",
            FunctionType(("f32", "f64"), ("f64", "f32")),
            (0x7FA00001, 0x7FF4000000000001),
        ),
        LIMITS,
        EngineOptions(),
    ),
    "the output of a program": (
        ECHO,
        Call(
            "_start",
            NOTHING,
            argv=("one", "two"),
            is_command=True,
            stdin=b"said",
            env={"name": "value"},
        ),
        LIMITS,
        EngineOptions(),
    ),
    "too much output of a program": (
        f'{PRINT} (func (export "_start") (loop (call $say (i32.const 60000)) (br 0)))',
        Call("_start", NOTHING, is_command=True),
        LIMITS,
        EngineOptions(),
    ),
    "a program's exit": (
        f'{PRINT} (func (export "_start") (call $say (i32.const 3)) (call $exit (i32.const 77)))',
        Call("_start", NOTHING, is_command=True),
        LIMITS,
        EngineOptions(),
    ),
    "a library with _initialize": (
        f"""{YIELD} (global $ready (mut i32) (i32.const 0))
          (func (export "_initialize")
            (global.set $ready (i32.add (global.get $ready) (i32.const 1))))
          (func (export "run") (result i32) (global.get $ready))""",
        Call("run", AN_I32),
        LIMITS,
        EngineOptions(),
    ),
}
