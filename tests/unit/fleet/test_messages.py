"""Messages of the fleet: what decodes, and what does not."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.strategies import mutations
from wasmdrop.fleet.messages import (
    MAX_MESSAGE_BYTES,
    Answer,
    Blob,
    InvalidMessageError,
    Output,
    Ran,
    Returned,
    Revocation,
    Started,
    decode,
    encode,
)
from wasmdrop.protocol.runtime_versions import own_versions

BLOB = Blob("ab" * 32, 300_000, "cd" * 16)
ANSWER = Answer("job-1", 1, 0, "w1", Ran(BLOB, Output(20, BLOB), own_versions()))


@pytest.mark.parametrize(
    "message", [ANSWER, Answer("j", 1, 2, "w", Returned("stops", needs_module=True))]
)
def test_message_decodes_to_itself(message: Answer) -> None:
    """Whatever its content is."""
    assert decode(encode(message), Answer) == message


@pytest.mark.parametrize(
    ("form", "fields"),
    [
        (Blob, {"sha256": "a" * 63 + "\n", "size_bytes": 1}),
        (Blob, {"sha256": "a" * 64 + "\n", "size_bytes": 1}),
        (Blob, {"sha256": "a" * 64, "size_bytes": 1, "upload": "ab\n"}),
        (Blob, {"sha256": "a" * 64, "size_bytes": 1, "upload": "*"}),
        (Blob, {"sha256": "a" * 64, "size_bytes": 1, "upload": "a.b"}),
        (Blob, {"sha256": "a" * 64, "size_bytes": -1}),
        (Blob, {"sha256": "a" * 64, "size_bytes": 1 << 60}),
        (Started, {"ticket": "a" * 31 + "\n", "worker": "w", "delivery": 1}),
        (Started, {"ticket": "a" * 32, "worker": "w\n", "delivery": 1}),
        (Started, {"ticket": "a" * 32, "worker": "w 1", "delivery": 1}),
        (Answer, {**msgspec.to_builtins(ANSWER), "job": "j\n"}),
        (Answer, {**msgspec.to_builtins(ANSWER), "job": ">"}),
        (Revocation, {"jobs": ["job-1", "job-2\n"]}),
        (Revocation, {"jobs": [f"job-{number}" for number in range(1001)]}),
    ],
)
def test_name_that_is_no_token_of_a_subject_is_refused(
    form: type[msgspec.Struct], fields: dict[str, Any]
) -> None:
    """A subject with a space or a newline would be another command to the server."""
    with pytest.raises(InvalidMessageError):
        decode(msgspec.msgpack.encode(fields), form)


def test_message_larger_than_allowed_is_not_parsed() -> None:
    """The limit is checked first."""
    with pytest.raises(InvalidMessageError, match="are more than"):
        decode(b"\xc0" * (MAX_MESSAGE_BYTES + 1), Answer)


def test_error_of_a_message_is_one_printable_line() -> None:
    """Its text has values from the message."""
    data = msgspec.msgpack.encode({**msgspec.to_builtins(ANSWER), "content": {"type": "\x1b[2J\n"}})
    with pytest.raises(InvalidMessageError) as caught:
        decode(data, Answer)
    assert str(caught.value).isprintable()


@given(mutations(encode(ANSWER)) | st.binary(max_size=300))
def test_mutated_message_decodes_or_is_refused(data: bytes) -> None:
    """With one exception, and no other."""
    try:
        answer = decode(data, Answer)
    except InvalidMessageError as error:
        assert str(error).isprintable()  # noqa: PT017 - one of two good ends
    else:
        assert isinstance(answer, Answer)
