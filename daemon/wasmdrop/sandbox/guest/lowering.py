"""Convert plain values to wasmtime's component values and back, by a type given as data.

Fills wasmtime's C structures directly: its Python API truncates integers, changes the bits of
signalling NaNs, and returns a ``result`` without its case. Plain values are described in
:mod:`wasmdrop.protocol.component_values`; the daemon has checked them. Nothing is freed,
because the process ends with its one call.
"""

import base64
import ctypes
from collections.abc import Callable
from typing import Any, Final

from wasmdrop.protocol.module_types import WitType
from wasmdrop.sandbox.guest.wasmtime_ffi import ffi

__all__ = ["lift", "lower"]

_Val = ffi.wasmtime_component_val_t
_Pointer = Any  # to a _Val; the ctypes type can't be subscripted at run time

#: Kind and union member by type. Floats are passed as their bits.
_SCALARS: Final = {
    "bool": (ffi.WASMTIME_COMPONENT_BOOL.value, "boolean"),
    "s8": (ffi.WASMTIME_COMPONENT_S8.value, "s8"),
    "u8": (ffi.WASMTIME_COMPONENT_U8.value, "u8"),
    "s16": (ffi.WASMTIME_COMPONENT_S16.value, "s16"),
    "u16": (ffi.WASMTIME_COMPONENT_U16.value, "u16"),
    "s32": (ffi.WASMTIME_COMPONENT_S32.value, "s32"),
    "u32": (ffi.WASMTIME_COMPONENT_U32.value, "u32"),
    "s64": (ffi.WASMTIME_COMPONENT_S64.value, "s64"),
    "u64": (ffi.WASMTIME_COMPONENT_U64.value, "u64"),
    "f32": (ffi.WASMTIME_COMPONENT_F32.value, "u32"),
    "f64": (ffi.WASMTIME_COMPONENT_F64.value, "u64"),
}


def lower(plain: Any, form: WitType, target: _Pointer) -> None:
    """Store a plain value of type ``form`` in ``target``."""
    scalar = _SCALARS.get(form.kind)
    if scalar is not None:
        target.contents.kind = scalar[0]
        setattr(target.contents.of, scalar[1], plain)
    else:
        _LOWER[form.kind](plain, form, target)


def lift(value: Any, form: WitType) -> Any:
    """Return the plain form of wasmtime's ``value`` of type ``form``."""
    scalar = _SCALARS.get(form.kind)
    if scalar is not None:
        return getattr(value.of, scalar[1])
    return _LIFT[form.kind](value.of, form)


def _lower_char(plain: str, _form: WitType, target: _Pointer) -> None:
    target.contents.kind = ffi.WASMTIME_COMPONENT_CHAR.value
    target.contents.of.character = ord(plain)


def _lower_string(plain: str, _form: WitType, target: _Pointer) -> None:
    target.contents.kind = ffi.WASMTIME_COMPONENT_STRING.value
    target.contents.of.string = ffi.str_to_capi(plain)


def _lower_list(plain: Any, form: WitType, target: _Pointer) -> None:
    element = form.types[0]
    assert element is not None  # noqa: S101 - a list has elements
    items = base64.b64decode(plain) if element.kind == "u8" else plain
    values = ffi.wasmtime_component_vallist_t()
    ffi.wasmtime_component_vallist_new_uninit(values, len(items))
    for index, item in enumerate(items):
        lower(item, element, ctypes.pointer(values.data[index]))
    target.contents.kind = ffi.WASMTIME_COMPONENT_LIST.value
    target.contents.of.list = values


def _lower_tuple(plain: list[Any], form: WitType, target: _Pointer) -> None:
    values = ffi.wasmtime_component_valtuple_t()
    ffi.wasmtime_component_valtuple_new_uninit(values, len(plain))
    for index, (item, inner) in enumerate(zip(plain, form.types, strict=True)):
        assert inner is not None  # noqa: S101 - only cases may carry nothing
        lower(item, inner, ctypes.pointer(values.data[index]))
    target.contents.kind = ffi.WASMTIME_COMPONENT_TUPLE.value
    target.contents.of.tuple = values


def _lower_record(plain: list[Any], form: WitType, target: _Pointer) -> None:
    fields = ffi.wasmtime_component_valrecord_t()
    ffi.wasmtime_component_valrecord_new_uninit(fields, len(plain))
    for index, (name, item, inner) in enumerate(zip(form.names, plain, form.types, strict=True)):
        assert inner is not None  # noqa: S101 - only cases may carry nothing
        fields.data[index].name = ffi.str_to_capi(name)
        lower(item, inner, ctypes.pointer(fields.data[index].val))
    target.contents.kind = ffi.WASMTIME_COMPONENT_RECORD.value
    target.contents.of.record = fields


