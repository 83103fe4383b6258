"""Converts JSON values to plain values of the component model, and back, by a type sent as data.

A *plain* value is exchanged with a sandbox child. It is JSON without names and without
alternatives, so that the child needs no rules. Integers, booleans and strings are themselves;
floats are their bits; ``list<u8>`` is base64; other lists, records and tuples are arrays; an enum
is the number of its case, flags are the sorted numbers of those set; an option is an array of none
or one; a variant or result is the number of its case and its payload.

Guarantees that nothing is dropped, wrapped or rounded silently, that an invalid value is refused
with its path, and that a plain value of the wrong type, as a compromised child may send, is a
``ValueError``. ``encode_args`` accepts the results of ``decode_result``.
"""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from wasmdrop.protocol.core_values import float_bits, float_value, integer_in, misfit
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.module_types import UNSUPPORTED, WitFunction, WitType
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import bounded_text, describe_value

#: Lowest and highest value by type.
INTEGERS: Final[Mapping[str, tuple[int, int]]] = {
    **{f"u{bits}": (0, (1 << bits) - 1) for bits in (8, 16, 32, 64)},
    **{f"s{bits}": (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) for bits in (8, 16, 32, 64)},
}

_SHOWN_CHARACTERS: Final = 120
_SURROGATES: Final = range(0xD800, 0xE000)
_OK, _ERR = "ok", "err"


def check_function(function: WitFunction) -> None:
    """Refuse an asynchronous function, and one with a type that JSON can't represent.

    Raises ``RefusedError`` with ``UNSUPPORTED_SIGNATURE``, which names the first such type.
    """
    if function.is_async:
        raise RefusedError(
            Code.UNSUPPORTED_SIGNATURE,
            "the function is async, which needs WASI 0.3; export it without async, from a "
            "component of WASI 0.2",
        )
    for name, form in function.params:
        _check_type(f"parameter {name}", form)
    if function.result is not None:
        _check_type("the result", function.result)


def _check_type(where: str, form: WitType) -> None:
    if form.kind == UNSUPPORTED:
        raise RefusedError(
            Code.UNSUPPORTED_SIGNATURE,
            f"{where}: JSON can't represent {bounded_text(form.names[0], _SHOWN_CHARACTERS)}",
        )
    for inner in form.types:
        if inner is not None:
            _check_type(where, inner)


def encode_args(args: Sequence[object], function: WitFunction) -> list[Any]:
    """Return one plain value per parameter.

    Raises ``RefusedError``: ``UNSUPPORTED_SIGNATURE``, or ``INVALID_ARGS`` with the path of the
    first invalid value.
    """
    check_function(function)
    if len(args) != len(function.params):
        expected = ", ".join(f"{name}: {form}" for name, form in function.params) or "none"
        raise RefusedError(
            Code.INVALID_ARGS,
            f"expected {len(function.params)} arguments"
            f" ({bounded_text(expected, _SHOWN_CHARACTERS)}), got {len(args)}",
        )
    return [
        _encode(f"args[{index}]", value, form)
        for index, (value, (_name, form)) in enumerate(zip(args, function.params, strict=True))
    ]


def decode_result(plain: object, form: WitType) -> Any:
    """Return a plain value as JSON. Raises ``ValueError`` if it is not of its type."""
    return _decode(plain, form)


# --- JSON to plain


def _encode(where: str, value: object, form: WitType) -> Any:
    if form.kind in INTEGERS:
        return integer_in(where, value, form.kind, *INTEGERS[form.kind])
    if form.kind in {"f32", "f64"}:
        return float_bits(where, value, form.kind)
    return _ENCODERS[form.kind](where, value, form)


def _encode_bool(where: str, value: object, _form: WitType) -> bool:
    if not isinstance(value, bool):
        raise misfit(where, "bool (true or false)", value)
    return value


def _encode_string(where: str, value: object, _form: WitType) -> str:
    if not isinstance(value, str):
        raise misfit(where, "string", value)
    return value


def _encode_char(where: str, value: object, _form: WitType) -> str:
    if not isinstance(value, str) or not _is_char(value):
        raise misfit(where, "char (a string of one character)", value)
    return value


def _is_char(text: str) -> bool:
    return len(text) == 1 and ord(text) not in _SURROGATES


def _encode_list(where: str, value: object, form: WitType) -> Any:
    (element,) = form.types
    assert element is not None  # noqa: S101 - a list has elements
    if element.kind == "u8":
        return _encode_bytes(where, value, form)
    if not isinstance(value, list | tuple):
        raise misfit(where, f"{_short(form)} (an array)", value)
    return [_encode(f"{where}[{index}]", item, element) for index, item in enumerate(value)]


