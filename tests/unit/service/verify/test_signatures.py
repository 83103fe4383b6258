"""Signatures are counted by trusted key, in bounded time."""

import pytest

from wasmdrop.proof.envelope import Envelope, Signature
from wasmdrop.service.verify.signatures import require_signatures
from wasmdrop.service.verify.verdict import ConcludedError, DocumentError


class Key:
    """A trusted key that counts what it is asked."""

    def __init__(self, number: int) -> None:
        self.key_id = f"{number}"
        self.asked = 0

    def verifies(self, _data: bytes, signature: bytes) -> bool:
        """Whether the signature is the number of the key."""
        self.asked += 1
        return signature == self.key_id.encode()


def an_envelope(count: int) -> Envelope:
    """Return an envelope with signatures of the keys 0, 1, ..."""
    signatures = tuple(Signature("x", f"{number}".encode()) for number in range(count))
    return Envelope(b"{}", signatures)


def test_signatures_of_the_largest_envelope_are_tried_with_as_many_keys() -> None:
    """Each key is asked until it has one of its own."""
    keys = tuple(map(Key, range(64)))
    assert len(require_signatures(an_envelope(64), keys, 64)) == 64
    with pytest.raises(ConcludedError):
        require_signatures(an_envelope(63), keys, 64)


def test_signatures_that_would_take_long_to_try_are_not_tried() -> None:
    """Anybody can put invalid ones into an envelope, and each costs as much as a valid one."""
    keys = tuple(map(Key, range(100, 165)))
    with pytest.raises(DocumentError, match="64 signatures to try with 65 trusted keys"):
        require_signatures(an_envelope(64), keys, 1)
    assert not any(key.asked for key in keys)
