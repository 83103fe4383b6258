"""The headers of an event: text of producers in them is harmless."""

import http.client
import os
from urllib.parse import unquote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.events import an_event
from wasmdrop.hooks.cloud_event import encode_header, headers_of


@pytest.mark.parametrize(
    ("slot", "subject"),
    [
        ("a/input.json", "a/input.json"),
        ("a b/input-ö%.json", "a%20b/input-%C3%B6%25.json"),
        ('"\r\nX-Forged: 1/input.json', "%22%0D%0AX-Forged:%201/input.json"),
        (os.fsdecode(b"\xff/input.json"), "?/input.json"),
    ],
)
def test_subject_of_a_hostile_slot_is_percent_encoded(slot: str, subject: str) -> None:
    """As the HTTP binding of CloudEvents wants it."""
    assert headers_of(an_event(slot=slot), "/wasmdrop/here")["ce-subject"] == subject


def test_subject_that_is_too_long_for_a_header_is_left_out() -> None:
    """The other attributes stay: a receiver needs them."""
    headers = headers_of(an_event(slot="ö" * 400), "/wasmdrop/here")
    assert "ce-subject" not in headers
    assert headers["ce-id"] == "job-1"
    assert "ce-subject" in headers_of(an_event(slot="ö" * 300), "/wasmdrop/here")


def test_marker_without_an_end_is_an_error() -> None:
    """No request can be made of it."""
    event = msgspec.structs.replace(an_event(), marker=b"{}")
    with pytest.raises(msgspec.DecodeError):
        headers_of(event, "/wasmdrop/here")


@given(st.text())
def test_header_of_any_text_is_accepted_by_the_client_and_decodes_to_it(text: str) -> None:
    """No text ends a header or begins another one."""
    encoded = encode_header(text)
    connection = http.client.HTTPConnection("localhost")
    connection._HTTPConnection__state = "Request-started"  # type: ignore[attr-defined]
    connection.putheader("ce-subject", encoded)
    assert unquote(encoded) == text.encode("utf-8", "replace").decode()
    assert encoded.isascii()
    assert encoded.isprintable()
    assert " " not in encoded
