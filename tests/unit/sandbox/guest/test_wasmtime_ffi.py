"""The private parts of the wasmtime package that the guest's side uses.

If this test fails after an update of wasmtime, check every use of the changed part, then enter its
new form here.
"""

import ast
import inspect
from pathlib import Path
from typing import Any, Final

from wasmtime import (
    Func,
    Instance,
    Module,
    Store,
    Trap,
    WasmtimeError,
    _bindings,
    component,
    wat2wasm,
)
from wasmtime import _func as func

from wasmdrop.sandbox.guest import wasmtime_ffi
from wasmdrop.sandbox.guest.wasmtime_ffi import ffi

GUEST: Final = Path(wasmtime_ffi.__file__).parent

#: Functions with their C parameters and result, structures with their fields, constants.
FORMS: Final = {
    "WASMTIME_COMPONENT_BOOL": "c_ubyte(0)",
    "WASMTIME_COMPONENT_CHAR": "c_ubyte(11)",
    "WASMTIME_COMPONENT_ENUM": "c_ubyte(17)",
    "WASMTIME_COMPONENT_F32": "c_ubyte(9)",
    "WASMTIME_COMPONENT_F64": "c_ubyte(10)",
    "WASMTIME_COMPONENT_FLAGS": "c_ubyte(20)",
    "WASMTIME_COMPONENT_LIST": "c_ubyte(13)",
    "WASMTIME_COMPONENT_OPTION": "c_ubyte(18)",
    "WASMTIME_COMPONENT_RECORD": "c_ubyte(14)",
    "WASMTIME_COMPONENT_RESULT": "c_ubyte(19)",
    "WASMTIME_COMPONENT_S16": "c_ubyte(3)",
    "WASMTIME_COMPONENT_S32": "c_ubyte(5)",
    "WASMTIME_COMPONENT_S64": "c_ubyte(7)",
    "WASMTIME_COMPONENT_S8": "c_ubyte(1)",
    "WASMTIME_COMPONENT_STRING": "c_ubyte(12)",
    "WASMTIME_COMPONENT_TUPLE": "c_ubyte(15)",
    "WASMTIME_COMPONENT_U16": "c_ubyte(4)",
    "WASMTIME_COMPONENT_U32": "c_ubyte(6)",
    "WASMTIME_COMPONENT_U64": "c_ubyte(8)",
    "WASMTIME_COMPONENT_U8": "c_ubyte(2)",
    "WASMTIME_COMPONENT_VARIANT": "c_ubyte(16)",
    "WASMTIME_EXTERN_FUNC": "c_ubyte(0)",
    "WASMTIME_EXTERN_GLOBAL": "c_ubyte(1)",
    "WASMTIME_EXTERN_MEMORY": "c_ubyte(3)",
    "WASMTIME_F32": "c_ubyte(2)",
    "WASMTIME_F64": "c_ubyte(3)",
    "WASMTIME_I32": "c_ubyte(0)",
    "WASMTIME_I64": "c_ubyte(1)",
    "bytes_to_capi": "(s)",
    "filename": "PosixPath",
    "str_to_capi": "(s)",
    "to_str": "(vec)",
    "wasi_config_set_stdin_bytes": "(LP_wasi_config_t, LP_wasm_byte_vec_t) -> None",
    "wasmtime_component_func_call": (
        "(LP_wasmtime_component_func, LP_wasmtime_context, LP_wasmtime_component_val, "
        "c_ulong, LP_wasmtime_component_val, c_ulong) -> LP_wasmtime_error"
    ),
    "wasmtime_component_func_type_async": "(LP_wasmtime_component_func_type_t) -> c_bool",
    "wasmtime_component_val_new": "(LP_wasmtime_component_val) -> LP_wasmtime_component_val",
    "wasmtime_component_val_t": (
        "{kind c_ubyte, of {boolean c_bool, s8 c_byte, u8 c_ubyte, s16 c_short, "
        "u16 c_ushort, s32 c_int, u32 c_uint, s64 c_long, u64 c_ulong, f32 c_float, "
        "f64 c_double, character c_uint, string wasm_byte_vec_t, "
        "list wasmtime_component_vallist, record wasmtime_component_valrecord, "
        "tuple wasmtime_component_valtuple, variant wasmtime_component_valvariant, "
        "enumeration wasm_byte_vec_t, option LP_wasmtime_component_val, "
        "result wasmtime_component_valresult, flags wasmtime_component_valflags, "
        "map wasmtime_component_valmap, resource LP_wasmtime_component_resource_any}}"
    ),
    "wasmtime_component_valflags_new_uninit": ("(LP_wasmtime_component_valflags, c_ulong) -> None"),
    "wasmtime_component_valflags_t": "{size c_ulong, data LP_wasm_byte_vec_t}",
    "wasmtime_component_vallist_new_uninit": "(LP_wasmtime_component_vallist, c_ulong) -> None",
    "wasmtime_component_vallist_t": "{size c_ulong, data LP_wasmtime_component_val}",
    "wasmtime_component_valrecord_new_uninit": (
        "(LP_wasmtime_component_valrecord, c_ulong) -> None"
    ),
    "wasmtime_component_valrecord_t": (
        "{size c_ulong, data LP_wasmtime_component_valrecord_entry}"
    ),
    "wasmtime_component_valtuple_new_uninit": ("(LP_wasmtime_component_valtuple, c_ulong) -> None"),
    "wasmtime_component_valtuple_t": "{size c_ulong, data LP_wasmtime_component_val}",
    "wasmtime_component_valresult_t": "{is_ok c_bool, val LP_wasmtime_component_val}",
    "wasmtime_component_valvariant_t": (
        "{discriminant wasm_byte_vec_t, val LP_wasmtime_component_val}"
    ),
    "wasmtime_config_wasm_compact_imports_set": "(LP_wasm_config_t, c_bool) -> None",
    "wasmtime_extern_t": (
        "{kind c_ubyte, of {func wasmtime_func, global_ wasmtime_global, "
        "table wasmtime_table, memory wasmtime_memory, "
        "sharedmemory LP_wasmtime_sharedmemory, tag wasmtime_tag}}"
    ),
    "wasmtime_func_call": (
        "(LP_wasmtime_context, LP_wasmtime_func, LP_wasmtime_val, c_ulong, LP_wasmtime_val, "
        "c_ulong, LP_LP_wasm_trap_t) -> LP_wasmtime_error"
    ),
    "wasmtime_global_get": "(LP_wasmtime_context, LP_wasmtime_global, LP_wasmtime_val) -> None",
    "wasmtime_instance_export_get": (
        "(LP_wasmtime_context, LP_wasmtime_instance, LP_c_char, c_ulong, "
        "LP_wasmtime_extern) -> c_bool"
    ),
    "wasmtime_memory_data_size": "(LP_wasmtime_context, LP_wasmtime_memory) -> c_ulong",
    "wasmtime_val_t": (
        "{kind c_ubyte, of {i32 c_int, i64 c_long, f32 c_float, f64 c_double, "
        "anyref wasmtime_anyref, externref wasmtime_externref, exnref wasmtime_exnref, "
        "funcref wasmtime_func, v128 c_ubyte_Array_16}}"
    ),
}