def _encode_bytes(where: str, value: object, form: WitType) -> str:
    expected = f'{_short(form)} (an array of integers, or {{"base64": "..."}})'
    if isinstance(value, dict):
        text = value.get("base64")
        if len(value) != 1 or not isinstance(text, str):
            raise misfit(where, expected, value)
        try:
            return base64.b64encode(binascii.a2b_base64(text, strict_mode=True)).decode()
        except ValueError:
            raise misfit(f"{where}.base64", "base64", text) from None
    if not isinstance(value, list | tuple):
        raise misfit(where, expected, value)
    octets = (
        integer_in(f"{where}[{index}]", item, "u8", *INTEGERS["u8"])
        for index, item in enumerate(value)
    )
    return base64.b64encode(bytes(octets)).decode()


def _encode_tuple(where: str, value: object, form: WitType) -> list[Any]:
    if not isinstance(value, list | tuple) or len(value) != len(form.types):
        raise misfit(where, f"{_short(form)} (an array of {len(form.types)})", value)
    return [
        _encode(f"{where}[{index}]", item, _some(inner))
        for index, (item, inner) in enumerate(zip(value, form.types, strict=True))
    ]


def _encode_record(where: str, value: object, form: WitType) -> list[Any]:
    if not isinstance(value, dict):
        raise misfit(where, f"{_short(form)} (an object)", value)
    for key in value:
        if key not in form.names:
            raise _refusal(where, f"unknown field {describe_value(key)}; {_fields(form)}")
    for name in form.names:
        if name not in value:
            raise _refusal(where, f"the field {name} is missing; {_fields(form)}")
    return [
        _encode(f"{where}.{name}", value[name], _some(inner))
        for name, inner in zip(form.names, form.types, strict=True)
    ]


def _encode_variant(where: str, value: object, form: WitType) -> list[Any]:
    if isinstance(value, str):
        case, payload = value, None
    elif isinstance(value, dict) and len(value) == 1:
        ((case, payload),) = value.items()
    else:
        raise misfit(where, f"{_short(form)} (a case, or an object of one case)", value)
    if case not in form.names:
        raise misfit(where, f"one of the cases {_listed(form)}", case)
    number = form.names.index(case)
    inner = form.types[number]
    if inner is None:
        if not isinstance(value, str):
            raise misfit(where, f'"{case}", because this case has no payload', value)
        return [number, None]
    if isinstance(value, str):
        raise misfit(
            where,
            f'{{"{case}": …}}, because this case has a payload of type {_short(inner)}',
            value,
        )
    return [number, _encode(f"{where}.{case}", payload, inner)]


def _encode_result(where: str, value: object, form: WitType) -> list[Any]:
    if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= {_OK, _ERR}:
        raise misfit(where, f'{_short(form)} ({{"ok": …}} or {{"err": …}})', value)
    ((case, payload),) = value.items()
    number = 0 if case == _OK else 1
    inner = form.types[number]
    if inner is not None:
        return [number, _encode(f"{where}.{case}", payload, inner)]
    if payload is not None:
        raise misfit(f"{where}.{case}", "null, because this case has no payload", payload)
    return [number, None]


def _encode_option(where: str, value: object, form: WitType) -> list[Any]:
    (inner,) = form.types
    if value is None:
        return []
    if not _is_nested(form):
        return [_encode(where, value, _some(inner))]
    if not isinstance(value, dict) or value.keys() != {"some"}:
        raise misfit(where, f'{_short(form)} (null or {{"some": …}})', value)
    return [_encode(f"{where}.some", value["some"], _some(inner))]


def _encode_enum(where: str, value: object, form: WitType) -> int:
    if not isinstance(value, str) or value not in form.names:
        raise misfit(where, f"one of {_listed(form)}", value)
    return form.names.index(value)


def _encode_flags(where: str, value: object, form: WitType) -> list[int]:
    if not isinstance(value, list | tuple):
        raise misfit(where, f"{_short(form)} (an array of strings)", value)
    found = []
    for index, item in enumerate(value):
        number = _encode_enum(f"{where}[{index}]", item, form)
        if number in found:
            raise _refusal(f"{where}[{index}]", f"{item} is given twice")
        found.append(number)
    return sorted(found)


