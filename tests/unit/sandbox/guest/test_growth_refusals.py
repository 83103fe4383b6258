"""Modules instrumented to record refused growth of memories and tables."""

from typing import Any, Final

import pytest
from wasmtime import Config, Engine, Instance, Module, Store, Trap, wat2wasm

from wasmdrop.sandbox.failures import PAST_MAXIMUM
from wasmdrop.sandbox.guest.growth_refusals import MEMORY_EXPORT, TABLE_EXPORT, instrument_growth

#: Enables all proposals, so that each instruction is tested.
_CONFIG: Final = Config()
for _name in ("wasm_gc", "wasm_function_references", "wasm_exceptions", "wasm_threads"):
    setattr(_CONFIG, _name, True)
_CONFIG.wasm_wide_arithmetic = True
_CONFIG.shared_memory = True
ENGINE: Final = Engine(_CONFIG)

#: One or more instructions of each form of operands, for unreachable code.
INSTRUCTIONS: Final = """\
block (result i32) i32.const 1 end drop
block (type $two) unreachable end drop drop
loop (result (ref null $s)) ref.null $s end drop
i32.const 1 if (result i64) i64.const -1 else i64.const 9223372036854775807 end drop
block block block i32.const 0 br_table 0 1 2 1 end end end
block i32.const 0 br_if 0 end
call $other
i32.const 0 call_indirect $t (type $none)
ref.func $other call_ref $none
i32.const 1 i32.const 2 i32.const 3 select drop
ref.null func ref.null func i32.const 3 select (result funcref) drop
i32.const 1 local.set 0 local.get 0 local.tee 0 global.set $g global.get $g drop
i32.const 0 table.get $t i32.const 0 ref.null func table.set $t drop
i32.const 4 i32.load offset=4294967295 drop
i32.const 4 i64.load32_u $n align=2 drop
i32.const 4 f64.const nan:0x123 f64.store
i32.const 1 memory.grow drop memory.size $n drop
f32.const -0x1p-149 f64.promote_f32 i64.trunc_sat_f64_s drop
i32.const 0 i32.const 0 i32.const 0 memory.init $n $d data.drop $d
i32.const 0 i32.const 0 i32.const 0 memory.copy $n $m
i32.const 0 i32.const 0 i32.const 0 memory.fill
i32.const 0 i32.const 0 i32.const 0 table.init $t $e elem.drop $e
i32.const 0 i32.const 0 i32.const 0 table.copy $t $t
i32.const 0 ref.null func i32.const 0 table.fill $t table.size $t drop
ref.null extern ref.is_null drop ref.null $s ref.as_non_null drop
block ref.null $s br_on_null 0 drop end
block (result (ref $s)) ref.null $s br_on_non_null 0 unreachable end drop
ref.null eq ref.null eq ref.eq drop
i32.const 1 i64.const 2 struct.new $s struct.get $s 1 drop
struct.new_default $s i32.const 3 struct.set $s 0
i64.const 1 i32.const 2 array.new $a i32.const 0 array.get $a drop
i32.const 3 array.new_default $a array.len drop
i64.const 1 i64.const 2 array.new_fixed $a 2 drop
i32.const 0 i32.const 0 array.new_data $a $d drop
ref.null $a i32.const 0 i64.const 0 array.set $a
ref.null $a i32.const 0 i64.const 0 i32.const 0 array.fill $a
ref.null $a i32.const 0 ref.null $a i32.const 0 i32.const 0 array.copy $a $a
ref.null any ref.test (ref $s) drop ref.null any ref.cast (ref null i31) drop
block (result anyref) ref.null any br_on_cast 0 anyref (ref $s) end drop
ref.null extern any.convert_extern extern.convert_any drop
i32.const 5 ref.i31 i31.get_u drop
v128.const i64x2 0xfc0ffc0ffc0ffc0f 0xfc0f i8x16.popcnt drop
i32.const 0 v128.load offset=2044 drop
i32.const 0 v128.const i64x2 0 0 v128.load8_lane 15 drop
i32.const 0 v128.load32_zero drop
v128.const i64x2 0 0 v128.const i64x2 0 0 i8x16.shuffle 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 drop
v128.const i64x2 0 0 i16x8.extract_lane_s 7 drop
v128.const i64x2 0 0 f32.const 1 f32x4.replace_lane 3 drop
v128.const i64x2 0 0 v128.const i64x2 0 0 i8x16.relaxed_swizzle drop
i32.const 0 i32.const 0 memory.atomic.notify drop atomic.fence
i32.const 0 i32.const 0 i32.const 0 i32.atomic.rmw.cmpxchg drop
i64.const 0 i64.const 0 i64.const 0 i64.const 0 i64.add128 drop drop
i64.const 1 i64.const 2 i64.mul_wide_u drop drop
block (result i32) try_table (catch $tag 0) (catch_all 1) i32.const 1 throw $tag end unreachable\
 end drop
"""