def used_names() -> set[str]:
    """Return the names of ``ffi`` that the guest's modules use."""
    return {
        node.attr
        for path in GUEST.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "ffi"
    }


def form_of(name: str) -> str:
    """Describe one name of ``ffi``."""
    found = getattr(ffi, name)
    if isinstance(found, Path):
        return type(found).__name__
    if isinstance(found, type):
        return _form_of_type(found)
    if not callable(found):
        return str(found)
    raw = getattr(_bindings, f"_{name}", None)
    if raw is None:
        return f"({', '.join(inspect.signature(found).parameters)})"
    return f"({', '.join(map(_name, raw.argtypes))}) -> {_name(raw.restype)}"


def _form_of_type(kind: Any) -> str:
    parts = []
    for name, inner, *_rest in getattr(kind, "_fields_", ()):
        parts.append(f"{name} {_form_of_type(inner) if name == 'of' else _name(inner)}")
    return f"{{{', '.join(parts)}}}"


def _name(kind: type | None) -> str:
    return "None" if kind is None else kind.__name__


def test_names_of_ffi_that_are_used_have_the_expected_form() -> None:
    """A changed structure or parameter would corrupt memory instead of raising."""
    assert {name: form_of(name) for name in used_names()} == FORMS


def test_wasmtime_has_the_private_methods_that_the_adapter_uses() -> None:
    """By the names of their parameters, and the attributes that hold C structures."""
    store = Store()
    module = Module(store.engine, bytes(wat2wasm('(module (func (export "f")))')))
    instance = Instance(store, module, [])
    assert isinstance(instance._instance, _bindings.wasmtime_instance_t)
    assert list(inspect.signature(Store._context).parameters) == ["self"]
    for kind in (Trap, WasmtimeError):
        assert list(inspect.signature(kind._from_ptr).parameters) == ["ptr"]
    assert list(inspect.signature(Func._from_raw).parameters) == ["func"]
    assert list(inspect.signature(func.enter_wasm).parameters) == ["store"]
    assert list(inspect.signature(func.maybe_raise_last_exn).parameters) == []
    linker = component.Linker(store.engine)
    text = """(component
      (core module $m (func (export "f")))
      (core instance $i (instantiate $m))
      (func (export "f") (canon lift (core func $i "f"))))"""
    compiled = component.Component(store.engine, bytes(wat2wasm(text)))
    function = linker.instantiate(store, compiled).get_func(store, "f")
    assert function is not None
    assert isinstance(function._func, _bindings.wasmtime_component_func_t)


def test_only_the_adapter_touches_private_parts_of_wasmtime() -> None:
    """Others import them from it."""
    found = {
        path.name
        for path in GUEST.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("wasmtime")
            and (
                "._" in (node.module or "") or any(name.name.startswith("_") for name in node.names)
            )
        )
        or (
            isinstance(node, ast.Attribute)
            and node.attr in {"_context", "_from_ptr", "_from_raw", "_instance", "_func"}
            and not (isinstance(node.value, ast.Name) and node.value.id == "self")
        )
    }
    assert found == {"wasmtime_ffi.py"}
