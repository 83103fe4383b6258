"""Proposals of WebAssembly: those that docs/toolchains.md lists as supported run."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop
from tests.support.guests import running_in
from tests.support.outcomes import failure

_PAGE: Final = Path(__file__).parents[2] / "docs" / "toolchains.md"
_RUN: Final = 'func (export "run") (result i32)'

#: A module for each proposal that runs; its ``run`` returns 7.
RUNNING: Final = {
    "bulk memory": f"""(memory 1) (data $d "\\07")
        ({_RUN} (memory.init $d (i32.const 9) (i32.const 0) (i32.const 1))
          (memory.copy (i32.const 20) (i32.const 9) (i32.const 1)) (i32.load8_u (i32.const 20)))""",
    "compact imports": f"""
        (import "wasi_snapshot_preview1" (item "sched_yield" (func $yield (result i32)))
          (item "proc_exit" (func (param i32))))
        (memory (export "memory") 1)
        ({_RUN} (i32.add (call $yield) (i32.const 7)))""",
    "custom page sizes": f"(memory 7 (pagesize 1)) ({_RUN} (memory.size))",
    "exceptions (`try_table`, `exnref`)": f"""(tag $t (param i32))
        ({_RUN} (block $caught (result i32)
          (try_table (catch $t $caught) (throw $t (i32.const 7))) (i32.const 0)))""",
    "extended constant expressions": f"""(global $g i32 (i32.add (i32.const 3) (i32.const 4)))
        ({_RUN} (global.get $g))""",
    "garbage collection": f"""(type $s (struct (field i32))) (type $a (array (ref $s)))
        ({_RUN} (struct.get $s 0 (array.get $a
          (array.new $a (struct.new $s (i32.const 7)) (i32.const 3)) (i32.const 2))))""",
    "memory64": f"(memory i64 1) ({_RUN} (i32.store (i64.const 8) (i32.const 7))"
    " (i32.load (i64.const 8)))",
    "multiple memories": f"(memory $a 1) (memory $b 7) ({_RUN} (memory.size $b))",
    "multiple values": f"""(func $two (result i32 i32) (i32.const 3) (i32.const 4))
        ({_RUN} (i32.add (call $two)))""",
    "mutable globals": f"""(global $g (export "g") (mut i32) (i32.const 0))
        ({_RUN} (global.set $g (i32.const 7)) (global.get $g))""",
    "non-trapping conversions": f"({_RUN} (i32.add (i32.trunc_sat_f32_s (f32.const nan))"
    " (i32.const 7)))",
    "reference types": f"""(table $t 7 externref)
        ({_RUN} (table.set $t (i32.const 0) (ref.null extern)) (table.size $t))""",
    "relaxed SIMD": f"""({_RUN} (i32x4.extract_lane 0 (i32x4.relaxed_trunc_f32x4_s
        (v128.const f32x4 7.5 0 0 0))))""",
    "sign extension": f"({_RUN} (i32.add (i32.extend8_s (i32.const 0xff)) (i32.const 8)))",
    "SIMD": f"""({_RUN} (i32x4.extract_lane 2 (i32x4.add
        (v128.const i32x4 0 0 3 0) (v128.const i32x4 0 0 4 0))))""",
    "table64": f"(table $t i64 7 funcref) ({_RUN} (i32.wrap_i64 (table.size $t)))",
    "tail calls": f"""(func $down (param i32) (result i32)
          (if (i32.eqz (local.get 0)) (then (return (i32.const 7))))
          (return_call $down (i32.sub (local.get 0) (i32.const 1))))
        ({_RUN} (call $down (i32.const 10000000)))""",
    "threads: atomic instructions": f"""(memory 1)
        ({_RUN} (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 7)))
          (i32.atomic.load (i32.const 0)))""",
    "typed function references": f"""(type $f (func (result i32))) (elem declare func $seven)
        (func $seven (type $f) (i32.const 7)) ({_RUN} (call_ref $f (ref.func $seven)))""",
    "wide arithmetic": f"""({_RUN} (i64.mul_wide_u (i64.const -1) (i64.const 8)) (i32.wrap_i64)
        (return) (unreachable))""",
}

_TYPE: Final = b"\0asm\1\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0"

#: A module for each that does not run.
REFUSED: Final[dict[str, str | bytes]] = {
    "exceptions, legacy (`try`, `catch`)": _TYPE
    + b"\x0d\x03\x01\0\0\x07\x07\x01\x03run\0\0\x0a\x0a\x01\x08\0\x06\x40\x08\0\x19\x0b\x0b",
    "shared-everything threads": "(type (shared (func)))",
    "stack switching": "(type $f (func)) (type (cont $f))",
    "threads: shared memories": f"(memory 1 2 shared) ({_RUN} (i32.const 7))",
}


def module(text: str | bytes) -> bytes:
    """Return a module of this text."""
    return text if isinstance(text, bytes) else bytes(wat2wasm(f"(module {text})"))


@pytest.fixture(scope="module")
def daemon(guest: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one running daemon for all."""
    daemon = Daemon(tmp_path_factory.mktemp("proposals"), WASMDROP_MEMORY_MB="16")
    with running_in(guest, daemon) as it:
        yield it


