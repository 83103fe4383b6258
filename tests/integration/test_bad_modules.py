"""Modules that are invalid, do not load, or misbehave: each gets its code and causes no fault."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from wasmtime import Config, Engine, Module, wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import FIB
from tests.support.guests import runs_in_native, use_guest
from tests.support.outcomes import failure, faults

pytestmark = pytest.mark.usefixtures("no_fault")

FIB_WASM: Final = bytes(wat2wasm(FIB))


def answer(value: int) -> bytes:
    """Return a module whose ``run`` returns ``value``."""
    return bytes(wat2wasm(f'(module (func (export "run") (result i32) (i32.const {value})))'))


@pytest.fixture(scope="module")
def daemon(guest: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one running daemon for all cases; no case may change it."""
    it = Daemon(
        tmp_path_factory.mktemp("bad-modules"),
        WASMDROP_SETTLE_SEC="0.1",
        WASMDROP_MODULE_WAIT_SEC="0.5",
        WASMDROP_MEMORY_MB="16",
        TIMEOUT_SEC="5",
    )
    drop(it.wasm / "module.wasm", FIB_WASM)
    record = use_guest(guest, it)
    with it.running():
        yield it
    assert any(runs_in_native(record).values()) is (guest == "native")


def good_drop_runs(daemon: Daemon) -> None:
    """Check that other slots still run."""
    daemon.submit("input-good.json", {"entry": "fib", "args": [12], "id": os.urandom(8).hex()})
    assert daemon.result("input-good.json")["results"] == [144]


def finished(daemon: Daemon, name: str) -> list[dict[str, Any]]:
    """Return the log events of the slot's finished jobs."""
    return [event for event in daemon.events("job-finished") if event["slot"] == name]


# Files that are no modules


def _elf(path: Path) -> None:
    shutil.copyfile("/proc/self/exe", path)


def _precompiled(path: Path) -> None:
    path.write_bytes(Module(Engine(Config()), FIB_WASM).serialize())


def _bytes(data: bytes) -> Callable[[Path], None]:
    return lambda path: drop(path, data)


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


COMPONENT: Final = b"\0asm\x0d\0\x01\0"

NO_MODULE: Final[dict[str, tuple[Callable[[Path], None], str]]] = {
    "text": (_bytes(FIB.strip().encode()), "it is WebAssembly text (WAT); compile it first"),
    "text-after-space": (_bytes(FIB.encode()), "it is WebAssembly text (WAT); compile it first"),
    "elf": (_elf, "it is an ELF file"),
    "precompiled": (_precompiled, "a precompiled module (.cwasm)"),
    "empty": (_bytes(b""), "it is empty"),
    "magic-only": (_bytes(b"\0asm"), "it is cut short after 4 bytes"),
    "future": (_bytes(b"\0asm\x02\0\0\0"), "expected version 01 00 00 00"),
    "script": (_bytes(b"#!/bin/sh\necho pwned\n"), "it is a text file"),
    "truncated": (_bytes(FIB_WASM[:-10]), "the file is cut short or damaged: section"),
    "component-truncated": (_bytes(COMPONENT + b"\1"), "cut short"),
    "trailing": (_bytes(FIB_WASM + b"\xff" * 8), "cut short or damaged"),
    "invalid-code": (
        _bytes(FIB_WASM.replace(b"\x7d", b"\x6b")),  # an i32.sub for each i64.sub
        "",
    ),
    "directory": (Path.mkdir, "expected a regular file, found a directory"),
    "fifo": (os.mkfifo, "expected a regular file, found a FIFO"),
    "dangling": (_link("nowhere"), "a link to nothing"),
    "out": (_link("/proc/self/exe"), "a link that leads out of"),
    "circle": (_link("module.wasm"), "links that lead in a circle"),
}


@pytest.mark.parametrize("kind", NO_MODULE)
def test_module_that_is_invalid_is_refused_each_time_until_it_is_replaced(
    daemon: Daemon, kind: str
) -> None:
    """Later jobs get the same refusal, and the last job reruns when a valid module is dropped."""
    make, words = NO_MODULE[kind]
    name = f"{kind}/input.json"
    module = daemon.shared / kind / "module.wasm"
    module.parent.mkdir()
    make(module)
    # A job that failed before the daemon took the module would be rerun, and its marker removed.
    wait_until(
        lambda: str(module) in [event["path"] for event in daemon.events("module-dropped")],
        "the module to be taken",
    )
    for attempt in range(2):
        daemon.submit(name, {"entry": "fib", "args": [12], "id": str(attempt)})
        failure(daemon, name, "invalid-module", words)
    if module.is_dir():
        module.rmdir()
    drop(module, FIB_WASM)
    wait_until(lambda: (daemon.marker(name) or {"code": ""})["code"] == "ok", "one more job")
    assert daemon.result(name)["results"] == [144]
    assert daemon.marker(name)["id"] == "1"  # type: ignore[index]
    good_drop_runs(daemon)


