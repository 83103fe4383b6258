"""Component values: JSON to plain values and back, for any type."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmdrop.protocol.component_values import (
    INTEGERS,
    check_function,
    decode_result,
    encode_args,
    example,
)
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.module_types import UNSUPPORTED, WitFunction, WitType
from wasmdrop.protocol.outcome import Code

names = st.lists(
    st.from_regex(r"[a-z][a-z0-9]{0,3}", fullmatch=True), min_size=1, max_size=4, unique=True
).map(tuple)

scalars = st.sampled_from([*INTEGERS, "f32", "f64", "bool", "char", "string"]).map(WitType)


@st.composite
def named(draw: st.DrawFn, inner: st.SearchStrategy[WitType]) -> WitType:
    """Draw a record or a variant."""
    kind = draw(st.sampled_from(["record", "variant"]))
    them = draw(names)
    part = inner if kind == "record" else st.none() | inner
    return WitType(kind, them, tuple(draw(part) for _ in them))


types = st.recursive(
    scalars
    | names.map(lambda them: WitType("enum", them))
    | names.map(lambda them: WitType("flags", them)),
    lambda inner: (
        inner.map(lambda one: WitType("list", (), (one,)))
        | inner.map(lambda one: WitType("option", (), (one,)))
        | st.lists(inner, min_size=1, max_size=3).map(lambda some: WitType("tuple", (), (*some,)))
        | st.tuples(st.none() | inner, st.none() | inner).map(
            lambda two: WitType("result", (), two)
        )
        | named(inner)
    ),
    max_leaves=8,
)

texts = st.text(st.characters(exclude_categories=["Cs"]))


def plain_of(form: WitType) -> st.SearchStrategy[Any]:  # noqa: C901 - one case for each type
    """Return a strategy of plain values of a type."""
    inner = [st.none() if part is None else plain_of(part) for part in form.types]
    match form.kind:
        case kind if kind in INTEGERS:
            return st.integers(*INTEGERS[kind])
        case "f32" | "f64":
            return st.integers(0, 2 ** int(form.kind[1:]) - 1)
        case "bool":
            return st.booleans()
        case "char":
            return st.characters(exclude_categories=["Cs"])
        case "string":
            return texts
        case "list" if form.types[0] == WitType("u8"):
            return st.binary().map(_base64)
        case "list":
            return st.lists(inner[0], max_size=3)
        case "option":
            return st.lists(inner[0], max_size=1)
        case "tuple" | "record":
            return st.tuples(*inner).map(list)
        case "enum":
            return st.integers(0, len(form.names) - 1)
        case "flags":
            return st.sets(st.integers(0, len(form.names) - 1)).map(sorted)
    cases = [payload.map(_numbered(number)) for number, payload in enumerate(inner)]
    return st.one_of(cases)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _numbered(number: int) -> Any:
    return lambda payload: [number, payload]


@st.composite
def typed_plain(draw: st.DrawFn) -> tuple[WitType, Any]:
    """Draw a type and a plain value of it."""
    form = draw(types)
    return form, draw(plain_of(form))


def function_of(form: WitType) -> WitFunction:
    """Return a function of one parameter."""
    return WitFunction((("it", form),))


@given(typed_plain())
def test_what_comes_out_goes_in_again_as_the_same(case: tuple[WitType, Any]) -> None:
    """By way of JSON text, to the bit, whatever the type."""
    form, plain = case
    value = json.loads(json.dumps(decode_result(plain, form), allow_nan=False))
    assert encode_args([value], function_of(form)) == [plain]


@given(types)
def test_an_example_fits_its_type(form: WitType) -> None:
    """A template that is taken as it is."""
    encode_args([example(form)], function_of(form))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=10,
)


@given(types, json_values)
def test_any_value_fits_or_is_refused(form: WitType, value: Any) -> None:
    """With its path; and what fits comes out meaning the same."""
    try:
        (plain,) = encode_args([value], function_of(form))
    except RefusedError as refusal:
        assert refusal.code is Code.INVALID_ARGS  # noqa: PT017 - one of two good ends
        assert refusal.message.startswith("args[0]")  # noqa: PT017 - the same
        assert len(refusal.message) < 1000  # noqa: PT017 - the same
    else:
        assert encode_args([decode_result(plain, form)], function_of(form)) == [plain]


@given(types, json_values)
def test_a_lie_is_a_value_error_or_a_value_of_the_type(form: WitType, plain: Any) -> None:
    """Whatever a child sends: no other exception, and nothing that JSON can't hold."""
    try:
        value = decode_result(plain, form)
    except ValueError:
        return
    json.dumps(value, allow_nan=False).encode()


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (WitType("list", (), (WitType("u8"),)), "list<u8>"),
        (WitType("result", (), (None, None)), "result"),
        (WitType("result", (), (None, WitType("u8"))), "result<_, u8>"),
        (WitType("result", (), (WitType("u8"), None)), "result<u8>"),
        (
            WitType("record", ("a", "b"), (WitType("u8"), WitType("f32"))),
            "record { a: u8, b: f32 }",
        ),
        (WitType("variant", ("a", "b"), (None, WitType("u8"))), "variant { a, b(u8) }"),
        (WitType("flags", ("a", "b")), "flags { a, b }"),
        (WitType(UNSUPPORTED, ("a stream",)), "a stream"),
    ],
)
def test_types_are_shown_as_wit_writes_them(form: WitType, text: str) -> None:
    """In messages and by inspect."""
    assert str(form) == text


def test_a_type_that_json_can_t_carry_is_found_however_deep_it_is() -> None:
    """And named, with the parameter it is in."""
    deep = WitType("list", (), (WitType("option", (), (WitType(UNSUPPORTED, ("a stream",)),)),))
    with pytest.raises(RefusedError) as caught:
        check_function(function_of(deep))
    assert caught.value.code is Code.UNSUPPORTED_SIGNATURE
    assert caught.value.message == "parameter it: JSON can't carry a stream"
