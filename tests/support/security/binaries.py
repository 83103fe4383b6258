"""WebAssembly modules written byte by byte, which no tool generates, or none fast enough."""

from collections.abc import Callable, Iterable
from typing import Final

_HEADER: Final = b"\0asm\x01\0\0\0"
_I32: Final = b"\x7f"
_FUNCTION: Final = b"\x60"
_VOID: Final = b"\x40"
_END: Final = b"\x0b"

_TYPE, _IMPORT, _FUNCTIONS, _TABLE, _MEMORY = 1, 2, 3, 4, 5
_EXPORT, _START, _CODE, _DATA = 7, 8, 10, 11


def leb(value: int) -> bytes:
    """Return an unsigned number as LEB128 (WebAssembly core specification, 5.2.2)."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def section(number: int, content: bytes) -> bytes:
    """Return one section."""
    return bytes([number]) + leb(len(content)) + content


def vector(items: Iterable[bytes], count: int | None = None) -> bytes:
    """Return a vector: the count, then the items."""
    listed = list(items)
    return leb(len(listed) if count is None else count) + b"".join(listed)


def module(*sections: bytes) -> bytes:
    """Return a module of these sections."""
    return _HEADER + b"".join(sections)


def _body(code: bytes, local_groups: Iterable[bytes] = ()) -> bytes:
    whole = vector(local_groups) + code + _END
    return leb(len(whole)) + whole


#: One type, of a function that takes an i32 and returns one.
_ONE_TYPE: Final = section(_TYPE, vector([_FUNCTION + b"\x01" + _I32 + b"\x01" + _I32]))
_NO_VALUES: Final = section(_TYPE, vector([_FUNCTION + b"\0\0"]))
_ONE_FUNCTION: Final = section(_FUNCTIONS, vector([b"\0"]))
_RUN: Final = section(_EXPORT, vector([b"\x03run\0\0"]))
_GET, _SET = b"\x20\0", b"\x21\0"


def _function(code: bytes, local_groups: Iterable[bytes] = ()) -> bytes:
    """Return a module whose ``run`` has this code and one parameter, which it returns."""
    body = _body(code + _GET, local_groups)
    return module(_ONE_TYPE, _ONE_FUNCTION, _RUN, section(_CODE, vector([body])))


def _with(*before_export: bytes, after_code: bytes = b"") -> bytes:
    """Return a module with further sections and a ``run`` that returns its parameter."""
    code = section(_CODE, vector([_body(_GET)]))
    return module(_ONE_TYPE, _ONE_FUNCTION, *before_export, _RUN, code, after_code)


def _many_functions(count: int) -> bytes:
    indices = section(_FUNCTIONS, leb(count) + b"\0" * count)
    return module(_ONE_TYPE, indices, _RUN, section(_CODE, leb(count) + _body(_GET) * count))


def _adding(count: int) -> bytes:
    # The parameter, plus one, to the parameter.
    return _function((_GET + b"\x41\x01\x6a" + _SET) * count)


def _nested(count: int) -> bytes:
    return _function((b"\x02" + _VOID) * count + _END * count)


def _nested_loops_with_exits(depth: int, exits: int) -> bytes:
    """Return nested loops with many branches to every outer loop."""
    inner = b"".join(_GET + b"\x0d" + leb(n % depth) for n in range(exits))
    return _function((b"\x03" + _VOID) * depth + inner + _END * depth)


def _tables_in_loops(count: int, targets: int) -> bytes:
    one = b"\x03" + _VOID + b"\x02" + _VOID + _GET + b"\x0e"
    one += leb(targets) + b"\0\x01" * (targets // 2) + b"\0" + _END + _END
    return _function(one * count)


def _live_locals(count: int, uses: int) -> bytes:
    """Return many values that live across many loops, the worst case of register allocation."""
    first = b"".join(_GET + b"\x21" + leb(1 + n) for n in range(count))
    loop = b"\x03" + _VOID + _GET + b"\x0d\0" + _END
    rest = b"".join(_GET + b"\x20" + leb(1 + n) + b"\x6a" + _SET for n in range(count))
    return _function(first + loop * uses + rest, [leb(count) + _I32])


def _exports(count: int, name_bytes: int) -> bytes:
    names = (str(n).encode().rjust(name_bytes, b"_") for n in range(count))
    entries = [leb(len(name)) + name + b"\0\0" for name in names]
    code = section(_CODE, vector([_body(_GET)]))
    return module(
        _ONE_TYPE, _ONE_FUNCTION, section(_EXPORT, vector([b"\x03run\0\0", *entries])), code
    )


def _imports(count: int) -> bytes:
    entries = (b"\x01m" + leb(len(name)) + name + b"\0\0" for name in _numbers(count))
    code = section(_CODE, vector([_body(_GET)]))
    export = section(_EXPORT, vector([b"\x03run\0" + leb(count)]))
    return module(_ONE_TYPE, section(_IMPORT, vector(entries)), _ONE_FUNCTION, export, code)


def _numbers(count: int) -> Iterable[bytes]:
    return (str(n).encode() for n in range(count))


def _memories(count: int, pages: int) -> bytes:
    """Return a module that writes to every page of its memories."""
    code = b""
    for index in range(count):
        # memory.fill: address, value, length.
        code += b"\x41\0\x41\x01\x41" + _signed(pages * 65536) + b"\xfc\x0b" + leb(index)
    memories = section(_MEMORY, vector([b"\0" + leb(pages)] * count))
    return module(
        _ONE_TYPE, _ONE_FUNCTION, memories, _RUN, section(_CODE, vector([_body(code + _GET)]))
    )


def _signed(value: int) -> bytes:
    out = bytearray()
    while True:
        byte = value & 0x7F
        value >>= 7
        if value == 0 and not byte & 0x40:
            out.append(byte)
            return bytes(out)
        out.append(byte | 0x80)


def _custom(count: int, name: bytes, content: bytes) -> bytes:
    bomb = section(0, leb(len(name)) + name + content)
    return _with(after_code=bomb * count)


def _data(count: int, content: bytes) -> bytes:
    segments = leb(count) + (b"\0\x41\0\x0b" + leb(len(content)) + content) * count
    return _with(section(_MEMORY, vector([b"\0\x01"])), after_code=section(_DATA, segments))


def _endless_start() -> bytes:
    types = section(
        _TYPE, vector([_FUNCTION + b"\x01" + _I32 + b"\x01" + _I32, _FUNCTION + b"\0\0"])
    )
    functions = section(_FUNCTIONS, vector([b"\0", b"\x01"]))
    bodies = [_body(_GET), _body(b"\x03" + _VOID + b"\x0c\0" + _END)]
    start = section(_START, leb(1))
    return module(types, functions, _RUN, start, section(_CODE, vector(bodies)))


_LIMIT: Final = frozenset({"compile-limit", "invalid-module"})
_COMPILED: Final = frozenset({"compile-limit", "invalid-module", "ok"})
_MEMORY_CODES: Final = frozenset({"memory-limit", "invalid-module"})

#: Oversized modules, and the codes in which they may end.
BOMBS: Final[dict[str, tuple[Callable[[], bytes], frozenset[str]]]] = {
    "functions-by-the-hundred-thousand": (lambda: _many_functions(300_000), _COMPILED),
    "function-of-megabytes": (lambda: _adding(600_000), _COMPILED),
    "nested-blocks": (lambda: _nested(100_000), _COMPILED),
    "loops-with-exits": (lambda: _nested_loops_with_exits(500, 100_000), _COMPILED),
    "exits-by-the-hundred-thousand": (lambda: _nested_loops_with_exits(1, 400_000), _COMPILED),
    "tables-in-loops": (lambda: _tables_in_loops(30, 65_000), _COMPILED),
    "live-locals": (lambda: _live_locals(5_000, 3_000), _COMPILED),
    "targets-by-the-million": (lambda: _tables_in_loops(1, 1_000_000), _LIMIT),
    "locals-by-the-million": (lambda: _function(b"", [leb(1_000_000) + _I32]), _LIMIT),
    "locals-by-the-billion": (lambda: _function(b"", [leb(0xFFFFFFFF) + _I32]), _LIMIT),
    "types-by-the-million": (
        lambda: module(section(_TYPE, leb(1_000_000) + b"\x60\0\0" * 1_000_000)),
        frozenset({*_LIMIT, "entry-not-found"}),
    ),
    "types-of-a-thousand-parameters": (
        lambda: module(
            section(_TYPE, leb(5_000) + (b"\x60" + leb(1_000) + _I32 * 1_000 + b"\0") * 5_000)
        ),
        frozenset({*_LIMIT, "entry-not-found"}),
    ),
    "types-that-are-missing": (lambda: module(section(_TYPE, leb(0xFFFFFFFF))), _LIMIT),
    "table-without-end": (
        lambda: _with(section(_TABLE, vector([b"\x70\0" + leb(0xFFFFFFFF)]))),
        _MEMORY_CODES,
    ),
    "tables-by-the-hundred": (
        lambda: _with(section(_TABLE, vector([b"\x70\0" + leb(10_000_000)] * 90))),
        _MEMORY_CODES,
    ),
    "memory-of-four-gibibytes": (
        lambda: _with(section(_MEMORY, vector([b"\0" + leb(65_536)]))),
        _MEMORY_CODES,
    ),
    "memory-beyond-addresses": (
        lambda: _with(section(_MEMORY, vector([b"\0" + leb(65_537)]))),
        _LIMIT,
    ),
    "memory-of-64-bits": (
        lambda: _with(section(_MEMORY, vector([b"\x04" + leb(1 << 47)]))),
        _MEMORY_CODES,
    ),
    "memories-just-under-the-limit": (lambda: _memories(8, 15 * 16), _MEMORY_CODES),
    "data-by-the-hundred-thousand": (lambda: _data(100_000, b"x" * 10), _COMPILED),
    "data-of-megabytes": (lambda: _data(60, b"x" * 100_000), frozenset({"trap", *_LIMIT})),
    "export-name-of-a-megabyte": (lambda: _exports(1, 1 << 20), _LIMIT),
    "export-names-of-a-hundred-kilobytes": (lambda: _exports(60, 99_999), _COMPILED),
    "exports-by-the-hundred-thousand": (lambda: _exports(200_000, 6), _COMPILED),
    "imports-by-the-hundred-thousand": (
        lambda: _imports(100_000),
        frozenset({"link-error", *_LIMIT}),
    ),
    "custom-sections-by-the-hundred-thousand": (lambda: _custom(100_000, b"x", b""), _COMPILED),
    "custom-section-of-megabytes": (lambda: _custom(1, b"x", bytes(20_000_000)), _COMPILED),
    "names-with-wrong-sizes": (
        lambda: _custom(1, b"name", b"\x01" + leb(1 << 20) + b"\xff" * (1 << 20)),
        _COMPILED,
    ),
    "start-without-end": (_endless_start, frozenset({"timeout"})),
}

_WASI: Final = '(import "wasi_snapshot_preview1"'
_ENDLESS: Final = "(br $again)"
_TIMEOUT: Final = frozenset({"timeout"})

#: Guests that never end by themselves, as text, and the codes in which they may end.
WORK: Final[dict[str, tuple[str, frozenset[str]]]] = {
    "busy": (f'(func (export "run") (loop $again {_ENDLESS}))', _TIMEOUT),
    "sleep": (
        (
            f'{_WASI} "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))'
            '(memory (export "memory") 1)'
            # One subscription: to the monotonic clock, in a minute.
            '(data (i32.const 16) "\\01\\00\\00\\00\\00\\00\\00\\00")'
            '(data (i32.const 24) "\\00\\58\\47\\f8\\0d\\00\\00\\00")'
            '(func (export "run") (loop $again'
            "(drop (call $poll (i32.const 0) (i32.const 128) (i32.const 1) (i32.const 256)))"
            f"{_ENDLESS}))"
        ),
        _TIMEOUT,
    ),
    "wait-for-ever": (
        (
            '(memory (export "memory") 1 1 shared)(func (export "run") (loop $again'
            "(drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1)))"
            f"{_ENDLESS}))"
        ),
        frozenset({"timeout", "invalid-module", "link-error", "memory-limit"}),
    ),
    "write-without-end": (
        (
            f'{_WASI} "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'
            '(memory (export "memory") 1)'
            '(data (i32.const 0) "\\00\\00\\00\\00\\00\\f0\\00\\00")'
            '(func (export "run") (loop $again'
            "(drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 100)))"
            f"{_ENDLESS}))"
        ),
        frozenset({"output-limit"}),
    ),
    "write-nothing-without-end": (
        (
            f'{_WASI} "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'
            '(memory (export "memory") 1)'
            '(func (export "run") (loop $again'
            "(drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 100)))"
            f"{_ENDLESS}))"
        ),
        _TIMEOUT,
    ),
    "grow-without-end": (
        (
            '(memory (export "memory") 1)(func (export "run") (loop $again'
            f"(drop (memory.grow (i32.const 1))){_ENDLESS}))"
        ),
        _TIMEOUT,
    ),
    "read-the-clock-without-end": (
        (
            f'{_WASI} "clock_time_get" (func $time (param i32 i64 i32) (result i32)))'
            '(memory (export "memory") 1)'
            '(func (export "run") (loop $again'
            f"(drop (call $time (i32.const 1) (i64.const 1) (i32.const 8))){_ENDLESS}))"
        ),
        _TIMEOUT,
    ),
    "take-random-bytes-without-end": (
        (
            f'{_WASI} "random_get" (func $random (param i32 i32) (result i32)))'
            '(memory (export "memory") 1)'
            '(func (export "run") (loop $again'
            f"(drop (call $random (i32.const 0) (i32.const 65536))){_ENDLESS}))"
        ),
        _TIMEOUT,
    ),
}
