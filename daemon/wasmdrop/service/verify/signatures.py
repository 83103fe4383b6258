"""Count the trusted keys that signed a receipt."""

from typing import Final

from wasmdrop.proof.envelope import Envelope, Verifier, signed_by
from wasmdrop.service.verify.verdict import DocumentError, mismatch

#: Pairs of a signature and a trusted key that are tried: as many as an envelope may have signatures
#: for as many keys. A signature of secp256k1 takes 0.4 ms to refuse.
_MAX_PAIRS: Final = 64 * 64


def require_signatures(
    envelope: Envelope, trusted: tuple[Verifier, ...], needed: int
) -> tuple[str, ...]:
    """Return the ids of the trusted keys that signed the payload.

    Key ids in the envelope are not looked at. Raises ``ConcludedError`` if fewer than ``needed``
    keys signed, ``DocumentError`` if that would take too long to find out.
    """
    pairs = len(envelope.signatures) * len(trusted)
    if pairs > _MAX_PAIRS:
        raise DocumentError(
            f"the receipt has {len(envelope.signatures)} signatures to try with {len(trusted)}"
            f" trusted keys: {pairs} pairs, expected at most {_MAX_PAIRS}; trust fewer keys"
        )
    signers = tuple(key.key_id for key in signed_by(envelope, trusted))
    if len(signers) < needed:
        raise mismatch(
            f"the receipt has valid signatures of {len(signers)} of {len(trusted)} trusted keys,"
            f" and {needed} must have signed"
        )
    return signers