def test_module_that_is_invalid_is_refused_for_every_job(daemon: Daemon) -> None:
    """The daemon may forget the refusal; it then reads the file again."""
    drop(daemon.wasm / "bad.wasm", b"bad")
    # Often enough for the file to become so old that its digest is remembered.
    for attempt in range(5):
        daemon.submit("input-bad.json", {"module": "bad", "id": str(attempt)})
        failure(daemon, "input-bad.json", "invalid-module", "it is a text file")


def test_module_with_shared_memory_is_refused_as_multithreaded(daemon: Daemon) -> None:
    """The message does not claim that the memory is too large."""
    text = FIB.replace("(module", "(module (memory 1 2 shared)", 1)
    drop(daemon.wasm / "threads.wasm", bytes(wat2wasm(text)))
    daemon.submit("input-threads.json", {"module": "threads", "entry": "fib", "args": [1]})
    failure(daemon, "input-threads.json", "link-error", "it is a multithreaded module")
    good_drop_runs(daemon)


def test_module_dropped_right_after_a_failure_reruns_the_slot(tmp_path: Path) -> None:
    """The marker exists before the daemon is done with the job, so it must hold by then.

    Each fsync takes long, so that the drop comes in between.
    """
    daemon = Daemon(tmp_path, WASMDROP_MODULE_WAIT_SEC="0.1")
    quiet = ("--quiet=all", "--output=/dev/null", "--signal=none", "--trace=fsync")
    slow = "--inject=fsync:delay_exit=300ms"
    daemon.prefix = ("strace", "--daemonize", "--follow-forks", *quiet, slow)
    drop(daemon.wasm / "module.wasm", FIB_WASM)
    with daemon.running():
        daemon.submit("slot/input.json", {"module": "late", "entry": "fib", "args": [12]})
        drop(daemon.wasm / "late.wasm", FIB_WASM)
        wait_until(
            lambda: (daemon.marker("slot/input.json") or {"code": ""})["code"] == "ok", "the result"
        )


def test_default_module_that_needs_an_input_runs_when_one_is_dropped(tmp_path: Path) -> None:
    """Without an input it is only reported."""
    daemon = Daemon(tmp_path)
    with daemon.running():
        drop(daemon.wasm / "module.wasm", FIB_WASM)
        wait_until(lambda: daemon.events("module-input-missing"), "the report")
        assert not daemon.result_path("input.json", ".json").exists()
        daemon.submit("input.json", {"entry": "fib", "args": [12]})
        assert daemon.result("input.json")["results"] == [144]
    assert faults(daemon) == []


def test_module_with_flipped_bits_ends_in_a_defined_way(daemon: Daemon) -> None:
    """It is refused, traps, or is even right, but crashes no process."""
    chance = random.Random(20)  # noqa: S311 - the same bits each time
    names = []
    for number in range(40):
        data = bytearray(FIB_WASM)
        data[chance.randrange(8, len(data))] ^= 1 << chance.randrange(8)
        drop(daemon.wasm / "flipped" / f"{number}.wasm", bytes(data))
        names.append(f"input-flipped-{number}.json")
        reference = f"flipped/{number}"
        drop(
            daemon.shared / names[-1],
            {"entry": "fib", "args": [5], "module": reference, "timeout_sec": 0.5},
        )
    codes = set()
    for name in names:
        marker = wait_until(lambda name=name: daemon.marker(name), name)  # type: ignore[misc]
        codes.add(marker["code"])
    assert codes <= {
        "ok",
        "trap",
        "timeout",
        "invalid-module",
        "invalid-args",
        "entry-not-found",
        "unsupported-signature",
        "link-error",
        "memory-limit",
    }
    assert "invalid-module" in codes
    good_drop_runs(daemon)


# Modules that load partly, or that misbehave


def case(code: str, words: str, body: str, **extra: Any) -> tuple[str, str, str, dict[str, Any]]:
    """Return one case: a module's body, the job's other keys, and how it must end."""
    return code, words, body, extra


RUN: Final = '(func (export "run")'