def test_toolchains_page_lists_the_proposals_that_are_tested() -> None:
    """Those that run, and those that do not."""
    table = _PAGE.read_text().partition("| proposal | runs |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (.+) \| (yes|no) \|$", table, re.MULTILINE)
    assert len(rows) == table.count("\n") - 1
    assert rows == [(name, "yes") for name in RUNNING] + [(name, "no") for name in REFUSED]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", RUNNING)
def test_proposal_that_runs_gives_its_result(
    daemon: Daemon, name: str, *, deterministic: bool
) -> None:
    """Also if the job is deterministic."""
    slot = f"{list(RUNNING).index(name)}-{deterministic}"
    drop(daemon.wasm / f"{slot}.wasm", module(RUNNING[name]))
    marker = daemon.submit(f"input-{slot}.json", {"module": slot, "deterministic": deterministic})
    assert marker["code"] == "ok", marker["message"]
    assert daemon.result(f"input-{slot}.json")["results"] == [7]


@pytest.mark.parametrize("name", REFUSED)
def test_proposal_that_does_not_run_is_refused(daemon: Daemon, name: str) -> None:
    """Before anything is called."""
    slot = f"refused-{list(REFUSED).index(name)}"
    drop(daemon.wasm / f"{slot}.wasm", module(REFUSED[name]))
    daemon.submit(f"input-{slot}.json", {"module": slot})
    code = "link-error" if name == "threads: shared memories" else "invalid-module"
    failure(daemon, f"input-{slot}.json", code, "it is a m")


_PAGES: Final = """
  ({exported} 0 (pagesize 1)) {more}
  (func (export "run") (param i32) (result i32)
    (drop (memory.grow (local.get 0)))
    (if (memory.size) (then
      (i32.store8 (i32.sub (memory.size) (i32.const 1)) (i32.const 1))))
    (memory.size))
"""


@pytest.mark.parametrize(
    ("more", "share"), [("", 16 << 20), ("(memory $b 0)", 8 << 20), ("(memory $b 64)", 8 << 20)]
)
@pytest.mark.parametrize("exported", ['memory (export "memory")', "memory"])
def test_memory_with_pages_of_one_byte_is_limited_in_bytes(
    daemon: Daemon, more: str, share: int, exported: str
) -> None:
    """The last byte of a share can be written; one more is refused to the guest."""
    text = _PAGES.format(exported=exported, more=more)
    slot = f"pages-{len(more)}-{len(exported)}"
    drop(daemon.wasm / f"{slot}.wasm", module(text))
    for pages, size in ((share, share), (share + 1, 0), (5, 5), (0, 0)):
        given = {"module": slot, "entry": "run", "args": [pages], "id": str(pages)}
        marker = daemon.submit(f"input-{slot}.json", given)
        assert marker["code"] == "ok", marker["message"]
        assert daemon.result(f"input-{slot}.json")["results"] == [size]
        other = 64 << 16 if "64" in more else 0
        # The size of a memory that is not exported is known in pages of the host.
        slack = 0 if "export" in exported and not more else 4095
        assert size + other <= marker["peak_memory_bytes"] <= size + other + slack


def test_memory_with_pages_of_one_byte_past_the_limit_is_refused(daemon: Daemon) -> None:
    """With one more byte than it may have; with exactly as many it runs."""
    for size, code in ((16 << 20, "ok"), ((16 << 20) + 1, "memory-limit")):
        drop(
            daemon.wasm / f"{size}.wasm",
            module(f"(memory {size} (pagesize 1)) (func) ({_RUN} (memory.size))"),
        )
        marker = daemon.submit(f"input-{size}.json", {"module": str(size)})
        assert marker["code"] == code, marker["message"]
        if code == "ok":
            assert daemon.result(f"input-{size}.json")["results"] == [size]
