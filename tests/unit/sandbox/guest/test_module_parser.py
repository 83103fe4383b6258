"""The module parser, with valid and damaged modules."""

import sys
from collections.abc import Callable, Iterator
from itertools import product

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wasmtime import Config, Engine, FuncType, Module, ValType, WasmtimeError, wat2wasm
from wasmtime import _ffi as ffi

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.module_types import FunctionType, Import, ModuleKind, ModuleSummary
from wasmdrop.protocol.outcome import Code
from wasmdrop.sandbox.guest.binary_reader import BinaryReader
from wasmdrop.sandbox.guest.file_type import refuse_unless_wasm
from wasmdrop.sandbox.guest.module_parser import parse_module
from wasmdrop.sandbox.guest.summary_limits import (
    MAX_NAME_BYTES,
    MAX_NAMES,
    MAX_TYPE_CHARACTERS,
)
from wasmdrop.sandbox.wire import MAX_REPORT_BYTES, CompileReport, encode_frame

#: Every form that wasmtime accepts by default, in sections of every kind.
RICH = """
(module
  (type $node (sub (struct (field i8) (field (mut i16)) (field (ref null $node)))))
  (rec
    (type $leaf (sub final $node
      (struct (field i8) (field (mut i16)) (field (ref null $node)) (field f64))))
    (type $vectors (array (mut v128)))
    (type $maker (func (param (ref $node) (ref null $vectors) eqref) (result (ref extern)))))
  (import "env" "log" (func $log (param i32 i64) (result f32 f64)))
  (import "env" "make" (func $make (type $maker)))
  (import "env" "table" (table 1 20 funcref))
  (import "env" "wide table" (table i64 3 (ref null $node)))
  (import "env" "memory" (memory 1 2 shared))
  (import "env" "wide memory" (memory i64 5))
  (import "env" "base" (global i32))
  (import "env" "top" (global (mut externref)))
  (import "env" "failed" (tag (param i32)))
  (func $add (export "add") (param i64 i64) (result i64)
    (i64.add (local.get 0) (local.get 1)))
  (func (export "refs")
    (param v128 funcref externref anyref i31ref structref arrayref exnref nullref nullfuncref
           nullexternref nullexnref (ref func) (ref any) (ref 0)))
  (export "log again" (func $log))
  (export "sum \\e2\\82\\ac" (func $add))
  (table (export "t") 2 funcref)
  (memory (export "m") 3 9)
  (memory i64 2)
  (memory 1)
  (tag (export "e") (param f64))
  (global (export " g ") (mut i32) (i32.const 7))
  (export "make" (func $make))
  (func $start)
  (start $start)
  (func (data.drop 1))
  (elem declare func $add)
  (data (i32.const 0) "hello")
  (data "passive"))
"""

Maker = Callable[..., bytes]


def single_threaded() -> Config:
    """Return a configuration whose engines start no threads: other tests may fork."""
    config = Config()
    config.parallel_compilation = False
    return config


ENGINE = Engine(single_threaded())
#: Calls of Python and C functions. No byte of these tests takes more than about ten.
MOST_STEPS, MOST_STEPS_PER_BYTE = 200, 20
PREAMBLE = b"\0asm\1\0\0\0"
COMPONENT = b"\0asm\x0d\0\1\0"


def compiled(text: str) -> bytes:
    """Return the binary form of a module in text form."""
    return bytes(wat2wasm(text))


def leb(number: int) -> bytes:
    """Return an unsigned number as LEB128."""
    high = number >> 7
    return bytes([number & 0x7F | 0x80]) + leb(high) if high else bytes([number])


def vector(*elements: bytes) -> bytes:
    """Return a vector: the count, then the elements."""
    return leb(len(elements)) + b"".join(elements)


def name(text: bytes) -> bytes:
    """Return a name: the length, then the text."""
    return leb(len(text)) + text


def section(number: int, content: bytes) -> bytes:
    """Return a section."""
    return bytes([number]) + name(content)