CASES: Final[dict[str, tuple[str, str, str, dict[str, Any]]]] = {
    "import-function": case(
        "link-error", "\n  env: log", '(import "env" "log" (func)) (func (export "run"))'
    ),
    "import-memory": case(
        "link-error", "\n  env: memory (a memory)", f'(import "env" "memory" (memory 1)) {RUN})'
    ),
    "import-global": case(
        "link-error", "\n  env: g (a global)", f'(import "env" "g" (global i32)) {RUN})'
    ),
    "import-table": case(
        "link-error", "js: t (a table)", f'(import "js" "t" (table 1 funcref)) {RUN})'
    ),
    "import-wasi-unknown": case(
        "link-error",
        "wasi_snapshot_preview1: no_such",
        f'(import "wasi_snapshot_preview1" "no_such" (func)) {RUN})',
    ),
    "import-wasi-mistyped": case(
        "link-error",
        "proc_exit (imported as (f64) -> (), provided as (i32) -> ())",
        f'(import "wasi_snapshot_preview1" "proc_exit" (func (param f64))) {RUN})',
    ),
    "no-exports": case("entry-not-found", "it exports no functions at all", ""),
    "other-exports": case("entry-not-found", 'it exports "ran"', '(func (export "ran"))'),
    "memory-as-entry": case(
        "entry-not-found", '"run" is exported as a memory', '(memory (export "run") 1)', entry="run"
    ),
    "global-as-entry": case(
        "entry-not-found",
        '"run" is exported as a global',
        '(global (export "run") i32 (i32.const 1))',
        entry="run",
    ),
    "takes-v128": case("unsupported-signature", "params[0]", f"{RUN} (param v128))", args=[1]),
    "returns-v128": case(
        "unsupported-signature", "v128", f"{RUN} (result v128) (v128.const i64x2 1 2))"
    ),
    "takes-externref": case(
        "unsupported-signature", "externref", f"{RUN} (param externref))", args=[None]
    ),
    "returns-funcref": case(
        "unsupported-signature", "funcref", f"{RUN} (result funcref) (ref.null func))"
    ),
    "returns-anyref": case(
        "unsupported-signature", "anyref", f"{RUN} (result anyref) (ref.null any))"
    ),
    "start-traps": case("trap", "unreachable", f"(func $s (unreachable)) (start $s) {RUN})"),
    "start-loops": case(
        "timeout",
        "ran longer than 0.3 s",
        f"(func $s (loop (br 0))) (start $s) {RUN})",
        timeout_sec=0.3,
    ),
    "loops": case("timeout", "ran longer than 0.3 s", f"{RUN} (loop (br 0)))", timeout_sec=0.3),
    "recurses": case("trap", "stack overflow", '(func $f (export "run") (call $f))'),
    "unreachable": case("trap", "unreachable", '(func $named (export "run") (unreachable))'),
    "out-of-bounds": case(
        "trap", "memory out of bounds", f"(memory 1) {RUN} (drop (i32.load (i32.const -4))))"
    ),
    "divides-by-zero": case(
        "trap", "division by zero", f"{RUN} (drop (i32.div_u (i32.const 1) (i32.const 0))))"
    ),
    "throws": case("trap", "", f"(tag $t) {RUN} (throw $t))"),
    "memory-too-large": case("memory-limit", "memory", f"(memory 257) {RUN})"),
    "memories-too-large": case(
        "memory-limit", "memory", f"{'(memory 200) ' * 4} {RUN})", memory_mb=16
    ),
    "little-fuel": case("fuel-limit", "used up its fuel", f"{RUN} (loop (br 0)))", fuel=1000),
    "little-fuel-in-start": case(
        "fuel-limit", "used up its fuel", f"(func $s (loop (br 0))) (start $s) {RUN})", fuel=1000
    ),
    "too-few-arguments": case(
        "invalid-args", "expected 1 argument (i32), got 0", f"{RUN} (param i32))"
    ),
    "too-many-arguments": case("invalid-args", "expected no arguments, got 1", f"{RUN})", args=[1]),
}


@pytest.mark.parametrize("kind", CASES)
def test_module_that_misbehaves_gets_its_code(daemon: Daemon, kind: str) -> None:
    """The message names the fault."""
    code, words, body, extra = CASES[kind]
    drop(daemon.wasm / f"{kind}.wasm", bytes(wat2wasm(f"(module {body})")))
    name = f"input-{kind}.json"
    daemon.submit(name, {"module": kind, **extra})
    message = failure(daemon, name, code, words)
    assert message
    good_drop_runs(daemon)


