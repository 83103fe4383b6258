"""Tables of files that can't run: what they are, and how to build a module that runs.

``FILE_FORMATS`` describes files that are not WebAssembly, by their first bytes.
``FOREIGN_MODULES`` describes modules that are built for another host, by an import or by the
compiler's message; ``docs/toolchains.md`` lists them. The compile process reads both tables.
"""

import re
from typing import Final, NamedTuple


class FileFormat(NamedTuple):
    """A file format other than WebAssembly."""

    beginning: re.Pattern[bytes]
    """Matches the first 512 bytes of a file."""
    what: str
    """Completes the sentence "it is …"."""
    remedy: str
    """What to do, as an imperative."""


class ForeignModule(NamedTuple):
    """A kind of module that is built for another host."""

    what: str
    """Completes the sentence "it is …"."""
    remedy: str
    """How to build it so that it runs."""
    imports: re.Pattern[str] | None = None
    """Matches a missing import, written ``MODULE NAME TYPE``, or ``MODULE`` for a component."""
    refusal: re.Pattern[str] | None = None
    """Searched for in the compiler's message."""


def _file(beginning: bytes, what: str, remedy: str) -> FileFormat:
    return FileFormat(re.compile(beginning, re.DOTALL), what, remedy)


def _importing(imports: str, what: str, remedy: str) -> ForeignModule:
    return ForeignModule(what, remedy, imports=re.compile(imports))


def _refused(refusal: str, what: str, remedy: str) -> ForeignModule:
    return ForeignModule(what, remedy, refusal=re.compile(refusal))


_UNPACK: Final = "unpack it, and drop the .wasm file"
_DOWNLOAD: Final = "download the .wasm file itself"
_DROP: Final = "drop the .wasm file"