def exporting(names: list[bytes], params: bytes = b"") -> bytes:
    """Return a module that exports one function under many names."""
    return b"".join(
        (
            PREAMBLE,
            section(1, vector(b"\x60" + name(params) + b"\0")),
            section(3, vector(b"\0")),
            section(7, vector(*[name(text) + b"\0\0" for text in names])),
            section(10, vector(b"\2\0\x0b")),
        )
    )


def importing(names: list[bytes], params: bytes = b"") -> bytes:
    """Return a module that imports many functions of one type."""
    return b"".join(
        (
            PREAMBLE,
            section(1, vector(b"\x60" + name(params) + b"\0")),
            section(2, vector(*[name(text) + b"\0\0\0" for text in names])),
        )
    )


def unprintable_names(count: int, size: int) -> list[bytes]:
    """Return different names of control characters, which JSON makes six times as long."""
    tails = product(bytes(range(1, 8)) + bytes(range(14, 32)), repeat=4)
    return [bytes(next(tails)) + b"\1" * (size - 4) for _ in range(count)]


def refusal(module: bytes, code: Code = Code.INVALID_MODULE) -> str:
    """Return the message with which a module is refused."""
    with pytest.raises(RefusedError) as caught:
        parse_module(module)
    assert caught.value.code is code
    return caught.value.message


def assert_linear(module: bytes) -> None:
    """Parse or refuse a module; fail if that takes more steps than are linear in its size."""
    steps_left = MOST_STEPS + MOST_STEPS_PER_BYTE * len(module)

    def count(_frame: object, event: str, _arg: object) -> None:
        nonlocal steps_left
        steps_left -= event in {"call", "c_call"}
        if steps_left < 0:
            raise AssertionError("more steps than are linear in the size")

    previous = sys.getprofile()
    sys.setprofile(count)
    try:
        parse_module(module)
    except RefusedError as error:
        assert error.code in (Code.INVALID_MODULE, Code.COMPILE_LIMIT)  # noqa: PT017 either is right
    finally:
        sys.setprofile(previous)


def damaged(module: bytes) -> Iterator[bytes]:
    """Yield the module cut short everywhere, and with every byte changed in several ways."""
    for offset, byte in enumerate(module):
        yield module[:offset]
        for other in {byte ^ 1 << bit for bit in range(8)} | {0, 0x40, 0x7F, 0x80, 0xFF} - {byte}:
            yield module[:offset] + bytes([other]) + module[offset + 1 :]


def test_parse_module_with_every_form_returns_summary() -> None:
    """Function types, imports of every kind, and the module's own memories."""
    module = compiled(RICH)
    Module(ENGINE, module)
    references = FunctionType(
        (
            *("v128", "funcref", "externref", "anyref", "i31ref", "structref", "arrayref"),
            *("exnref", "nullref", "nullfuncref", "nullexternref", "nullexnref"),
            *("(ref func)", "(ref any)", "(ref 0)"),
        )
    )
    maker = FunctionType(("(ref 0)", "(ref null 2)", "eqref"), ("(ref extern)",))
    adder = FunctionType(("i64", "i64"), ("i64",))
    summary = parse_module(module)
    assert summary == ModuleSummary(
        ModuleKind.LIBRARY,
        {
            "add": adder,
            "refs": references,
            "log again": FunctionType(("i32", "i64"), ("f32", "f64")),
            "sum \u20ac": adder,
            "make": maker,
        },
        {"t": "table", "m": "memory", "e": "tag", " g ": "global"},
        (
            Import("env", "log", "func", "(i32, i64) -> (f32, f64)"),
            Import("env", "make", "func", "((ref 0), (ref null 2), eqref) -> ((ref extern))"),
            Import("env", "table", "table", "1 20 funcref"),
            Import("env", "wide table", "table", "i64 3 (ref null 0)"),
            Import("env", "memory", "memory", "1 2 shared"),
            Import("env", "wide memory", "memory", "i64 5"),
            Import("env", "base", "global", "i32"),
            Import("env", "top", "global", "(mut externref)"),
            Import("env", "failed", "tag", "(i32) -> ()"),
        ),
        6 * 65536,
        3 * 65536,
        3,
        2,
        2,
        1,
        has_gc_heap=True,
        has_start=True,
    )
    assert list(summary.functions) == ["add", "refs", "log again", "sum \u20ac", "make"]


