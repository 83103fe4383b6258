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
def test_decoded_result_is_encoded_to_the_same_value(case: tuple[WitType, Any]) -> None:
    """Through JSON text, bit by bit, for any type."""
    form, plain = case
    value = json.loads(json.dumps(decode_result(plain, form), allow_nan=False))
    assert encode_args([value], function_of(form)) == [plain]


@given(types)
def test_example_is_valid_for_its_type(form: WitType) -> None:
    """So that it can be used as it is."""
    encode_args([example(form)], function_of(form))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=10,
)


@given(types, json_values)
def test_encode_of_any_value_succeeds_or_is_refused(form: WitType, value: Any) -> None:
    """Refused with its path; encoded with the same meaning."""
    try:
        (plain,) = encode_args([value], function_of(form))
    except RefusedError as refusal:
        assert refusal.code is Code.INVALID_ARGS  # noqa: PT017 - one of two good ends
        assert refusal.message.startswith("args[0]")  # noqa: PT017 - the same
        assert len(refusal.message) < 1000  # noqa: PT017 - the same
    else:
        assert encode_args([decode_result(plain, form)], function_of(form)) == [plain]


@given(types, json_values)
def test_decode_of_any_plain_value_raises_value_error_or_is_valid(
    form: WitType, plain: Any
) -> None:
    """Whatever a child sends: no other exception, and nothing that JSON can not represent."""
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
def test_type_as_text_is_wit(form: WitType, text: str) -> None:
    """In messages, and by ``wasmdrop inspect``."""
    assert str(form) == text


def test_nested_unsupported_type_is_refused() -> None:
    """The message names the type and the parameter."""
    deep = WitType("list", (), (WitType("option", (), (WitType(UNSUPPORTED, ("a stream",)),)),))
    with pytest.raises(RefusedError) as caught:
        check_function(function_of(deep))
    assert caught.value.code is Code.UNSUPPORTED_SIGNATURE
    assert caught.value.message == "parameter it: JSON can't represent a stream"
