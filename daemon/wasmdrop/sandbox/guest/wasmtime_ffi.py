"""Use wasmtime's C API where its Python API loses something.

The Python API changes the bits of signalling NaNs, wraps integers silently, aborts the process on
signatures with vectors or references, and lists all exports, in quadratic time, to find one.

This is the only module that touches private parts of the wasmtime package. ``test_wasmtime_ffi.py``
fails if one of them changes.
"""

import ctypes
from typing import Any, Final, Literal

from wasmtime import Func, FuncType, Instance, Store, Trap, WasiConfig, WasmtimeError, component
from wasmtime import _ffi as ffi
from wasmtime._func import enter_wasm, maybe_raise_last_exn

__all__ = [
    "call_component_function",
    "call_function",
    "context_of",
    "error_of",
    "ffi",
    "find_export",
    "global_value",
    "library_path",
    "memory_bytes",
    "set_stdin",
    "type_of_function",
]

_KINDS: Final = {
    "i32": ffi.WASMTIME_I32.value,
    "i64": ffi.WASMTIME_I64.value,
    "f32": ffi.WASMTIME_F32.value,
    "f64": ffi.WASMTIME_F64.value,
}
_WIDE: Final = frozenset({"i64", "f64"})

_EXTERNS: Final = {
    "func": (ffi.WASMTIME_EXTERN_FUNC.value, "func"),
    "global": (ffi.WASMTIME_EXTERN_GLOBAL.value, "global_"),
    "memory": (ffi.WASMTIME_EXTERN_MEMORY.value, "memory"),
}


def library_path() -> str:
    """Return the path of wasmtime's shared library."""
    return str(ffi.filename)


def context_of(store: Store) -> Any:
    """Return the pointer that stands for a store in the C API."""
    return store._context()  # noqa: SLF001


def error_of(error: Any, trap: Any = None) -> WasmtimeError | Trap:
    """Return the exception for a call of the C API that failed with an error or a trap."""
    maybe_raise_last_exn()
    return WasmtimeError._from_ptr(error) if bool(error) else Trap._from_ptr(trap)  # noqa: SLF001


def find_export(
    store: Store, instance: Instance, name: str, kind: Literal["func", "global", "memory"]
) -> Any | None:
    """Return an export; None if there is none of this name and kind."""
    extern = ffi.wasmtime_extern_t()
    encoded = name.encode()
    found = ffi.wasmtime_instance_export_get(
        context_of(store),
        ctypes.byref(instance._instance),  # noqa: SLF001
        ctypes.create_string_buffer(encoded, len(encoded)),
        len(encoded),
        ctypes.byref(extern),
    )
    number, member = _EXTERNS[kind]
    found_kind: Any = extern.kind  # an int, although it is declared as c_uint8
    return getattr(extern.of, member) if found and found_kind == number else None


def call_function(
    store: Store,
    function: Any,
    params: tuple[str, ...],
    args: tuple[int, ...],
    results: tuple[str, ...],
) -> tuple[int, ...]:
    """Call a function with the bits of its arguments; return the bits of its results.

    Raises ``Trap`` and ``WasmtimeError``.
    """
    values = (ffi.wasmtime_val_t * len(params))()
    for value, kind, bits in zip(values, params, args, strict=True):
        value.kind = _KINDS[kind]
        # The union's integer members carry the bits of floats unchanged.
        if kind in _WIDE:
            value.of.i64 = bits
        else:
            value.of.i32 = bits
    returned = (ffi.wasmtime_val_t * len(results))()
    with enter_wasm(store) as trap:
        error = ffi.wasmtime_func_call(
            context_of(store),
            ctypes.byref(function),
            values,
            len(params),
            returned,
            len(results),
            trap,
        )
        if bool(error):
            raise WasmtimeError._from_ptr(error)  # noqa: SLF001
    return tuple(
        value.of.i64 & 0xFFFFFFFFFFFFFFFF if kind in _WIDE else value.of.i32 & 0xFFFFFFFF
        for value, kind in zip(returned, results, strict=True)
    )


def call_component_function(
    store: Store, function: component.Func, args: Any, results: Any
) -> None:
    """Call a component's function with arrays of values; raise ``WasmtimeError`` if that fails."""
    error = ffi.wasmtime_component_func_call(
        ctypes.byref(function._func),  # noqa: SLF001
        context_of(store),
        args,
        len(args),
        results,
        len(results),
    )
    if bool(error):
        raise WasmtimeError._from_ptr(error)  # noqa: SLF001


def type_of_function(store: Store, function: Any) -> FuncType:
    """Return a function's type, which must have no vectors or references."""
    return Func._from_raw(function).type(store)  # noqa: SLF001


def global_value(store: Store, exported: Any) -> int:
    """Return the value of a 64-bit integer global."""
    value = ffi.wasmtime_val_t()
    ffi.wasmtime_global_get(context_of(store), ctypes.byref(exported), ctypes.byref(value))
    return int(value.of.i64)


def memory_bytes(store: Store, memory: Any) -> int:
    """Return the size of a memory in bytes."""
    return int(ffi.wasmtime_memory_data_size(context_of(store), ctypes.byref(memory)))


def set_stdin(config: WasiConfig, data: bytes) -> None:
    """Set the bytes of standard input, which the Python API can only read from a file."""
    # The library takes ownership of the copy.
    ffi.wasi_config_set_stdin_bytes(config.ptr(), ctypes.byref(ffi.bytes_to_capi(data)))