def test_parse_module_with_numbers_only_agrees_with_wasmtime() -> None:
    """Reading types through wasmtime is safe only for functions of numbers."""
    module = compiled("""
      (module
        (type (func (param i64)))
        (import "a" "one" (func (param i32) (result i64)))
        (import "b" "two" (func (param f32 f64)))
        (memory (export "memory") 1)
        (func (export "none"))
        (func (export "many") (param i32 i64 f32 f64) (result f64 f32 i64 i32)
          (f64.const 0) (f32.const 0) (i64.const 0) (i32.const 0))
        (func (export "two") (param i64)))
    """)
    seen = Module(ENGINE, module)
    summary = parse_module(module)

    def words(types: list[ValType]) -> tuple[str, ...]:
        return tuple(str(entry) for entry in types)

    functions = {
        export.name: FunctionType(words(export.type.params), words(export.type.results))
        for export in seen.exports
        if isinstance(export.type, FuncType)
    }
    assert summary.functions == functions
    assert len(functions) == 3
    assert summary.other_exports == {"memory": "memory"}
    assert [
        (entry.module, entry.name, str(FunctionType(words(type_.params), words(type_.results))))
        for entry in seen.imports
        if isinstance(type_ := entry.type, FuncType)
    ] == [(entry.module, entry.name, entry.type) for entry in summary.imports]


def test_parse_module_with_optional_proposals_returns_summary() -> None:
    """Continuations, and pages of one byte."""
    module = compiled("""
      (module
        (type $task (func))
        (type $paused (cont $task))
        (import "env" "small" (memory 7 9 (pagesize 1)))
        (memory 5 (pagesize 1))
        (memory 2 (pagesize 65536))
        (func (export "go") (param (ref null $paused) contref nullcontref (ref cont))))
    """)
    config = single_threaded()
    config.wasm_stack_switching = True
    config.wasm_custom_page_sizes = True
    Module(Engine(config), module)
    summary = parse_module(module)
    continuations = ("(ref null 1)", "contref", "nullcontref", "(ref cont)")
    assert summary.functions == {"go": FunctionType(continuations)}
    assert [entry.type for entry in summary.imports] == ["7 9 (pagesize 1)"]
    assert summary.memory_min_bytes == 5 + 2 * 65536


@pytest.mark.parametrize(
    ("compact", "plain"),
    [
        (
            '(import "a" (item "b" (func (param i32))) (item "" (memory 1)))',
            '(import "a" "b" (func (param i32))) (import "a" "" (memory 1))',
        ),
        (
            '(import "a" (item "b") (item "c") (func (param i64)))',
            '(import "a" "b" (func (param i64))) (import "a" "c" (func (param i64)))',
        ),
        (
            '(import "a" (item "b") (item "c") (table 1 funcref)) (func)',
            '(import "a" "b" (table 1 funcref)) (import "a" "c" (table 1 funcref)) (func)',
        ),
        ('(import "" (item "b" (func (param f64))))', '(import "" "b" (func (param f64)))'),
    ],
)
def test_compact_imports_give_same_summary_as_plain_ones(compact: str, plain: str) -> None:
    """The functions that follow keep their indices."""
    rest = '(func $own (param i32 i32)) (export "f" (func 0)) (export "own" (func $own))'
    module = compiled(f"(module {compact} {rest})")
    config = single_threaded()
    ffi.wasmtime_config_wasm_compact_imports_set(config.ptr(), True)
    Module(Engine(config), module)
    assert module != compiled(f"(module {plain} {rest})")
    assert parse_module(module) == parse_module(compiled(f"(module {plain} {rest})"))