_ENCODERS: Final[Mapping[str, Callable[[str, object, WitType], Any]]] = {
    "bool": _encode_bool,
    "string": _encode_string,
    "char": _encode_char,
    "list": _encode_list,
    "tuple": _encode_tuple,
    "record": _encode_record,
    "variant": _encode_variant,
    "result": _encode_result,
    "option": _encode_option,
    "enum": _encode_enum,
    "flags": _encode_flags,
}


# --- Plain to JSON


def _decode(plain: Any, form: WitType) -> Any:  # noqa: C901, PLR0912 - one flat case for each type
    match form.kind:
        case kind if kind in INTEGERS:
            lowest, highest = INTEGERS[kind]
            return _checked(plain, type(plain) is int and lowest <= plain <= highest)
        case "f32" | "f64":
            _checked(plain, type(plain) is int and 0 <= plain < 1 << int(form.kind[1:]))
            return float_value(plain, form.kind)
        case "bool":
            return _checked(plain, isinstance(plain, bool))
        case "string":
            return _checked(plain, isinstance(plain, str))
        case "char":
            return _checked(plain, isinstance(plain, str) and _is_char(plain))
        case "list" if _some(form.types[0]).kind == "u8":
            return list(binascii.a2b_base64(_checked(plain, isinstance(plain, str))))
        case "list":
            return [_decode(item, _some(form.types[0])) for item in _array(plain)]
        case "tuple":
            return [
                _decode(item, _some(inner))
                for item, inner in zip(_array(plain), form.types, strict=True)
            ]
        case "record":
            fields = zip(form.names, _array(plain), form.types, strict=True)
            return {name: _decode(item, _some(inner)) for name, item, inner in fields}
        case "option":
            return _decode_option(_array(plain), form)
        case "variant" | "result":
            return _decode_case(_array(plain), form)
        case "enum":
            return form.names[_number(plain, form.names)]
        case "flags":
            return [form.names[_number(item, form.names)] for item in _array(plain)]
    raise ValueError(f"a value of {form.kind}")


def _decode_option(plain: list[Any], form: WitType) -> Any:
    if not plain:
        return None
    (item,) = plain
    value = _decode(item, _some(form.types[0]))
    return {"some": value} if _is_nested(form) else value


def _decode_case(plain: list[Any], form: WitType) -> Any:
    case, payload = plain
    names = form.names if form.kind == "variant" else (_OK, _ERR)
    number = _number(case, names)
    inner = form.types[number]
    if inner is not None:
        return {names[number]: _decode(payload, inner)}
    _checked(payload, payload is None)
    return names[number] if form.kind == "variant" else {names[number]: None}


def _number(plain: Any, names: Sequence[str]) -> int:
    return int(_checked(plain, type(plain) is int and 0 <= plain < len(names)))


def _array(plain: Any) -> list[Any]:
    found: list[Any] = _checked(plain, isinstance(plain, list))
    return found


def _checked(plain: Any, fits: bool) -> Any:
    if not fits:
        raise ValueError(f"a {type(plain).__name__} is not of its type")
    return plain


# --- Examples


def example(form: WitType) -> Any:  # noqa: C901 - one flat case for each type
    """Return the simplest JSON value that shows the form of the type."""
    match form.kind:
        case kind if kind in INTEGERS:
            return 0
        case "f32" | "f64":
            return 0.0
        case "bool":
            return False
        case "string":
            return ""
        case "char":
            return "a"
        case "flags":
            return []
        case "list" | "tuple":
            return [example(_some(inner)) for inner in form.types]
        case "record":
            fields = zip(form.names, form.types, strict=True)
            return {name: example(_some(inner)) for name, inner in fields}
        case "enum":
            return form.names[0]
        case "variant":
            inner = form.types[0]
            return form.names[0] if inner is None else {form.names[0]: example(inner)}
        case "result":
            return {_OK: None if form.types[0] is None else example(form.types[0])}
    return None


# --- Messages


def _some(form: WitType | None) -> WitType:
    assert form is not None  # noqa: S101 - only cases may have no type
    return form


def _is_nested(form: WitType) -> bool:
    return _some(form.types[0]).kind == "option"


def _short(form: WitType) -> str:
    return bounded_text(str(form), _SHOWN_CHARACTERS)


def _fields(form: WitType) -> str:
    return f"the fields are {_listed(form)}"


def _listed(form: WitType) -> str:
    return bounded_text(", ".join(form.names), _SHOWN_CHARACTERS)


def _refusal(where: str, what: str) -> RefusedError:
    return RefusedError(Code.INVALID_ARGS, f"{where}: {what}")