_FRAME: Final = """(module
  (type $none (func)) (type $two (func (result i32 i64)))
  (type $s (struct (field (mut i32)) (field i64))) (type $a (array (mut i64)))
  (tag $tag (param i32))
  (memory $m 1) (memory $n 1) (data $d "12345678")
  (table $t 1 20 funcref) (elem $e funcref (ref.func $other))
  GLOBALS
  (func $other (export "other"))
  (func (export "run") (param i32) (result i32)
    (local $x i64) (local v128 (ref null $s))
    BEFORE
    (table.grow $t (ref.null func) (local.get 0))
    (block AFTER) ))
"""
_GLOBALS: Final = "(global $g (mut i32) (i32.const 0))"


def parts_of(text: str) -> list[str]:
    """Return the lines that are not empty."""
    return [line for line in text.splitlines() if line.strip()]


def run(module: bytes, argument: int) -> tuple[Any, int]:
    """Return the result of ``run``, or None for a trap, and the recorded refusal."""
    store = Store(ENGINE)
    exports = Instance(store, Module(ENGINE, module), []).exports(store)
    try:
        result = exports["run"](store, argument)  # type: ignore[operator]
    except Trap:
        result = None
    return result, _recorded(store, exports)


def _recorded(store: Store, exports: Any) -> int:
    """Return the recorded refusal: of a table, or of a memory in a module that grows no table."""
    names = list(exports)
    recorded = exports[TABLE_EXPORT if TABLE_EXPORT in names else MEMORY_EXPORT].value(store)
    assert isinstance(recorded, int)
    return recorded


def framed(before: str, after: str = "") -> bytes:
    """Return a module with instructions before and after its growth."""
    text = _FRAME.replace("GLOBALS", _GLOBALS).replace("BEFORE", before).replace("AFTER", after)
    return bytes(wat2wasm(text))


@pytest.mark.parametrize("line", parts_of(INSTRUCTIONS))
def test_instruction_before_growth_is_skipped_completely(line: str) -> None:
    """The growth after it is found, and the module works as before."""
    if "i32.const 1 local.set" not in line and "br_" not in line and "try_table" not in line:
        line = f"block {line} end"
    module = framed(f"i32.const 0 if unreachable {line} end", "")
    instrumented = instrument_growth(module)
    assert instrumented is not None
    assert run(instrumented, 5) == (1, 0)
    assert run(instrumented, 50) == (-1, PAST_MAXIMUM)


def test_refusal_is_recorded_when_program_traps_after_it() -> None:
    """The global can still be read."""
    text = """(module (table $t i64 1 2 externref)
      (func (export "run") (param i32) (result i32)
        (table.grow $t (ref.null extern) (i64.extend_i32_u (local.get 0)))
        (if (i64.eq (i64.const -1)) (then (unreachable)))
        (i32.wrap_i64 (table.size $t))))"""
    instrumented = instrument_growth(bytes(wat2wasm(text)))
    assert instrumented is not None
    assert run(instrumented, 1) == (2, 0)
    assert run(instrumented, 2) == (None, PAST_MAXIMUM)