def test_compact_imports_past_limit_are_refused() -> None:
    """Each name counts with its type, even if names share a type."""
    names = "".join(f'(item "{number}")' for number in range(MAX_NAMES - 1))
    wide = f"(func (param {'i64 ' * 1000}))"
    module = compiled(f'(module (import "a" {names} {wide}))')
    assert "characters of types" in refusal(module, Code.COMPILE_LIMIT)
    assert len(parse_module(compiled(f'(module (import "a" {names} (func)))')).imports) == 19_999
    module = compiled(f'(module (import "a" {names} (item "last") (func)))')
    assert "20001 imports" in refusal(module, Code.COMPILE_LIMIT)


@pytest.mark.parametrize(
    "text",
    [
        '(module (type $a (struct)) (func (export "f") (param (ref (exact $a)))))',
        "(module (rec (type $a (descriptor $b) (struct)) (type $b (describes $a) (struct))))",
        "(module (type (shared (func))))",
    ],
    ids=["exact", "descriptor", "shared"],
)
def test_unsupported_form_is_refused_by_wasmtime_too(text: str) -> None:
    """Fails if a new wasmtime accepts more than the parser does."""
    module = compiled(text)
    with pytest.raises(WasmtimeError, match="failed to parse"):
        Module(ENGINE, module)
    assert "(at offset 0x" in refusal(module)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("(module)", ModuleKind.LIBRARY),
        ('(module (func (export "run")))', ModuleKind.LIBRARY),
        ('(module (func (export "_start")))', ModuleKind.COMMAND),
        ('(module (func (export "_start") (param i32)))', ModuleKind.LIBRARY),
        ('(module (func (export "_start") (result i32) (i32.const 0)))', ModuleKind.LIBRARY),
        ('(module (memory (export "_start") 1))', ModuleKind.LIBRARY),
        ('(module (func (export "_initialize")))', ModuleKind.REACTOR),
        ('(module (memory (export "_initialize") 1))', ModuleKind.LIBRARY),
        ('(module (func (export "_initialize") (export "_start")))', ModuleKind.COMMAND),
    ],
)
def test_module_kind_follows_from_exports(text: str, kind: ModuleKind) -> None:
    """A command exports a _start without parameters and results, a reactor an _initialize."""
    assert parse_module(compiled(text)).kind is kind


def test_import_from_wasi_is_recognized() -> None:
    """By the module name of the import."""
    text = '(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32))))'
    assert parse_module(compiled(text)).wants_wasi
    assert not parse_module(compiled('(module (import "env" "proc_exit" (func)))')).wants_wasi


def test_custom_section_anywhere_is_skipped() -> None:
    """Its content does not matter."""
    custom = section(0, name(b"producers") + b"\xff" * 100)
    module = exporting([b"run"])
    type_end = len(PREAMBLE) + 2 + module[len(PREAMBLE) + 1]
    mixed = PREAMBLE + custom + module[len(PREAMBLE) : type_end] + custom + module[type_end:]
    assert parse_module(mixed + custom) == parse_module(module)


def test_summary_of_largest_memory_survives_encoding() -> None:
    """Its size in bytes does not fit into 64 bits."""
    module = compiled("(module (memory i64 0x1000000000000))")
    Module(ENGINE, module)
    summary = parse_module(module)
    assert summary.memory_min_bytes == 2**64
    assert msgspec.json.decode(msgspec.json.encode(summary), type=ModuleSummary) == summary


