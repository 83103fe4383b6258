"""Check that the daemon would accept the key that signs receipts."""

from typing import Final

from wasmdrop.service.doctor.finding import Finding, ok, problem
from wasmdrop.service.signing_key import SigningKeyError, load_signing_key
from wasmdrop.settings import Settings

_AREA: Final = "receipts"
_CHECK: Final = "signing key"


def examine(settings: Settings) -> list[Finding]:
    """Load the key as the daemon does; there is nothing to check without one."""
    try:
        key = load_signing_key(settings)
    except SigningKeyError as error:
        return [problem(_AREA, _CHECK, error.found, error.advice)]
    if key is None:
        return []
    return [ok(_AREA, _CHECK, f"{settings.signing_key}: {key.kind}, key id {key.key_id}")]
