"""Component values: JSON to plain values and back, for any type."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.strategies import plain_of, texts, types
from wasmdrop.protocol.component_values import (
    check_function,
    decode_result,
    encode_args,
    example,
)
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.module_types import UNSUPPORTED, WitFunction, WitType
from wasmdrop.protocol.outcome import Code


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
    assert caught.value.message == "parameter it: JSON can't represent a stream"