def test_changed_module_that_wasmtime_accepts_is_summarized() -> None:
    """Changes every byte of a module in several ways; wasmtime lists the same names."""
    accepted = 0
    for module in damaged(compiled(RICH)):
        try:
            seen = Module(ENGINE, module)
        except WasmtimeError:
            continue
        summary = parse_module(module)
        accepted += 1
        names = {entry.name for entry in seen.exports}
        assert names == summary.functions.keys() | summary.other_exports.keys()
        assert [(entry.module, entry.name) for entry in seen.imports] == [
            (entry.module, entry.name) for entry in summary.imports
        ]
    assert accepted > 500


def test_damaged_module_is_summarized_or_refused_in_linear_steps() -> None:
    """No other exception is raised."""
    for module in damaged(compiled(RICH)):
        assert_linear(module)


@given(st.binary(max_size=200), st.integers(0, len(compiled(RICH))), st.integers(0, 100))
@example(b"", 0, 0)
def test_random_bytes_in_module_are_summarized_or_refused(
    pasted: bytes, offset: int, replaced: int
) -> None:
    """No other exception is raised, and the work is linear."""
    module = compiled(RICH)
    assert_linear(module[:offset] + pasted + module[offset + replaced :])
    assert_linear(PREAMBLE + pasted)
    assert_linear(PREAMBLE + section(1, pasted))
    assert_linear(PREAMBLE + section(2, pasted))


@pytest.mark.parametrize(
    "content",
    [
        leb(2**32 - 1),
        b"\1\x4e" + leb(2**32 - 1),
        b"\1\x60" + leb(2**32 - 1),
        b"\1\x5f" + leb(2**32 - 1),
        b"\1\x50" + leb(2**32 - 1),
        vector(*[b"\x4e\0"] * 200_000),
        vector(*[b"\x60\0\0"] * 200_000),
        vector(b"\x60" + vector(*[b"\x7f"] * 300_000) + b"\0"),
        vector(b"\x60" + vector(*[b"\x64\x80\x80\x80\x80\0"] * 100_000) + b"\0"),
    ],
    ids=["types", "group", "params", "fields", "supers", "groups", "funcs", "wide", "references"],
)
def test_large_or_wrong_type_section_takes_linear_steps(content: bytes) -> None:
    """A count that exceeds the remaining bytes is not used."""
    assert_linear(PREAMBLE + section(1, content))


