"""Signatures of requests: the key in a secret file, and the value of the header."""

import datetime as dt

import pytest
from standardwebhooks import Webhook

from wasmdrop.hooks.signature import parse_secret, sign
from wasmdrop.protocol.errors import MalformedError


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b"1\xf2\x90\xf6\xbf\x06)\x8a\xabO\x08\xd4"),
        (b" whsec_AAAAAAAAAAAAAAAAAAAAAAA\n", b"\0" * 12),
        (b"some text of a length\n", b"some text of"),
    ],
)
def test_secret_in_each_form_is_the_key(content: bytes, key: bytes) -> None:
    """Padding may be missing, and the file may end in a new line."""
    assert parse_secret(content).startswith(key)


@pytest.mark.parametrize("content", [b"", b"short", b"whsec_AAAA", b"whsec_*" * 5])
def test_secret_that_can_be_guessed_or_is_no_base64_is_refused(content: bytes) -> None:
    """The message does not have it."""
    with pytest.raises(MalformedError) as caught:
        parse_secret(content)
    assert not content or content.decode() not in str(caught.value)


def test_signature_is_that_of_the_reference_library() -> None:
    """Also of a body that is no UTF-8 text in one piece."""
    key = parse_secret(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    at = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    body = '{"message":"ö\\n"}'
    expected = Webhook(key).sign("job-1", at, body)
    assert sign(key, "job-1", int(at.timestamp()), body.encode()) == expected