HUNGRY: Final[dict[str, str]] = {
    "table": f"(table 500000000 funcref) {RUN})",
    "table-grown": f"(table $t 1 externref) {RUN} (result i32)"
    " (table.grow $t (ref.null extern) (i32.const 500000000)))",
    "memories-grown": f"{' '.join(f'(memory $m{n} 1)' for n in range(8))} {RUN} (result i32)"
    + "".join(f"(drop (memory.grow $m{n} (i32.const 250)))" for n in range(8))
    + "".join(
        f"(memory.fill $m{n} (i32.const 0) (i32.const 1) (i32.const 16000000))" for n in range(8)
    )
    + "(i32.const 0))",
    "locals": f"{RUN} {'(local i64 i64 i64 i64 i64 i64 i64 i64)' * 6000})",
}


@pytest.mark.parametrize("kind", HUNGRY)
def test_module_that_needs_too_much_memory_is_limited(daemon: Daemon, kind: str) -> None:
    """Tables and further memories count too. The guest sees the refusal."""
    drop(daemon.wasm / f"hungry-{kind}.wasm", bytes(wat2wasm(f"(module {HUNGRY[kind]})")))
    name = f"input-hungry-{kind}.json"
    marker = daemon.submit(name, {"module": f"hungry-{kind}"})
    assert marker["code"] in {"ok", "trap", "memory-limit"}, marker["message"]
    assert marker["attempt"] == 1
    good_drop_runs(daemon)


def test_memory_growth_past_the_limit_fails_in_the_guest(daemon: Daemon) -> None:
    """memory.grow returns -1; up to the limit it succeeds."""
    body = f"(memory 1) {RUN} (param i32) (result i32) (memory.grow (local.get 0)))"
    drop(daemon.wasm / "grow.wasm", bytes(wat2wasm(f"(module {body})")))
    for pages, result in ((256, 2**32 - 1), (255, 1)):
        daemon.submit("input-grow.json", {"module": "grow", "args": [pages]})
        assert daemon.result("input-grow.json")["results"] == [result]
    daemon.submit("input-grow.json", {"module": "grow", "args": [16], "memory_mb": 1})
    assert daemon.result("input-grow.json")["results"] == [2**32 - 1]


def test_memory_limit_applies_to_all_memories_together(daemon: Daemon) -> None:
    """Two memories share 16 MiB in equal parts: 7.5 MiB fit in each half, 10 MiB do not."""
    body = (
        "(memory $a 1) (memory $b 1)"
        f"{RUN} (result i32 i32) (memory.grow $a (i32.const 120)) (memory.grow $b (i32.const 160)))"
    )
    drop(daemon.wasm / "two-memories.wasm", bytes(wat2wasm(f"(module {body})")))
    daemon.submit("input-two-memories.json", {"module": "two-memories"})
    assert daemon.result("input-two-memories.json").get("results") == [1, 2**32 - 1]


def test_export_name_in_a_message_is_bounded_and_escaped(daemon: Daemon) -> None:
    """An export may have any name."""
    long = "l" * 60_000
    exports = "".join(f'(func (export "\\1b[2J\\0d\\0aerror: {n} {long}"))' for n in range(3))
    imports = f'(import "\\1b[2J" "{long}" (func))'
    traps = '(func (@name "\\1b[2J") (export "run") (unreachable))'
    for kind, code, body in (
        ("exports", "entry-not-found", exports),
        ("imports", "link-error", f"{imports} {RUN})"),
        ("traps", "trap", traps),
    ):
        drop(daemon.wasm / f"wild-{kind}.wasm", bytes(wat2wasm(f"(module {body})")))
        name = f"input-wild-{kind}.json"
        marker = daemon.submit(name, {"module": f"wild-{kind}"})
        assert marker["code"] == code, marker["message"]
        assert len(marker["message"]) <= 4000
        assert all(char.isprintable() or char == "\n" for char in marker["message"])
        assert len(daemon.result_path(name, ".txt").read_text().splitlines()) == 3


def test_trap_message_names_the_functions_of_the_backtrace(daemon: Daemon) -> None:
    """A developer needs the backtrace first."""
    body = '(func $inner (unreachable)) (func $outer (export "run") (call $inner))'
    drop(daemon.wasm / "deep.wasm", bytes(wat2wasm(f"(module {body})")))
    daemon.submit("input-deep.json", {"module": "deep"})
    message = failure(daemon, "input-deep.json", "trap", "unreachable", "inner", "outer")
    assert message.index("inner") < message.index("outer")