def test_million_functions_take_linear_steps() -> None:
    """The most that wasmtime accepts."""
    module = PREAMBLE + section(1, vector(b"\x60\0\0")) + section(3, vector(*[b"\0"] * 1_000_000))
    assert_linear(module)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "unexpected end (at offset 0xa)"),
        (b"\0\0", "section 1 is longer than its content (at offset 0xb)"),
        (b"\2\x60\0\0", "unexpected end (at offset 0xe)"),
        (b"\1\x4e\5\x60\0\0", "expected 5 elements, 3 bytes left (at offset 0xc)"),
        (b"\5\x60\0\0", "expected 5 elements, 3 bytes left (at offset 0xa)"),
        (b"\xff\xff\xff\xff\x0f", "expected 4294967295 elements, 0 bytes left (at offset 0xa)"),
        (b"\x80\x80\x80\x80\x10", "expected an unsigned integer of 32 bits (at offset 0xa)"),
        (b"\x80\x80\x80\x80\x80\0", "expected an unsigned integer of 32 bits (at offset 0xa)"),
        (b"\1\x60", "unexpected end (at offset 0xc)"),
        (b"\1\x60\1\x42\0", "expected a value type, got 0x42 (at offset 0xd)"),
        (b"\1\x60\1\x77\0", "expected a value type, got 0x77 (at offset 0xd)"),
        (b"\1\x60\1\x63\x40\0", "expected a heap type (at offset 0xe)"),
        (b"\1\x60\1\x63\xf0\x7f\0", "expected a heap type (at offset 0xe)"),
        (b"\1\x5e\x78\2", "expected a mutability of 0 or 1, got 2 (at offset 0xd)"),
        (
            b"\1\x4e\1\x4e\1\x60\0\0",
            "expected a function, struct, array or continuation type, got 0x4e (at offset 0xd)",
        ),
    ],
)
def test_malformed_type_section_is_refused_with_offset(content: bytes, problem: str) -> None:
    """The offset of the first wrong byte."""
    # The next section must not be read as content of the first.
    module = PREAMBLE + section(1, content) + section(3, b"\0")
    with pytest.raises(WasmtimeError):
        Module(ENGINE, module)
    assert refusal(module) == f"malformed module: {problem}"


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        (section(14, b""), "section 14 is unknown, duplicate or out of order (at offset 0x8)"),
        (
            section(3, b"\0") + section(1, b"\0"),
            "section 1 is unknown, duplicate or out of order (at offset 0xb)",
        ),
        (
            section(1, b"\0") + section(1, b"\0"),
            "section 1 is unknown, duplicate or out of order (at offset 0xb)",
        ),
        (
            section(6, b"\0") + section(13, b"\0"),
            "section 13 is unknown, duplicate or out of order (at offset 0xb)",
        ),
        (
            section(1, b"\0") + section(0, name(b"note")) + section(1, b"\0"),
            "section 1 is unknown, duplicate or out of order (at offset 0x12)",
        ),
        (b"\1\5\0", "expected 5 bytes, 1 left (at offset 0xa)"),
        (section(2, b"\1\1\xff\0\0\0"), "expected a name in UTF-8 (at offset 0xc)"),
        (section(2, b"\1\3\xed\xa0\x80\0\0\0"), "expected a name in UTF-8 (at offset 0xc)"),
        (section(2, b"\1\0\0\1\x70\2\0"), "expected limits flags, got 0x02 (at offset 0xf)"),
        (section(2, b"\1\2a\xed\0\0\0"), "expected a name in UTF-8 (at offset 0xd)"),
        (
            section(2, b"\1\0\0\5\0"),
            "expected a kind of import or export, got 0x05 (at offset 0xd)",
        ),
        (section(2, b"\1\0\0\0\0"), "there is no function type 0 (at offset 0xe)"),
        (section(2, b"\1\0\0\4\1\0"), "expected a tag attribute of 0, got 1 (at offset 0xe)"),
        (section(2, b"\1\0\0\4\0\0"), "there is no function type 0 (at offset 0xf)"),
        (section(2, b"\1\0\0\2\x10\0"), "expected limits flags, got 0x10 (at offset 0xe)"),
        (
            section(2, b"\1\0\0\2\0" + leb(2**32)),
            "expected an unsigned integer of 32 bits (at offset 0xf)",
        ),
        (
            section(5, b"\1\4" + leb(2**64)),
            "expected an unsigned integer of 64 bits (at offset 0xc)",
        ),
        (
            section(5, b"\1\x08\0" + leb(2**32 - 1)),
            "expected pages of 2^0 or 2^16 bytes, got 2^4294967295 (at offset 0xd)",
        ),
        (
            section(5, b"\1\x08\0\x11"),
            "expected pages of 2^0 or 2^16 bytes, got 2^17 (at offset 0xd)",
        ),
        (section(7, b"\1\0\0\0"), "there is no function 0 (at offset 0xd)"),
        (
            section(1, b"\1\x5f\0") + section(3, b"\1\0") + section(7, b"\1\0\0\0"),
            "there is no function type 0 (at offset 0x16)",
        ),
        (section(7, b"\2\0\2\0\0\2\0"), "two exports have the same name (at offset 0xe)"),
    ],
)
def test_malformed_section_is_refused_with_offset(sections: bytes, problem: str) -> None:
    """Wasmtime refuses it, too."""
    module = PREAMBLE + sections
    with pytest.raises(WasmtimeError):
        Module(ENGINE, module)
    assert refusal(module) == f"malformed module: {problem}"


def test_duplicate_export_name_is_refused() -> None:
    """One would hide the other."""
    assert "two exports have the same name" in refusal(exporting([b"run", b"run"]))