def _lower_variant(plain: list[Any], form: WitType, target: _Pointer) -> None:
    number, payload = plain
    target.contents.kind = ffi.WASMTIME_COMPONENT_VARIANT.value
    target.contents.of.variant.discriminant = ffi.str_to_capi(form.names[number])
    target.contents.of.variant.val = _boxed(payload, form.types[number])


def _lower_result(plain: list[Any], form: WitType, target: _Pointer) -> None:
    number, payload = plain
    target.contents.kind = ffi.WASMTIME_COMPONENT_RESULT.value
    target.contents.of.result.is_ok = number == 0
    target.contents.of.result.val = _boxed(payload, form.types[number])


def _lower_option(plain: list[Any], form: WitType, target: _Pointer) -> None:
    target.contents.kind = ffi.WASMTIME_COMPONENT_OPTION.value
    target.contents.of.option = _boxed(plain[0], form.types[0]) if plain else None


def _lower_enum(plain: int, form: WitType, target: _Pointer) -> None:
    target.contents.kind = ffi.WASMTIME_COMPONENT_ENUM.value
    target.contents.of.enumeration = ffi.str_to_capi(form.names[plain])


def _lower_flags(plain: list[int], form: WitType, target: _Pointer) -> None:
    names = ffi.wasmtime_component_valflags_t()
    ffi.wasmtime_component_valflags_new_uninit(names, len(plain))
    for index, number in enumerate(plain):
        names.data[index] = ffi.str_to_capi(form.names[number])
    target.contents.kind = ffi.WASMTIME_COMPONENT_FLAGS.value
    target.contents.of.flags = names


def _boxed(plain: Any, form: WitType | None) -> Any:
    """Return a pointer to a payload on wasmtime's heap; None for no payload."""
    if form is None:
        return None
    value = _Val()
    lower(plain, form, ctypes.pointer(value))
    return ffi.wasmtime_component_val_new(ctypes.byref(value))


def _lift_list(of: Any, form: WitType) -> Any:
    element = form.types[0]
    assert element is not None  # noqa: S101 - a list has elements
    values = of.list
    if element.kind == "u8":
        octets = bytes(values.data[index].of.u8 for index in range(values.size))
        return base64.b64encode(octets).decode()
    return [lift(values.data[index], element) for index in range(values.size)]


def _lift_tuple(of: Any, form: WitType) -> list[Any]:
    return [
        lift(of.tuple.data[index], inner)
        for index, inner in enumerate(form.types)
        if inner is not None
    ]


def _lift_record(of: Any, form: WitType) -> list[Any]:
    return [
        lift(of.record.data[index].val, inner)
        for index, inner in enumerate(form.types)
        if inner is not None
    ]


def _lift_variant(of: Any, form: WitType) -> list[Any]:
    number = form.names.index(ffi.to_str(of.variant.discriminant))
    return [number, _unboxed(of.variant.val, form.types[number])]


def _lift_result(of: Any, form: WitType) -> list[Any]:
    number = 0 if of.result.is_ok else 1
    return [number, _unboxed(of.result.val, form.types[number])]


def _lift_option(of: Any, form: WitType) -> list[Any]:
    return [_unboxed(of.option, form.types[0])] if of.option else []


def _lift_flags(of: Any, form: WitType) -> list[int]:
    names = (ffi.to_str(of.flags.data[index]) for index in range(of.flags.size))
    return sorted(form.names.index(name) for name in names)


def _unboxed(pointer: Any, form: WitType | None) -> Any:
    return None if form is None else lift(pointer.contents, form)


_LOWER: Final[dict[str, Callable[[Any, WitType, _Pointer], None]]] = {
    "char": _lower_char,
    "string": _lower_string,
    "list": _lower_list,
    "tuple": _lower_tuple,
    "record": _lower_record,
    "variant": _lower_variant,
    "result": _lower_result,
    "option": _lower_option,
    "enum": _lower_enum,
    "flags": _lower_flags,
}

_LIFT: Final[dict[str, Callable[[Any, WitType], Any]]] = {
    "char": lambda of, _form: chr(of.character),
    "string": lambda of, _form: ffi.to_str(of.string),
    "list": _lift_list,
    "tuple": _lift_tuple,
    "record": _lift_record,
    "variant": _lift_variant,
    "result": _lift_result,
    "option": _lift_option,
    "enum": lambda of, form: form.names.index(ffi.to_str(of.enumeration)),
    "flags": _lift_flags,
}
