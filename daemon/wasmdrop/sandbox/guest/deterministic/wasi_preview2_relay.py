"""The component that calls wasmtime's own file functions for :mod:`.wasi_preview2`.

It imports the methods of WASI 0.2's ``descriptor`` and exports each under the method's name, with
the same parameters and results.
"""

from typing import Final, NamedTuple

import wasmtime
from wasmtime import component, wat2wasm

#: wasmtime's linker provides WASI 0.2 under this version, whatever version a component imports.
INTERFACE: Final = "wasi:filesystem/types@0.2.12"

_ERRORS: Final = """access would-block already bad-descriptor busy deadlock quota exist
file-too-large illegal-byte-sequence in-progress interrupted invalid io is-directory loop
too-many-links message-size name-too-long no-device no-entry no-lock insufficient-memory
insufficient-space not-directory not-empty not-recoverable unsupported no-tty no-such-device
overflow not-permitted pipe read-only invalid-seek text-file-busy cross-device"""
_KINDS: Final = """unknown block-device character-device directory fifo symbolic-link regular-file
socket"""


def _quoted(names: str) -> str:
    return " ".join(f'"{name}"' for name in names.split())


#: The types of the interface (wasi-filesystem, types.wit) that the methods use.
_TYPES: Final = {
    "error-code": f"(enum {_quoted(_ERRORS)})",
    "descriptor-type": f"(enum {_quoted(_KINDS)})",
    "path-flags": '(flags "symlink-follow")',
    "datetime": '(record (field "seconds" u64) (field "nanoseconds" u32))',
    "new-timestamp": '(variant (case "no-change") (case "now") (case "timestamp" $datetime))',
    "descriptor-stat": """(record (field "type" $descriptor-type) (field "link-count" u64)
        (field "size" u64) (field "data-access-timestamp" (option $datetime))
        (field "data-modification-timestamp" (option $datetime))
        (field "status-change-timestamp" (option $datetime)))""",
    "directory-entry": '(record (field "type" $descriptor-type) (field "name" string))',
    "metadata-hash-value": '(record (field "lower" u64) (field "upper" u64))',
}
_RESOURCES: Final = ("descriptor", "directory-entry-stream")


class Method(NamedTuple):
    """A method of one of the two resources."""

    params: dict[str, str]
    """Types by name, without ``self``."""
    core: str
    """All parameters in core wasm: i for i32, I for i64, d and s for handles of the resources."""
    ok: str = ""
    """The type of the result if there is no error."""
    resource: str = "descriptor"


_PATH: Final = {"path": "string"}
_AT: Final = {"path-flags": "$path-flags", **_PATH}
_TIMES: Final = dict.fromkeys(
    ("data-access-timestamp", "data-modification-timestamp"), "$new-timestamp"
)
METHODS: Final = {
    "stat": Method({}, "d", "$descriptor-stat"),
    "stat-at": Method(_AT, "diii", "$descriptor-stat"),
    "metadata-hash": Method({}, "d", "$metadata-hash-value"),
    "metadata-hash-at": Method(_AT, "diii", "$metadata-hash-value"),
    "set-times": Method(_TIMES, "diIiiIi"),
    "set-times-at": Method(_AT | _TIMES, "diiiiIiiIi"),
    "unlink-file-at": Method(_PATH, "dii"),
    "remove-directory-at": Method(_PATH, "dii"),
    "read-directory": Method({}, "d", "(own $directory-entry-stream)"),
    "read-directory-entry": Method({}, "s", "(option $directory-entry)", "directory-entry-stream"),
}
_DROPS: Final = {"d": "descriptor", "s": "directory-entry-stream"}

#: Allocates memory for the strings of one call, above the address of results.
_ROOM: Final = """
(core module $room
  (memory (export "memory") 4)
  (global $next (mut i32) (i32.const 1024))
  (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
    (local.set $at (global.get $next))
    (global.set $next (i32.add (global.get $next) (local.get 3)))
    (local.get $at))
  (func (export "clear") (param i32) (global.set $next (i32.const 1024))))
(core instance $room (instantiate $room))
(alias core export $room "memory" (core memory $memory))
(alias core export $room "realloc" (core func $realloc))
(alias core export $room "clear" (core func $clear))
"""


def compile_relay(engine: wasmtime.Engine) -> component.Component:
    """Return the component that calls wasmtime's own functions."""
    return component.Component(engine, bytes(wat2wasm(_text())))


def _text() -> str:
    interface, lowered, inner, lifted = [], [], [], []
    for name in _RESOURCES:
        interface.append(f'(export "{name}" (type ${name} (sub resource)))')
        lowered.append(f"(core func $drop-{name} (canon resource.drop ${name}))")
        inner.append(f'(import "" "drop-{name}" (func $drop-{name} (param i32)))')
    for name, form in _TYPES.items():
        interface.append(f"(type $'{name} {form}) (export \"{name}\" (type ${name} (eq $'{name})))")
    aliases = [f'(alias export $files "{name}" (type ${name}))' for name in (*_RESOURCES, *_TYPES)]
    for name, method in METHODS.items():
        params = f'(param "self" (borrow ${method.resource}))' + "".join(
            f' (param "{param}" {form})' for param, form in method.params.items()
        )
        form = f"{params} (result (result {method.ok} (error $error-code)))"
        imported = f"[method]{method.resource}.{name}"
        interface.append(f'(export "{imported}" (func {form}))')
        options = "(memory $memory) (realloc $realloc)"
        lowered.append(f'(core func ${name} (canon lower (func $files "{imported}") {options}))')
        core = " ".join("i64" if letter == "I" else "i32" for letter in method.core)
        inner.append(f'(import "" "{name}" (func ${name} (param {core} i32)))')
        given = " ".join(f"(local.get {index})" for index in range(len(method.core)))
        drops = " ".join(
            f"(call $drop-{_DROPS[letter]} (local.get {index}))"
            for index, letter in enumerate(method.core)
            if letter in _DROPS
        )
        lifted.append(
            f'(func (export "{name}") {form} (canon lift (core func $inner "{name}") {options}'
            " (post-return $clear)))"
        )
        # The result does not fit into a core result, so the function writes it to this address.
        inner.append(
            f'(func (export "{name}") (param {core}) (result i32)'
            f" (call ${name} {given} (i32.const 64)) {drops} (i32.const 64))"
        )
    imports = [line for line in inner if line.startswith("(import")]
    functions = [line for line in inner if line.startswith("(func")]
    exports = " ".join(
        f'(export "{name}" (func ${name}))'
        for name in (*METHODS, *(f"drop-{name}" for name in _RESOURCES))
    )
    return "\n".join(
        [
            f'(component (import "{INTERFACE}" (instance $files {" ".join(interface)}))',
            *aliases,
            _ROOM,
            *lowered,
            f"(core module $inner {' '.join(imports + functions)})",
            f'(core instance $inner (instantiate $inner (with "" (instance {exports}))))',
            *lifted,
            ")",
        ]
    )
