"""The memory limit of a guest: memories, tables and heap together."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop
from tests.support.guests import running_in
from wasmdrop.protocol.limits import MEBIBYTE

MEMORY_MB: Final = 24

#: Memory in MiB that the engine and Python may use besides, while the guest runs: a part of
#: ``PROCESS_BYTES``.
ROOM_MB: Final = 8

_AGAIN: Final = "(br_if $again (i32.ne (i32.const -1) {}))"


def grows(*steps: str) -> str:
    """Return a function that repeats each step until it is refused."""
    body = "".join(f"(loop $again {_AGAIN.format(step)})" for step in steps)
    return f'(func (export "run") (result i32) {body} (i32.const 7))'


def table_grows(table: str, element: str = "func", wide: str = "i32") -> str:
    """Return a step that grows a table by 256 KiB."""
    grown = f"(table.grow {table} (ref.null {element}) ({wide}.const 32768))"
    return grown if wide == "i32" else f"(i32.wrap_i64 {grown})"


#: Modules that grow until they are refused, and then return 7.
GREEDY: Final = {
    "functions": f"(table $t 1 funcref) {grows(table_grows('$t'))}",
    "externals": f"(table $t 1 externref) {grows(table_grows('$t', 'extern'))}",
    "any": f"(table $t 1 anyref) {grows(table_grows('$t', 'any'))}",
    "wide": f"(table $t i64 1 funcref) {grows(table_grows('$t', wide='i64'))}",
    "initialized": (
        "(type $s (struct)) (table $t 1 (ref func) (ref.func $f)) (table $u 1 funcref)"
        f" (func $f) (elem declare func $f) {grows(table_grows('$u'))}"
    ),
    "many-tables": (
        "".join(f"(table $t{n} 1 funcref)" for n in range(40))
        + grows(*(table_grows(f"$t{n}") for n in range(40)))
    ),
    "one-large-table": (
        "(table $t 1000000 funcref) (table $u 1 funcref) (table $v 1 funcref)"
        + grows(*(table_grows(name) for name in ("$t", "$u", "$v")))
    ),
    "tables-and-memories": (
        "(memory $m 1) (memory $n 200) (table $t 1 funcref) (table $u 1 funcref)"
        + grows(
            table_grows("$t"),
            "(memory.grow $m (i32.const 4))",
            table_grows("$u"),
            "(memory.grow $n (i32.const 4))",
        )
    ),
    "heap-and-memory": (
        "(memory $m 1) (type $a (array (mut i64)))"
        '(global $kept (mut (ref null $a)) (ref.null $a)) (func (export "run") (result i32)'
        f" (loop $again {_AGAIN.format('(memory.grow $m (i32.const 4))')})"
        " (global.set $kept (array.new_default $a (i32.const 1000000))) (i32.const 7))"
    ),
}

#: Modules that need too much memory, and the part of the message about it.
REFUSED: Final = {
    "least": ('(table 50000000 funcref) (func (export "run"))', "400000000 bytes"),
    "least-of-64-bits": (
        '(table i64 0x100000000000 funcref) (func (export "run"))',
        f"{8 << 44} bytes",
    ),
    "least-of-many": ("(table 200000 funcref)" * 20 + '(func (export "run"))', "32000000 bytes"),
    "least-of-both": (
        '(memory 300) (table 1000000 funcref) (func (export "run"))',
        f"{300 * 65536 + 8000000} bytes",
    ),
    "heap": (
        (
            '(type $a (array (mut i64))) (func (export "run")'
            " (drop (array.new_default $a (i32.const 30000000))))"
        ),
        "GC heap out of memory",
    ),
}

#: Runs one module in a process of its own, as a child does, and reports its size.
_MEASURE: Final = """
import json, os, pathlib, resource, sys
from wasmtime import Module
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.sandbox.guest.module_parser import parse_module
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.guest.core_module import ModuleRun
from wasmdrop.sandbox.wire import EngineOptions
from wasmdrop.sandbox.host.call import invocation_of, preparation_of
from wasmdrop.sandbox.guest.engine import Engine
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule

def status(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024

module = sys.stdin.buffer.read()
engine = Engine(EngineOptions())
fd = os.memfd_create("code")
os.write(fd, Module(engine.wasmtime_engine, module).serialize())
compiled = CompiledModule("0" * 64, engine.options, parse_module(module), fd)
call = Call("run", FunctionType((), ("i32",)))
limits = Limits(memory_mb=int(sys.argv[1]))
run = ModuleRun(preparation_of(compiled, call, limits), engine, lambda report: None)
run.load(fd)
before, resident = status("VmData"), status("VmHWM")
bound_bytes = int((before + float(sys.argv[2])) * 1024 * 1024)
resource.setrlimit(resource.RLIMIT_DATA, (bound_bytes, bound_bytes))
invocation = invocation_of(compiled, call, limits, has_directory=False)
report = run.execute(invocation, run.link)
peak_mb = status("VmHWM") - resident
print(json.dumps([report.code, report.message, report.results, peak_mb]))
"""


def measured(text: str) -> tuple[str, str, list[int], float]:
    """Return code, message, results, and the peak growth of the process in MiB.

    The kernel limits the process to the guest's memory and ``ROOM_MB``.
    """
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(MEMORY_MB), str(MEMORY_MB + ROOM_MB)],
        input=bytes(wat2wasm(f"(module {text})")),
        capture_output=True,
        check=True,
    )
    code, message, results, peak_mb = json.loads(done.stdout)
    return code, message, results, peak_mb


@pytest.mark.parametrize("name", GREEDY)
def test_greedy_guest_is_refused_growth_at_its_limit(name: str) -> None:
    """Growth returns -1, and the process stays small."""
    code, message, results, peak_mb = measured(GREEDY[name])
    assert (code, results) == ("ok", [7]), message
    assert peak_mb < MEMORY_MB + ROOM_MB


def test_only_table_may_grow_to_half_of_memory() -> None:
    """A table is copied to grow, so it may use half of the memory and no less."""
    text = GREEDY["functions"].replace("(i32.const 7)", "(table.size $t)")
    _code, _message, (elements,), _peak_mb = measured(text)
    assert 0.45 < 8 * elements / MEBIBYTE / MEMORY_MB <= 0.5


@pytest.mark.parametrize(
    "text",
    [
        (
            '(memory 1) (table 30 funcref) (func (export "run") (result i32)'
            f" (memory.grow (i32.const {MEMORY_MB * 16 - 1})))"
        ),
        (
            '(memory 1) (table $t 30 funcref) (func (export "run") (result i32)'
            " (table.grow $t (ref.null func) (i32.const 1000)))"
        ),
    ],
    ids=["memory", "table"],
)
def test_growth_within_limit_is_granted(text: str) -> None:
    """A table of usual size does not reduce the memory, and a small one may grow."""
    code, message, results, _peak_mb = measured(text)
    assert code == "ok", message
    assert results in ([1], [30])


@pytest.fixture(scope="module")
def daemon(guest: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Return a running daemon."""
    it = Daemon(
        tmp_path_factory.mktemp("bound"),
        WASMDROP_MEMORY_MB=str(MEMORY_MB),
        WASMDROP_ATTEMPTS="1",
    )
    with running_in(guest, it):
        yield it


def submitted(daemon: Daemon, name: str, text: str) -> list[dict[str, Any]]:
    """Run a module until a zygote serves it; return the markers."""
    drop(daemon.wasm / f"{name}.wasm", bytes(wat2wasm(f"(module {text})")))
    job = {"module": name, "entry": "run"}
    return [daemon.submit(f"input-{name}.json", job | {"id": str(n)}) for n in range(4)]


@pytest.mark.parametrize("name", REFUSED)
def test_module_that_needs_too_much_memory_ends_as_memory_limit(daemon: Daemon, name: str) -> None:
    """The message names the refused size and the limit."""
    text, refused = REFUSED[name]
    for marker in submitted(daemon, name, text):
        assert marker["code"] == "memory-limit", marker["message"]
        assert refused in marker["message"]
        assert f"limit: {MEMORY_MB} MiB" in marker["message"]
        assert "memory_mb" in marker["message"]


@pytest.mark.parametrize("name", ["functions", "tables-and-memories"])
def test_greedy_guest_in_daemon_is_refused_growth(daemon: Daemon, name: str) -> None:
    """Whichever process runs it."""
    for marker in submitted(daemon, f"greedy-{name}", GREEDY[name]):
        assert marker["code"] == "ok", marker["message"]


@pytest.mark.parametrize(
    ("table", "index", "parts"),
    [
        ("funcref", "i32", 100_000_000),
        ("externref", "i32", 100_000),
        ("i64 funcref", "i64", 50_000),
    ],
)
def test_trap_after_refused_table_growth_is_memory_limit(
    daemon: Daemon, table: str, index: str, parts: int
) -> None:
    """The message names the table and the trap."""
    wide, _space, kind = table.rpartition(" ")
    name = f"refused-{kind}{wide}"
    text = (
        f'(table $t {wide} 1 {kind}) (func (export "run") (loop $again'
        f" (br_if $again ({index}.ne ({index}.const -1)"
        f" (table.grow $t (ref.null {kind[:-3]}) ({index}.const {parts}))))) (unreachable))"
    )
    for marker in submitted(daemon, name, text):
        assert marker["code"] == "memory-limit", marker["message"]
        for words in ("table was refused growth", "unreachable", "memory_mb"):
            assert words in marker["message"]


def test_trap_after_granted_table_growth_stays_trap(daemon: Daemon) -> None:
    """No growth was refused."""
    text = (
        '(table $t 1 funcref) (func (export "run")'
        " (drop (table.grow $t (ref.null func) (i32.const 100))) (unreachable))"
    )
    for marker in submitted(daemon, "granted", text):
        assert (marker["code"], marker["message"].partition("\n")[0]) == ("trap", "unreachable")


def test_component_with_too_large_table_ends_as_memory_limit(daemon: Daemon) -> None:
    """Only the engine knows its tables."""
    text = (
        '(component (core module $m (table 50000000 funcref) (func (export "run")))'
        " (core instance $i (instantiate $m))"
        ' (func (export "run") (canon lift (core func $i "run"))))'
    )
    drop(daemon.wasm / "component.wasm", bytes(wat2wasm(text)))
    marker = daemon.submit("input-component.json", {"module": "component", "entry": "run"})
    assert marker["code"] == "memory-limit", marker["message"]
    assert "table minimum size of 50000000 elements" in marker["message"]
    assert "memory_mb" in marker["message"]