def test_start_function_that_returns_a_value_is_a_plain_function(daemon: Daemon) -> None:
    """The module is no command, so the function's value is the raw value."""
    body = '(func (export "_start") (result i32) (i32.const 7))'
    drop(daemon.wasm / "start.wasm", bytes(wat2wasm(f"(module {body})")))
    daemon.submit("input-start.json", {"module": "start", "entry": "_start"})
    assert daemon.result("input-start.json")["results"] == [7]
    text = daemon.result_path("input-start.json", ".txt").read_text()
    assert text.splitlines()[-1] == "7"


# Choice of the module


@pytest.mark.parametrize(
    ("reference", "value"), [("one", 1), ("one.wasm", 1), ("group/two.wasm", 2), ("group/two", 2)]
)
def test_module_name_without_its_suffix_is_found(
    daemon: Daemon, reference: str, value: int
) -> None:
    """Below the wasm directory, at any depth."""
    drop(daemon.wasm / "one.wasm", answer(1))
    drop(daemon.wasm / "group" / "two.wasm", answer(2))
    name = f"input-named-{reference.replace('/', '.')}.json"
    marker = daemon.submit(name, {"module": reference})
    assert daemon.result(name)["results"] == [value]
    ending = "" if reference.endswith(".wasm") else ".wasm"
    assert marker["module"]["path"] == str(daemon.wasm / f"{reference}{ending}")


def test_module_name_shared_with_a_directory_is_found(daemon: Daemon) -> None:
    """``both`` is the module ``both.wasm`` even if ``both/`` is a directory of modules."""
    drop(daemon.wasm / "both" / "inner.wasm", answer(4))
    drop(daemon.wasm / "both.wasm", answer(3))
    daemon.submit("input-both.json", {"module": "both"})
    assert daemon.result("input-both.json").get("results") == [3]


@pytest.mark.parametrize("link", ["link-out", "link-dir/hostname", "fifo", "link-fifo"])
def test_module_name_that_leads_elsewhere_is_refused(daemon: Daemon, link: str) -> None:
    """Through a link out of the wasm directory, or to something that is no file."""
    target = daemon.wasm / link
    if link == "fifo":
        os.mkfifo(target)
    elif link == "link-fifo":
        os.mkfifo(daemon.wasm / "pipe")
        target.symlink_to("pipe")
    elif link == "link-out":
        target.symlink_to("/proc/self/exe")
    else:
        target.parent.symlink_to("/etc")
    name = f"input-{link.replace('/', '.')}.json"
    daemon.submit(name, {"module": link})
    failure(daemon, name, "invalid-module", link)


def test_module_digest_that_has_run_is_found(daemon: Daemon) -> None:
    """Even after its file is gone, in upper or lower case."""
    drop(daemon.wasm / "brief.wasm", answer(5))
    marker = daemon.submit("input-brief.json", {"module": "brief"})
    digest = marker["module"]["sha256"]
    (daemon.wasm / "brief.wasm").unlink()
    for form in (digest, digest.upper()):
        daemon.submit("input-brief.json", {"module": f"sha256:{form}"})
        assert daemon.result("input-brief.json")["results"] == [5]
    marker = daemon.marker("input-brief.json") or {}
    assert marker["module"]["sha256"] == digest
    assert marker["module"]["bytes"] == len(answer(5))


def test_module_digest_that_is_unknown_is_missing(daemon: Daemon) -> None:
    """And the message says so."""
    digest = f"sha256:{'0' * 64}"
    daemon.submit("input-unseen.json", {"module": digest})
    failure(daemon, "input-unseen.json", "module-missing", digest)
    good_drop_runs(daemon)


def test_job_whose_module_was_missing_is_rerun_when_it_is_dropped(daemon: Daemon) -> None:
    """It first ends as missing after the configured wait."""
    daemon.submit("input-early.json", {"module": "group/late", "id": "mine"})
    failure(
        daemon,
        "input-early.json",
        "module-missing",
        "no module appeared within 0.5 s",
        str(daemon.wasm / "group" / "late.wasm"),
    )
    drop(daemon.wasm / "group" / "late.wasm", answer(6))
    wait_until(
        lambda: (daemon.marker("input-early.json") or {"code": ""})["code"] == "ok", "the result"
    )
    assert daemon.result("input-early.json")["results"] == [6]
    assert (daemon.marker("input-early.json") or {})["id"] == "mine"


