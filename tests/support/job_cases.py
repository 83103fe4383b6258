"""Jobs of all kinds, each with the code of its outcome, and what of an outcome is comparable."""

import base64
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from wasmtime import wat2wasm

from tests.support.daemon import Daemon
from tests.support.wasi_programs import FILE_PROGRAMS, FILES, READER, STREAM_PROGRAMS, STREAMS

_OUTPUT_BYTES: Final = 65536
_OUTPUT_MB: Final = _OUTPUT_BYTES / (1 << 20)

#: Further grants, up to the highest number of a job.
GRANTS: Final = tuple(f"more{number}" for number in range(15))

#: Keys of a marker that belong to the daemon or to the moment.
_OF_THE_RUN: Final = ("job", "dropped_at", "started_at", "finished_at", "seconds", "input")


@dataclass(frozen=True)
class Case:
    """A module and its input, with the code of the outcome."""

    code: str
    text: str
    """Fields of the module."""
    keys: dict[str, Any] = field(default_factory=dict)
    is_fit: bool = True
    """Whether the native guest can prepare the module."""

    @property
    def module(self) -> bytes:
        """The module."""
        return bytes(wat2wasm(f"(module {self.text})"))


def exits(code: int) -> Case:
    """Exit with a code from a command."""
    text = f'{STREAMS} (func (export "_start") (call $proc_exit (i32.const {code})))'
    return Case("exit" if code else "ok", text)


def traps(body: str, more: str = "", **keys: Any) -> Case:
    """Trap below two functions with names."""
    text = f"""(func $inner {body}) (func $outer (call $inner))
      (func (export "run") (call $outer)) {more}"""
    return Case("trap", text, keys)


def lacks_memory(code: str, grow: str, end: str, more: str, **keys: Any) -> Case:
    """Grow until that is refused, then end the program."""
    text = f"""{more} (func (export "run")
      (loop $more (br_if $more (i32.ne {grow} (i32.const -1)))) {end})"""
    return Case(code, text, {"memory_mb": 4, **keys})


def prints(code: str, *writes: tuple[int, int, int], prelude: str = STREAMS, **keys: Any) -> Case:
    """Write to streams: descriptor, bytes of a write, number of writes."""
    loops = "".join(
        f"""(local.set $n (i32.const {count}))
        (loop $more{number} (call $write (i32.const {fd}) (i32.const 1024) (i32.const {size}))
          (local.set $n (i32.sub (local.get $n) (i32.const 1)))
          (br_if $more{number} (local.get $n)))"""
        for number, (fd, size, count) in enumerate(writes)
    )
    text = f"""{prelude} (func (export "_start") (local $n i32)
      (memory.fill (i32.const 1024) (i32.const 120) (i32.const 200000)) {loops})"""
    return Case(code, text, {"output_mb": _OUTPUT_MB, **keys})


def streams(code: str, program: str, **keys: Any) -> Case:
    """Run a program of :data:`STREAM_PROGRAMS`."""
    return Case(code, STREAMS + STREAM_PROGRAMS[program], keys)


def files(code: str, program: str, **keys: Any) -> Case:
    """Run a program of :data:`FILE_PROGRAMS`."""
    return Case(code, FILES + FILE_PROGRAMS[program], keys)


def reads(path: str, *grants: str) -> Case:
    """Read a file of a granted directory."""
    text = READER.replace("FLAGS", "0").replace("RIGHTS", "2")
    body = text.strip().removeprefix("(module").removesuffix(")")
    return Case("ok", body, {"stdin": path, "grants": ["books", *grants]})


_STATE: Final = """(global $g (mut i32) (i32.const 0)) (memory (export "memory") 1 9)
  (table $t 0 99 funcref) (func (export "run") (result i32)
    (global.set $g (i32.add (global.get $g) (i32.const 1)))
    (i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 100)))
    (drop (memory.grow (i32.const 1))) (drop (table.grow $t (ref.null func) (i32.const 1)))
    (i32.add (i32.add (global.get $g) (i32.load (i32.const 8)))
      (i32.add (i32.mul (memory.size) (i32.const 1000))
        (i32.mul (table.size $t) (i32.const 10000)))))"""

_FLOATS: Final = """(func (export "run") (param f32 f64 i32 i64) (result i64 i32 f64 f32)
  (local.get 3) (local.get 2) (local.get 1) (local.get 0))"""

_THOUSAND: Final = f"""(func (export "run") (param {"i64 " * 1000}) (result {"i64 " * 1000})
  {"".join(f"(local.get {999 - number})" for number in range(1000))})"""

#: Functions that call one another, more than a message shows.
_DEEP: Final = "".join(f"(func $level{n} (call $level{n + 1}))" for n in range(20))