#: The first match applies.
FILE_FORMATS: Final = (
    _file(
        rb"\x7fELF",
        "an ELF file: a native program, a library, or a precompiled module (.cwasm)",
        "build for wasm32, or drop the .wasm file that the precompiled module was made from",
    ),
    _file(
        rb"\xfe\xed\xfa[\xce\xcf]|[\xce\xcf]\xfa\xed\xfe|\xca\xfe\xba\xbe",
        "a Mach-O file or a Java class",
        "build for wasm32",
    ),
    _file(rb"MZ", "a Windows program", "build for wasm32"),
    _file(rb"BC\xc0\xde", "LLVM bitcode", "link it with wasm-ld, or build without -flto"),
    _file(rb"!<(?:arch|thin)>\n", "a static library", "link it into a module with wasm-ld"),
    _file(rb"\x1f\x8b", "a gzip archive", _UNPACK),
    _file(rb"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    _file(rb"\xfd7zXZ\0", "an xz archive", _UNPACK),
    _file(rb"BZh[1-9]1AY&SY", "a bzip2 archive", _UNPACK),
    _file(rb"PK(?:\x03\x04|\x05\x06)", "a zip archive", _UNPACK),
    _file(rb"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    _file(rb".{257}ustar", "a tar archive", _UNPACK),
    _file(
        rb"version https://git-lfs\.github\.com/spec/",
        "a Git LFS pointer instead of the file itself",
        "run git lfs pull, and drop the file that it fetches",
    ),
    _file(
        rb"(?:\xef\xbb\xbf)?\s*<(?i:!doctype html|html|head|body)\b",
        "an HTML page, such as a server's error message",
        _DOWNLOAD,
    ),
    _file(
        rb"(?:\xef\xbb\xbf)?\s*<\?xml\b", "an XML file, such as a server's error message", _DOWNLOAD
    ),
    _file(
        rb"(?:\xef\xbb\xbf)?\s*\{\s*[\"}]",
        "a JSON file, such as a server's error message or an input",
        _DROP,
    ),
    _file(
        rb"(?:\xef\xbb\xbf)?(?:\s|;;[^\n]*\n)*"
        rb"(?:;;|\(;|\((?:module|component|func|memory|table|global|import|export|type|data)\b)",
        "WebAssembly text (WAT)",
        "compile it first, for instance with wat2wasm or wasm-tools parse",
    ),
    _file(
        rb"(?:data:application/wasm;base64,)?AGFzb[Q-T]", "base64 of a module", "decode it first"
    ),
    _file(
        rb"(?:\xef\xbb\xbf)?(?:\s|//[^\n]*\n|/\*(?:(?!\*/).)*\*/)*"
        rb"(?:[\"']use strict[\"']"
        rb"|(?:import|export|var|let|const|class|function|async|if|throw|return|globalThis|Module)\b"
        rb"|[!(;]*\s*(?:async\s*)?(?:function\b|\())",
        "JavaScript, such as the loader that a toolchain generates for a module",
        _DROP,
    ),
    _file(
        rb"(?:\xef\xbb\xbf)?[\t\n\r\x20-\x7e]+\Z",
        "a text file, such as source code or a toolchain's JavaScript loader",
        _DROP,
    ),
)

OBJECT_FILE: Final = ForeignModule(
    "an object file, which is not linked yet",
    "link it with wasm-ld, or compile without -c",
)
THREADS: Final = ForeignModule(
    "a multithreaded module; threads are not supported",
    "build for wasm32-wasip1, without -pthread and without shared memory",
    imports=re.compile(r"wasi thread-spawn |\S+ \S+ (?:\S+ )*shared\Z"),
)

#: The first match applies.
FOREIGN_MODULES: Final = (
    OBJECT_FILE,
    _refused(
        r"legacy.exceptions",
        "a module with legacy exceptions",
        "build with standard exceptions (clang -mllvm -wasm-use-legacy-eh=false, emcc "
        "-sWASM_LEGACY_EXCEPTIONS=0), or convert it: wasm-opt --all-features "
        "--translate-to-exnref OLD.wasm -o NEW.wasm",
    ),
    _refused(
        r"stack switching|shared-everything-threads",
        "a module that uses an unsupported proposal",
        "build without it; docs/toolchains.md lists the supported proposals",
    ),
    _importing(
        r"(?:gojs|go) ",
        "a Go program for JavaScript hosts (GOOS=js)",
        "build with GOOS=wasip1 GOARCH=wasm, and with -buildmode=c-shared for exported functions; "
        "with TinyGo, use -target=wasip1",
    ),
    _importing(
        r"(?:wbg|__wbindgen_\S*|\S+_bg\.js) |\S+ __wb(?:indgen|g)_",
        "a Rust module for JavaScript hosts (wasm-bindgen)",
        "build for wasm32-wasip1, or a component for wasm32-wasip2, without wasm-bindgen",
    ),
    _importing(
        r"(?:napi|emnapi) |env (?:napi_|_?emnapi_)",
        "a Node.js addon (Node-API)",
        "build its library for wasm32-wasip1, without Node-API",
    ),
    _importing(
        r"env (?:_?emscripten_|_embind_|_emval_|invoke_|__syscall_|__cxa_throw|_abort_js"
        r"|__handle_stack_overflow|_tzset_js|_mmap_js|_munmap_js)|asm2wasm |a [\w$]{1,2} ",
        "an Emscripten module that needs its JavaScript loader",
        "build with emcc -sSTANDALONE_WASM, and -sINITIAL_MEMORY instead of "
        "-sALLOW_MEMORY_GROWTH, or with wasi-sdk (clang and wasi-libc)",
    ),
    _importing(
        r"env __(?:memory|table)_base |GOT\.(?:mem|func) ",
        "a side module (shared library)",
        "link it statically, without -shared and without -sSIDE_MODULE",
    ),
    _importing(
        r"env (?:abort \(i32, i32, i32, i32\)|seed \(\)|trace \(i32, i32"
        r"|(?:console|Date|crypto|performance|process)\.)",
        "an AssemblyScript module that needs a JavaScript host",
        "build with asc --config node_modules/@assemblyscript/wasi-shim/asconfig.json; "
        "if only abort is missing, --use abort= is enough",
    ),
    _importing(
        r"extism(?::|_)|env extism_",
        "an Extism plug-in",
        "build it for wasm32-wasip1 without Extism's PDK",
    ),
    _importing(
        r"env proxy_",
        "a proxy-wasm filter",
        "run it in a proxy such as Envoy; its functions need one",
    ),
    _importing(
        r"wasix_",
        "a WASIX program",
        "build for wasm32-wasip1, without sockets, threads and processes",
    ),
    _importing(
        r"wasi_unstable ",
        "a program for WASI preview 0 (wasi_unstable)",
        "build it with a newer toolchain for wasm32-wasip1",
    ),
    _importing(
        r"wasi_ephemeral_|wasi_nn ",
        "a program that needs an experimental WASI interface (wasi_ephemeral_*, wasi_nn)",
        "build it without that interface",
    ),
    THREADS,
    _importing(
        r"javy_quickjs_provider",
        "a dynamically linked Javy module",
        "build it with javy build, without -C dynamic",
    ),
    _importing(
        r"\S+:\S+/\S+ \S|\[export\]|\$root ",
        "the core module of a component",
        "make the component from it: wasm-tools component new, or build for wasm32-wasip2",
    ),
    _importing(
        r"wasi:http/",
        "a component that needs HTTP (wasi:http)",
        "build it without HTTP; pass the data as input or files",
    ),
    _importing(
        r"wasi:\S+@0\.3",
        "a component for WASI 0.3",
        "build it for WASI 0.2 (wasm32-wasip2)",
    ),
    _importing(
        r"wasi:\S+@0\.2\.0-",
        "a component for a draft of WASI 0.2",
        "build it with a newer toolchain for WASI 0.2",
    ),
    _importing(
        r"js_code |intrinsics |wasm:js-string |dart2wasm |javascript_kit |teavm",
        "a module for JavaScript hosts (Kotlin, Dart, Swift, TeaVM)",
        "build for WASI: with Kotlin the target wasmWasi, with Swift wasm32-unknown-wasip1 without "
        "JavaScriptKit, with TeaVM its WASI target; Dart has none",
    ),
    _importing(
        r"rt (?:bignum_|string_|die |rand )|\S+ caml_",
        "a Guile Hoot or OCaml module that needs its JavaScript loader",
        "no WASI target is known: use another toolchain",
    ),
    _importing(
        r"spectest ",
        "a module that needs the functions of the WebAssembly tests (spectest)",
        "build it without them; MoonBit imports spectest for println",
    ),
    _importing(
        r"wasi_snapshot_preview1 ",
        "a program that needs functions that WASI preview 1 lacks or defines with other types",
        "build for wasm32-wasip1, without another runtime's extensions such as sockets",
    ),
    _importing(
        r"\S+ \S+ (?:i64 )?\d+(?: \d+)?(?: \(pagesize \d+\))?\Z",
        "a module that imports its memory",
        "link it without --import-memory",
    ),
    _importing(
        r"env ",
        "a program with undefined symbols",
        "link the library that defines them, and drop --allow-undefined to see them at build time",
    ),
    _importing(
        r".",
        "a module for another host",
        "build it without the imports below: a module may import WASI preview 1, a component "
        "WASI 0.2",
    ),
)