@pytest.mark.parametrize("make", [exporting, importing])
def test_number_of_names_at_limit_is_accepted_and_above_refused(make: Maker) -> None:
    """The message contains the number and the limit."""
    names = [b"f%d" % number for number in range(MAX_NAMES + 1)]
    summary = parse_module(make(names[:-1]))
    assert len(summary.functions) + len(summary.imports) == MAX_NAMES
    message = refusal(make(names), Code.COMPILE_LIMIT)
    assert "20001 imports" in message
    assert "at most 20000 are accepted" in message


def test_imports_and_exports_share_the_limit() -> None:
    """Each alone is below it."""
    types = section(1, vector(b"\x60\0\0"))
    imports = section(2, vector(*[b"\0\0\0\0"] * 12_000))
    exports = section(7, vector(*[name(b"%d" % number) + b"\0\0" for number in range(12_000)]))
    assert refusal(PREAMBLE + types + imports + exports, Code.COMPILE_LIMIT) == (
        "the module has at least 24000 imports and exports; at most 20000 are accepted"
    )


def test_too_many_exports_are_refused_before_reading_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The count in front of them is enough."""
    module = exporting([b"f%d" % number for number in range(200_000)])
    monkeypatch.setattr(BinaryReader, "name", lambda _reader: pytest.fail("a name was read"))
    assert "200000 imports and exports" in refusal(module, Code.COMPILE_LIMIT)


@pytest.mark.parametrize("make", [exporting, importing])
def test_total_size_of_names_above_limit_is_refused(make: Maker) -> None:
    """Counted in bytes: a euro sign has three."""
    fill = MAX_NAME_BYTES // 2
    euros = "\u20ac".encode() * (fill // 3) + b"x" * (fill % 3)
    parse_module(make([b"y" * fill, euros]))
    assert refusal(make([b"y" * fill, euros + b"x"]), Code.COMPILE_LIMIT) == (
        "the module has at least 2097153 bytes of names; at most 2097152 are accepted"
    )


@pytest.mark.parametrize("make", [exporting, importing])
def test_total_size_of_types_above_limit_is_refused(make: Maker) -> None:
    """Otherwise a small module with many exports of one long type makes a large summary."""
    params = b"\x7f" * 1000
    size = len(str(FunctionType(("i32",) * 1000)))
    within = MAX_TYPE_CHARACTERS // size
    names = [b"f%d" % number for number in range(20_000)]
    parse_module(make(names[:within], params))
    module = make(names, params)
    assert refusal(module, Code.COMPILE_LIMIT) == (
        f"the module has at least {(within + 1) * size} characters of types; "
        "at most 1048576 are accepted"
    )
    assert_linear(module)


@pytest.mark.parametrize("make", [exporting, importing])
def test_largest_summary_fits_into_report(make: Maker) -> None:
    """JSON makes the names six times as long; the types are as long as the limit allows."""
    names = unprintable_names(MAX_NAMES, MAX_NAME_BYTES // MAX_NAMES)
    params = b"\x7f" * 9
    assert len(str(FunctionType(("i32",) * 10))) > MAX_TYPE_CHARACTERS // MAX_NAMES
    frame = encode_frame(CompileReport(parse_module(make(names, params))))
    assert len(frame) <= MAX_REPORT_BYTES


@pytest.mark.parametrize("rest", [b"", b"\x01\x04\x01\x60\0\0"])
def test_preamble_tells_module_from_component(rest: bytes) -> None:
    """By the version field."""
    assert refuse_unless_wasm(PREAMBLE + rest) == "module"
    assert refuse_unless_wasm(COMPONENT + rest) == "component"


def test_component_is_refused_by_parse_module() -> None:
    """Components have another grammar."""
    component = compiled("(component)")
    assert refuse_unless_wasm(component[:8]) == "component"
    assert refusal(component) == (
        "malformed module: expected a core module, got a component (at offset 0x4)"
    )