@pytest.mark.parametrize(
    "text",
    [
        '(module (func (export "run") (result i32) (i32.const 2044)))',
        '(module (table 1 funcref) (func (export "run")))',
        "(module (table $t 1 funcref) (func (drop (table.grow $t (ref.null func) (i32.const 1)))))",
        (
            f'(module (table $t 1 funcref) (global (export "{TABLE_EXPORT}") i32 (i32.const 1))'
            ' (func (export "run") (drop (table.grow $t (ref.null func) (i32.const 1)))))'
        ),
        (
            f'(module (memory 1) (func (export "{MEMORY_EXPORT}")'
            " (drop (memory.grow (i32.const 1)))))"
        ),
        (
            '(module (memory 1) (func (export "run") (param i32) (result i32)'
            " (if (local.get 0) (then (unreachable))) (memory.size)))"
        ),
        "(module)",
    ],
    ids=["a-number", "no-growth", "no-exports", "its-own", "its-function", "a-block", "empty"],
)
def test_module_without_growth_is_not_instrumented(text: str) -> None:
    """Nor is one whose numbers look like the instruction."""
    assert instrument_growth(bytes(wat2wasm(text))) is None


def test_numbers_that_look_like_growth_are_unchanged() -> None:
    """Before and after a real growth, in operands of all kinds."""
    text = """(module (memory 1) (table $t 1 2 funcref)
      (func (export "run") (param i32) (result i32)
        (drop (i32.load offset=2044 (i32.const 0))) (drop (i32.const 2044))
        (drop (f64.const 0x1.0fc0ffc0ffc0fp0))
        (i32.add (i32.const 2044) (table.grow $t (ref.null func) (local.get 0)))))"""
    instrumented = instrument_growth(bytes(wat2wasm(text)))
    assert instrumented is not None
    assert run(instrumented, 1) == (2045, 0)
    assert run(instrumented, 2) == (2043, PAST_MAXIMUM)


#: Memories and tables: text, instruction that grows it, index type, limit of the store, and maximum
#: of its own type.
_GROWING: Final = {
    "memory": ("(memory 1)", "memory.grow", "i32", 16, 65536),
    "memory-with-a-maximum": ("(memory 1 100)", "memory.grow", "i32", 16, 100),
    "wide-memory": ("(memory i64 1)", "memory.grow", "i64", 16, 1 << 48),
    "wide-memory-with-a-maximum": ("(memory i64 1 100)", "memory.grow", "i64", 16, 100),
    "second-memory": ("(memory 3) (memory $m 1)", "memory.grow $m", "i32", 16, 65536),
    "table": ("(table 1 funcref)", "table.grow 0 (ref.null func)", "i32", 1000, None),
    "table-with-a-maximum": (
        ("(table 7 funcref) (table $t 1 5000 externref)"),
        "table.grow $t (ref.null extern)",
        "i32",
        1000,
        5000,
    ),
    "wide-table-of-a-type": (
        ("(type $s (struct)) (table $t i64 1 5000 (ref null $s))"),
        "table.grow $t (ref.null $s)",
        "i64",
        1000,
        5000,
    ),
    "table-of-references-that-are-not-null": (
        ('(type $s (struct)) (table $t 1 5000 (ref $s) (struct.new $s)) (func (export "unused"))'),
        "table.grow $t (struct.new $s)",
        "i32",
        1000,
        5000,
    ),
}


@pytest.mark.parametrize("name", _GROWING)
def test_refused_growth_is_recorded_with_size(name: str) -> None:
    """Past the maximum it is PAST_MAXIMUM; granted growth records nothing."""
    text, grow, index, limit, maximum = _GROWING[name]
    module = bytes(
        wat2wasm(
            f'(module {text} (func (export "run") (param {index}) (result {index})'
            f" ({grow} (local.get 0))))"
        )
    )
    instrumented = instrument_growth(module)
    assert instrumented is not None
    part_bytes = 65536 if "memory" in name else 1
    store = Store(ENGINE)
    store.set_limits(memory_size=limit * 65536, table_elements=limit)
    exports = Instance(store, Module(ENGINE, instrumented), []).exports(store)

    def grown(by: int) -> tuple[int, int]:
        # Arguments wrap to the signed range.
        result = exports["run"](store, by)  # type: ignore[operator]
        return result, _recorded(store, exports)

    assert grown(limit - 1) == (1, 0)
    assert grown(0) == (limit, 0)
    assert grown(1) == (-1, (limit + 1) * part_bytes)
    if maximum is not None:
        if maximum < 1 << 40:
            assert grown(maximum - limit) == (-1, maximum * part_bytes)
        assert grown(maximum - limit + 1) == (-1, PAST_MAXIMUM)
    assert grown(-1) == (-1, PAST_MAXIMUM)
    # A later growth that is granted does not clear the record.
    assert grown(0) == (limit, PAST_MAXIMUM)
