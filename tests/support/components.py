"""Components, as text: one with a function for every type, and a command."""

from typing import Any, Final

#: A core module whose function returns any list unchanged, and its instance.
CORE: Final = """
(core module $core
  (memory (export "memory") 1)
  (global $top (mut i32) (i32.const 1024))
  (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
    (global.set $top (i32.add (local.get $at) (local.get 3)))
    (block $enough (br_if $enough (i32.le_u (global.get $top)
        (i32.mul (memory.size) (i32.const 65536))))
      (drop (memory.grow (i32.const 256))))
    (local.get $at))
  (func (export "echo") (param i32 i32) (result i32)
    (i32.store (i32.const 8) (local.get 0)) (i32.store (i32.const 12) (local.get 1))
    (i32.const 8))
  (func (export "endless") (loop (br 0)))
  (func (export "trap") (unreachable))
  (func (export "many") (param i32) (result i32)
    (drop (memory.grow (i32.const 64)))
    (i32.store (i32.const 8) (i32.const 1024)) (i32.store (i32.const 12) (local.get 0))
    (i32.const 8)))
(core instance $i (instantiate $core))
(alias core export $i "memory" (core memory $memory))
(alias core export $i "realloc" (core func $realloc))
"""

#: By the name of its echo function: a type, and values that come back as they go in.
ECHOES: Final[dict[str, tuple[str, list[Any]]]] = {
    "bool": ("bool", [True, False]),
    "s8": ("s8", [-128, 127]),
    "u8-in-tuple": ("(tuple u8)", [[0], [255]]),
    "s16": ("s16", [-32768, 32767]),
    "u16": ("u16", [0, 65535]),
    "s32": ("s32", [-(2**31), 2**31 - 1]),
    "u32": ("u32", [0, 2**32 - 1]),
    "s64": ("s64", [-(2**63), 2**63 - 1]),
    "u64": ("u64", [0, 2**64 - 1]),
    "f32": ("float32", [0.1, -0.0, "NaN", "-Infinity", 3.4028235e38]),
    "f64": ("float64", [0.1, 5e-324, "NaN", "Infinity"]),
    "char": ("char", ["a", "é", "💧", "\0"]),
    "string": ("string", ["", "héllo\n", "\0"]),
    "option": ("(option u32)", [None, 7]),
    "option-of-option": ("(option (option u32))", [None, {"some": None}, {"some": 7}]),
    "result": ("(result string (error u8))", [{"ok": "x"}, {"err": 3}]),
    "bare-result": ("(result)", [{"ok": None}, {"err": None}]),
    "result-of-error": ("(result (error string))", [{"ok": None}, {"err": "no"}]),
    "tuple": ("(tuple u8 string)", [[1, "a"], [2, ""]]),
    "list": ("(list s16)", [[], [1, -1]]),
    "list-of-bytes": ("(list u8)", [[], [0, 255]]),
    "option-of-list": ("(option (list string))", [None, [], ["a"]]),
}

#: The same for types that must have a name.
NAMED: Final[dict[str, tuple[str, list[Any]]]] = {
    "record": ('(record (field "x" float64) (field "a-b" string))', [{"x": 1.5, "a-b": "p"}]),
    "variant": (
        '(variant (case "dot") (case "circle" float64) (case "label" string))',
        ["dot", {"circle": 2.5}, {"label": "dot"}],
    ),
    "enum": ('(enum "red" "dark-green")', ["red", "dark-green"]),
    "flags": ('(flags "read" "write" "exec")', [[], ["write"], ["read", "exec"]]),
}


def _echo(name: str, form: str) -> str:
    return (
        f'(func $echo-{name} (param "items" (list {form})) (result (list {form}))'
        ' (canon lift (core func $i "echo") (memory $memory) (realloc $realloc)))'
        f'(export "echo-{name}" (func $echo-{name}))'
    )


def _interface() -> str:
    types = "".join(f"(type $t-{name} {form})" for name, (form, _values) in NAMED.items())
    imports = "".join(
        f'(import "{name}" (type $n-{name} (eq $t-{name})))'
        f'(import "echo-{name}" (func $f-{name} (param "items" (list $n-{name}))'
        f" (result (list $n-{name}))))"
        f'(export $e-{name} "{name}" (type $n-{name}))'
        f'(export "echo-{name}" (func $f-{name}) (func (param "items" (list $e-{name}))'
        f" (result (list $e-{name}))))"
        for name in NAMED
    )
    functions = "".join(
        f'(func $echo-{name} (param "items" (list $t-{name})) (result (list $t-{name}))'
        ' (canon lift (core func $i "echo") (memory $memory) (realloc $realloc)))'
        for name in NAMED
    )
    given = "".join(
        f'(with "{name}" (type $t-{name})) (with "echo-{name}" (func $echo-{name}))'
        for name in NAMED
    )
    return (
        f"{types}{functions}(component $shapes {types}{imports})"
        f'(instance $shapes (instantiate $shapes {given})) (export "a:b/shapes@1.0.0" '
        "(instance $shapes))"
    )