_LONG: Final = "x" * 2000
_ODD: Final = '"é\U0001f600\\n\\u{202e}"'

_LOOP: Final = """(func (export "run") (param i64) (result i64)
  (loop $more (local.set 0 (i64.sub (local.get 0) (i64.const 1)))
    (br_if $more (i64.gt_s (local.get 0) (i64.const 0)))) (local.get 0))"""

_MEMORY: Final = '(memory (export "memory") 1)'

CASES: Final[dict[str, Case]] = {
    # Results
    "nothing": Case("ok", '(func (export "run"))'),
    "state": Case("ok", _STATE),
    "state-with-wasi": Case(
        "ok",
        '(import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))' + _STATE,
    ),
    "values": Case("ok", _FLOATS, {"args": [0.1, 5e-324, 4294967295, 18446744073709551615]}),
    "negative-values": Case("ok", _FLOATS, {"args": [-0.0, -1.5, -2147483648, -1]}),
    "nan-payloads": Case("ok", _FLOATS, {"args": ["nan:0x1", "-nan:0x4000000000001", 0, 0]}),
    "thousand-values": Case("ok", _THOUSAND, {"args": [n << 40 for n in range(1000)]}),
    "missing-entry": Case("entry-not-found", '(func (export "run"))', {"entry": "missing"}),
    # Exits
    **{f"exit-{code}": exits(code) for code in (0, 1, 3, 125, 126, 255, 256, 1 << 31)},
    "exit-of-a-function": Case(
        "exit", f'{STREAMS}(func (export "run") (call $proc_exit (i32.const 0)))'
    ),
    # Traps
    "unreachable": traps("(unreachable)"),
    "deep-trap": Case("trap", f'{_DEEP}(func $level20 (unreachable)) (export "run" (func 0))'),
    "long-names": traps(
        f"(call ${_LONG})", f"(func ${_LONG} (call ${_ODD})) (func ${_ODD} (unreachable))"
    ),
    "stack-overflow": Case("trap", '(func $f (export "run") (call $f) (call $f))'),
    "memory-out-of-bounds": traps("(i32.store (i32.const 65536) (i32.const 1))", _MEMORY),
    "below-address-0": traps("(i32.store (i32.const -16) (i32.const 1))", _MEMORY),
    "table-out-of-bounds": traps("(drop (table.get (i32.const 9)))", "(table 1 funcref)"),
    "null-call": traps("(call_indirect (i32.const 0))", "(table 1 funcref)"),
    "bad-signature": traps(
        "(drop (call_indirect (result i32) (i32.const 0)))",
        "(table 1 funcref) (elem (i32.const 0) func $outer)",
    ),
    "division-by-zero": traps("(drop (i32.div_u (i32.const 1) (i32.const 0)))"),
    "integer-overflow": traps("(drop (i32.div_s (i32.const -2147483648) (i32.const -1)))"),
    "bad-conversion": traps("(drop (i32.trunc_f32_s (f32.const nan)))"),
    "trap-of-a-command": streams("trap", "trap"),
    # Limits
    "timeout": Case("timeout", '(func (export "run") (loop (br 0)))', {"timeout_sec": 0.3}),
    "refused-growth-and-trap": lacks_memory(
        "memory-limit", "(memory.grow (i32.const 1))", "(unreachable)", _MEMORY
    ),
    "refused-growth-and-exit": lacks_memory(
        "memory-limit",
        "(memory.grow (i32.const 1))",
        "(call $proc_exit (i32.const 2))",
        STREAMS,
    ),
    "refused-growth-and-result": lacks_memory("ok", "(memory.grow (i32.const 1))", "", _MEMORY),
    "growth-past-the-maximum": lacks_memory(
        "trap",
        "(memory.grow (i32.const 1))",
        "(unreachable)",
        '(memory (export "memory") 1 3)',
    ),
    "refused-table-growth": lacks_memory(
        "memory-limit",
        "(table.grow (ref.null func) (i32.const 100000))",
        "(unreachable)",
        "(table 0 funcref)",
    ),
    # A table's share of growth is smaller than its initial size.
    "table-growth-beside-a-large-one": Case(
        "ok",
        """(table $large 200000 funcref) (table $t 0 funcref) (func (export "run") (result i32)
          (loop $more (br_if $more
            (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1))))
          (table.size $t))""",
        {"memory_mb": 4},
    ),
    "too-large-initially": Case(
        "memory-limit", '(memory (export "memory") 100) (func (export "run"))', {"memory_mb": 4}
    ),
    "fuel-used": Case("ok", _LOOP, {"args": [1000], "fuel": 100_000}),
    "no-fuel-left": Case("fuel-limit", _LOOP, {"args": [1_000_000], "fuel": 100_000}),
    # Output
    "output-at-the-limit": prints("ok", (1, 1024, 64)),
    "output-of-both-at-the-limit": prints("ok", (1, 1024, 40), (2, 1024, 24)),
    "a-byte-more": prints("output-limit", (1, 1024, 64), (1, 1, 1)),
    "a-byte-more-of-the-other": prints("output-limit", (1, 1024, 64), (2, 1, 1)),
    "too-much-output": prints("output-limit", (1, 1000, 100)),
    "too-many-errors": prints("output-limit", (2, 1000, 100)),
    "too-much-at-once": prints("output-limit", (1, 200_000, 1)),
    "too-much-together": prints("output-limit", (1, 1000, 40), (2, 1000, 40)),
    "directory-output-at-the-limit": prints("ok", (1, 1024, 64), prelude=FILES, disk_mb=1),
    "directory-too-much-output": prints("output-limit", (1, 1000, 100), prelude=FILES, disk_mb=1),
    "directory-too-many-errors": prints("output-limit", (2, 1000, 100), prelude=FILES, disk_mb=1),
    "directory-too-much-together": prints(
        "output-limit", (1, 1000, 40), (2, 1000, 40), prelude=FILES, disk_mb=1
    ),
    "endless-output": streams("output-limit", "endless", output_mb=_OUTPUT_MB),
    "full-output-and-large-file": Case(
        "disk-limit",
        f"""{FILES} (func (export "_start") (local $fd i32)
          (call $write (i32.const 1) (i32.const 1024) (i32.const {_OUTPUT_BYTES}))
          (local.set $fd (call $create (i32.const 64) (i32.const 1)))
          (loop $more (call $write (local.get $fd) (i32.const 1024) (i32.const 65536))
            (br $more))) (data (i32.const 64) "f")""",
        {"output_mb": _OUTPUT_MB, "disk_mb": 1},
    ),
    "bytes": streams("ok", "bytes"),
    # Input
    "no-input": streams("ok", "cat"),
    "a-byte-of-input": streams("ok", "cat", stdin="x"),
    "a-megabyte-of-input": streams(
        "ok",
        "cat",
        stdin={"base64": base64.b64encode(bytes(range(256)) * 4096).decode()},
        output_mb=2,
    ),
    "arguments": streams("ok", "args", args=["", "one two", "é\U0001f600", "x" * 5000]),
    "variables": streams("ok", "env", env={"A": "", "é": "\U0001f600", "LONG": "y" * 5000}),
    # Reactors
    "reactor": streams("ok", "reactor"),
    "initializer-called": streams("ok", "reactor", entry="_initialize"),
    "bad-reactor": streams("trap", "bad-reactor"),
    "exiting-reactor": streams("exit", "exiting-reactor"),
    # Files
    "files": files("ok", "work", files={"data/in.txt": "what is the answer?"}),
    "files-of-a-function": files("ok", "function", files={"a": "12345"}),
    "files-and-exit": files("exit", "fails"),
    "odd-files": files("ok", "odd"),
    "no-way-out": files("exit", "escape"),
    "large-file": files("disk-limit", "large", disk_mb=1, output_mb=_OUTPUT_MB),
    "many-files": files("disk-limit", "many", disk_mb=1),
    "many-input-files": files(
        "ok", "idle", files={f"d{n % 50}/{n}/é": "x" * n for n in range(500)}
    ),
    "large-files": files("ok", "idle", files={"a": "x" * 500_000, "d/b": "y" * 500_000}),
    "granted-file": reads("title"),
    "many-grants": reads("title", *GRANTS),
    # Not for the native guest
    "hidden-memory": Case(
        "ok", '(memory 3) (func (export "run") (result i32) (memory.size))', is_fit=False
    ),
    "start-function": Case(
        "ok",
        """(global $g (mut i32) (i32.const 0)) (func $s (global.set $g (i32.const 7))) (start $s)
          (func (export "run") (result i32) (global.get $g))""",
        is_fit=False,
    ),
}


def make_books(path: Path, title: str) -> None:
    """Make the granted directory anew."""
    if path.exists():
        shutil.rmtree(path)
    path.mkdir()
    path.chmod(0o755)
    (path / "title").write_text(title)
    (path / "title").chmod(0o644)


def comparable(daemon: Daemon, name: str, marker: dict[str, Any]) -> dict[str, Any]:
    """Return what two runs of a job have in common: its marker and its result files."""
    assert daemon.result(name) is not None
    kept = {key: value for key, value in marker.items() if key not in _OF_THE_RUN}
    text = daemon.result_path(name, ".txt").read_text()
    kept["files"]["result.txt"] = [
        line for line in text.splitlines() if not line.startswith("timestamp:")
    ]
    if kept["module"] is not None:
        kept["module"] = kept["module"]["sha256"]
    return kept
