"""Count the trusted keys that signed a receipt."""

from wasmdrop.proof.envelope import Envelope, Verifier, signed_by
from wasmdrop.service.verify.verdict import mismatch


def require_signatures(
    envelope: Envelope, trusted: tuple[Verifier, ...], needed: int
) -> tuple[str, ...]:
    """Return the ids of the trusted keys that signed the payload.

    Key ids in the envelope are not looked at. Raises ``ConcludedError`` if fewer than ``needed``
    keys signed.
    """
    signers = tuple(key.key_id for key in signed_by(envelope, trusted))
    if len(signers) < needed:
        raise mismatch(
            f"the receipt has valid signatures of {len(signers)} of {len(trusted)} trusted keys,"
            f" and {needed} must have signed"
        )
    return signers