EVERYTHING: Final = f"""(component {CORE}
  {"".join(_echo(name, form) for name, (form, _values) in ECHOES.items())}
  {_interface()}
  (func (export "endless") (canon lift (core func $i "endless")))
  (func (export "trap") (canon lift (core func $i "trap")))
  (func (export "many") (param "count" u32) (result string)
    (canon lift (core func $i "many") (memory $memory)))
  (type $handle' (resource (rep i32)))
  (export $handle "handle" (type $handle'))
  (core func $new (canon resource.new $handle'))
  (core module $made (import "" "new" (func $new (param i32) (result i32)))
    (func (export "make") (result i32) (call $new (i32.const 1))))
  (core instance $made (instantiate $made (with "" (instance (export "new" (func $new))))))
  (func (export "make") (result (own $handle)) (canon lift (core func $made "make")))
)"""

#: A command that prints its name by WASI 0.2, and ends with what ``RESULT`` is: 0 ok, 1 err.
COMMAND: Final = """(component
  (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $error-type))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $stream (sub resource)))
    (alias outer 1 $error-type (type $outer-error))
    (export "error" (type $error (eq $outer-error)))
    (type $failure (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $failure)))
    (export "[method]output-stream.blocking-write-and-flush" (func (param "self" (borrow $stream))
      (param "contents" (list u8)) (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $stream))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $stream (type $outer-stream))
    (export "output-stream" (type $own (eq $outer-stream)))
    (export "get-stdout" (func (result (own $own))))))
  (core module $memory (memory (export "memory") 1))
  (core instance $memory (instantiate $memory))
  (alias core export $memory "memory" (core memory $mem))
  (core func $get (canon lower (func $stdout "get-stdout")))
  (core func $write (canon lower
    (func $streams "[method]output-stream.blocking-write-and-flush") (memory $mem)))
  (core module $main
    (import "host" "memory" (memory 1))
    (import "host" "get" (func $get (result i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (data (i32.const 64) "hello\\n")
    (func (export "run") (result i32)
      (call $write (call $get) (i32.const 64) (i32.const 6) (i32.const 128))
      (i32.const RESULT)))
  (core instance $main (instantiate $main (with "host" (instance
    (export "memory" (memory $mem)) (export "get" (func $get)) (export "write" (func $write))))))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (component $cli (import "run" (func $run (result (result)))) (export "run" (func $run)))
  (instance $cli (instantiate $cli (with "run" (func $run))))
  (export "wasi:cli/run@0.2.0" (instance $cli))
)"""

#: Returns what WASI 0.2 tells of wall clock, in seconds, monotonic clock and randomness.
CLOCKS_AND_RANDOM: Final = """(component
  (import "wasi:clocks/wall-clock@0.2.0" (instance $wall
    (type $d (record (field "seconds" u64) (field "nanoseconds" u32)))
    (export "datetime" (type $datetime (eq $d)))
    (export "now" (func (result $datetime)))))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (export "now" (func (result u64)))))
  (import "wasi:random/random@0.2.0" (instance $random
    (export "get-random-u64" (func (result u64)))))
  (core module $memory (memory (export "memory") 1))
  (core instance $memory (instantiate $memory))
  (alias core export $memory "memory" (core memory $mem))
  (core func $now (canon lower (func $wall "now") (memory $mem)))
  (core func $monotonic (canon lower (func $clock "now")))
  (core func $u64 (canon lower (func $random "get-random-u64")))
  (core module $main
    (import "h" "memory" (memory 1)) (import "h" "now" (func $now (param i32)))
    (import "h" "monotonic" (func $monotonic (result i64)))
    (import "h" "u64" (func $u64 (result i64)))
    (func (export "run") (result i32) (call $now (i32.const 64))
      (i64.store (i32.const 8) (i64.load (i32.const 64)))
      (i64.store (i32.const 16) (call $monotonic))
      (i64.store (i32.const 24) (call $u64)) (i32.const 8)))
  (core instance $main (instantiate $main (with "h" (instance (export "memory" (memory $mem))
    (export "now" (func $now)) (export "monotonic" (func $monotonic))
    (export "u64" (func $u64))))))
  (func (export "run") (result (tuple u64 u64 u64))
    (canon lift (core func $main "run") (memory $mem))))"""
