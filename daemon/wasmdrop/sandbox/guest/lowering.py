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

#: Kind and union member by type. Floats are passed as their bits.
_KINDS: Final = {
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
    "char": (ffi.WASMTIME_COMPONENT_CHAR.value, "character"),
    "string": (ffi.WASMTIME_COMPONENT_STRING.value, "string"),
    "list": (ffi.WASMTIME_COMPONENT_LIST.value, "list"),
    "record": (ffi.WASMTIME_COMPONENT_RECORD.value, "record"),
    "tuple": (ffi.WASMTIME_COMPONENT_TUPLE.value, "tuple"),
    "variant": (ffi.WASMTIME_COMPONENT_VARIANT.value, "variant"),
    "enum": (ffi.WASMTIME_COMPONENT_ENUM.value, "enumeration"),
    "option": (ffi.WASMTIME_COMPONENT_OPTION.value, "option"),
    "result": (ffi.WASMTIME_COMPONENT_RESULT.value, "result"),
    "flags": (ffi.WASMTIME_COMPONENT_FLAGS.value, "flags"),
}


def lower(plain: Any, form: WitType, target: Any) -> None:
    """Store a plain value of type ``form`` in ``target``, a wasmtime component value."""
    target.kind, member = _KINDS[form.kind]
    convert = _LOWER.get(form.kind)
    setattr(target.of, member, plain if convert is None else convert(plain, form))


def lift(value: Any, form: WitType) -> Any:
    """Return the plain form of wasmtime's ``value`` of type ``form``."""
    member = getattr(value.of, _KINDS[form.kind][1])
    convert = _LIFT.get(form.kind)
    return member if convert is None else convert(member, form)


def _inner(form: WitType, index: int = 0) -> WitType:
    inner = form.types[index]
    assert inner is not None  # noqa: S101 - only cases may have no payload
    return inner


def _lower_list(plain: Any, form: WitType) -> Any:
    element = _inner(form)
    items = base64.b64decode(plain) if element.kind == "u8" else plain
    values = ffi.wasmtime_component_vallist_t()
    ffi.wasmtime_component_vallist_new_uninit(values, len(items))
    for index, item in enumerate(items):
        lower(item, element, values.data[index])
    return values


def _lower_tuple(plain: list[Any], form: WitType) -> Any:
    values = ffi.wasmtime_component_valtuple_t()
    ffi.wasmtime_component_valtuple_new_uninit(values, len(plain))
    for index, item in enumerate(plain):
        lower(item, _inner(form, index), values.data[index])
    return values


def _lower_record(plain: list[Any], form: WitType) -> Any:
    fields = ffi.wasmtime_component_valrecord_t()
    ffi.wasmtime_component_valrecord_new_uninit(fields, len(plain))
    for index, (name, item) in enumerate(zip(form.names, plain, strict=True)):
        fields.data[index].name = ffi.str_to_capi(name)
        lower(item, _inner(form, index), fields.data[index].val)
    return fields


def _lower_variant(plain: list[Any], form: WitType) -> Any:
    number, payload = plain
    name = ffi.str_to_capi(form.names[number])
    return ffi.wasmtime_component_valvariant_t(name, _boxed(payload, form.types[number]))


def _lower_result(plain: list[Any], form: WitType) -> Any:
    number, payload = plain
    return ffi.wasmtime_component_valresult_t(number == 0, _boxed(payload, form.types[number]))


def _lower_flags(plain: list[int], form: WitType) -> Any:
    names = ffi.wasmtime_component_valflags_t()
    ffi.wasmtime_component_valflags_new_uninit(names, len(plain))
    for index, number in enumerate(plain):
        names.data[index] = ffi.str_to_capi(form.names[number])
    return names


def _boxed(plain: Any, form: WitType | None) -> Any:
    """Return a pointer to a payload on wasmtime's heap; None for no payload."""
    if form is None:
        return None
    value = ffi.wasmtime_component_val_t()
    lower(plain, form, value)
    return ffi.wasmtime_component_val_new(ctypes.byref(value))


def _lift_list(values: Any, form: WitType) -> Any:
    element = _inner(form)
    if element.kind == "u8":
        octets = bytes(values.data[index].of.u8 for index in range(values.size))
        return base64.b64encode(octets).decode()
    return [lift(values.data[index], element) for index in range(values.size)]


def _lift_tuple(values: Any, form: WitType) -> list[Any]:
    return [lift(values.data[index], _inner(form, index)) for index in range(len(form.types))]


def _lift_record(fields: Any, form: WitType) -> list[Any]:
    return [lift(fields.data[index].val, _inner(form, index)) for index in range(len(form.types))]


def _lift_variant(value: Any, form: WitType) -> list[Any]:
    number = form.names.index(ffi.to_str(value.discriminant))
    return [number, _unboxed(value.val, form.types[number])]


def _lift_result(value: Any, form: WitType) -> list[Any]:
    number = 0 if value.is_ok else 1
    return [number, _unboxed(value.val, form.types[number])]


def _lift_flags(flags: Any, form: WitType) -> list[int]:
    names = (ffi.to_str(flags.data[index]) for index in range(flags.size))
    return sorted(form.names.index(name) for name in names)


def _unboxed(pointer: Any, form: WitType | None) -> Any:
    return None if form is None else lift(pointer.contents, form)


_LOWER: Final[dict[str, Callable[[Any, WitType], Any]]] = {
    "char": lambda plain, _form: ord(plain),
    "string": lambda plain, _form: ffi.str_to_capi(plain),
    "list": _lower_list,
    "record": _lower_record,
    "tuple": _lower_tuple,
    "variant": _lower_variant,
    "enum": lambda plain, form: ffi.str_to_capi(form.names[plain]),
    "option": lambda plain, form: _boxed(plain[0], form.types[0]) if plain else None,
    "result": _lower_result,
    "flags": _lower_flags,
}

_LIFT: Final[dict[str, Callable[[Any, WitType], Any]]] = {
    "char": lambda character, _form: chr(character),
    "string": lambda string, _form: ffi.to_str(string),
    "list": _lift_list,
    "record": _lift_record,
    "tuple": _lift_tuple,
    "variant": _lift_variant,
    "enum": lambda name, form: form.names.index(ffi.to_str(name)),
    "option": lambda pointer, form: [_unboxed(pointer, form.types[0])] if pointer else [],
    "result": _lift_result,
    "flags": _lift_flags,
}