def test_job_that_did_not_link_is_rerun_when_its_module_changes(daemon: Daemon) -> None:
    """The failure belongs to the module, so a new module is a new chance."""
    drop(daemon.wasm / "unlinked.wasm", bytes(wat2wasm('(module (import "a" "b" (func)))')))
    daemon.submit("input-unlinked.json", {"module": "unlinked", "entry": "run"})
    first = (daemon.marker("input-unlinked.json") or {})["code"]
    assert first in {"link-error", "entry-not-found"}
    drop(daemon.wasm / "unlinked.wasm", bytes(wat2wasm(f'(module (import "a" "b" (func)) {RUN}))')))
    daemon.submit("input-unlinked.json", {"module": "unlinked"})
    failure(daemon, "input-unlinked.json", "link-error", "\n  a: b")
    drop(daemon.wasm / "unlinked.wasm", answer(8))
    wait_until(
        lambda: (daemon.marker("input-unlinked.json") or {"code": ""})["code"] == "ok", "the result"
    )
    assert daemon.result("input-unlinked.json")["results"] == [8]


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("entry-not-found", f"{RUN.replace('run', 'walk')})"),
        ("entry-not-found", '(memory (export "run") 1)'),
        ("invalid-args", f"{RUN} (param i32))"),
        ("invalid-args", f"{RUN} (param i64 f64))"),
        ("unsupported-signature", f"{RUN} (param v128))"),
        ("unsupported-signature", f"{RUN} (result externref) (ref.null extern))"),
    ],
)
@pytest.mark.parametrize("place", ["named", "beside", "default"])
def test_job_that_did_not_fit_its_module_is_rerun_when_the_module_changes(
    daemon: Daemon, code: str, body: str, place: str
) -> None:
    """Wherever the module lies: the next version may have the entry and the signature."""
    name = f"unfit-{place}-{code}-{len(body)}"
    slot = f"input-{name}.json" if place == "named" else f"{name}/input.json"
    given = {"entry": "run", "args": [], **({"module": name} if place == "named" else {})}
    path = {
        "named": daemon.wasm / f"{name}.wasm",
        "beside": daemon.shared / name / "module.wasm",
        "default": daemon.wasm / "module.wasm",
    }[place]
    drop(path, bytes(wat2wasm(f"(module {body})")))
    daemon.submit(slot, given)
    failure(daemon, slot, code)
    drop(path, answer(9))
    wait_until(lambda: (daemon.marker(slot) or {"code": ""})["code"] == "ok", "one more job")
    assert daemon.result(slot)["results"] == [9]
    drop(daemon.wasm / "module.wasm", FIB_WASM)


def test_module_replaced_between_two_drops_is_used_by_the_second(daemon: Daemon) -> None:
    """Each job runs the module that existed when its input was dropped."""
    for value in range(5):
        drop(daemon.wasm / "changing.wasm", answer(value))
        daemon.submit("input-changing.json", {"module": "changing", "id": str(value)})
        assert daemon.result("input-changing.json")["results"] == [value]


def test_slot_with_its_own_module_does_not_use_the_default(daemon: Daemon) -> None:
    """A new version of its own module reruns the slot."""
    drop(daemon.shared / "own" / "module.wasm", answer(10))
    daemon.submit("own/input.json", {})
    assert daemon.result("own/input.json")["results"] == [10]
    drop(daemon.shared / "own" / "module.wasm", answer(11))
    # The job's log event comes after all of its files.
    wait_until(lambda: len(finished(daemon, "own/input.json")) == 2, "the second job")
    assert daemon.result("own/input.json")["results"] == [11]


def test_slot_module_behind_a_link_inside_is_allowed(daemon: Daemon) -> None:
    """Volumes use such links. A link that leads out is refused, see above."""
    drop(daemon.shared / "volume" / "..data" / "module.wasm", answer(12))
    (daemon.shared / "volume" / "module.wasm").symlink_to("..data/module.wasm")
    daemon.submit("volume/input.json", {})
    assert daemon.result("volume/input.json")["results"] == [12]


def test_marker_of_a_refused_module_tells_the_time_to_compile_it(daemon: Daemon) -> None:
    """It does not count as time in the queue, so that a producer knows what took long."""
    drop(daemon.wasm / "refused.wasm", FIB_WASM[:-3])
    marker = daemon.submit("input-refused.json", {"module": "refused"})
    assert marker["code"] == "invalid-module"
    assert marker["seconds"]["compile"] > 0
