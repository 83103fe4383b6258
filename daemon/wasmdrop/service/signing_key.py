"""Load the key that signs receipts, if it is safe to use it here.

Producers and guests must have no way to the key. So its file must be secret and outside of every
directory that they can read or write, and this process must not be readable by others of its user.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wasmdrop.protocol.errors import MalformedError, SettingsError
from wasmdrop.service.secret_places import require_outside
from wasmdrop.settings import Settings
from wasmdrop.settings.formats import printable
from wasmdrop.system.extras import RECEIPTS
from wasmdrop.system.processes import forbid_inspection
from wasmdrop.system.secret_files import NotSecretError, read_secret

if TYPE_CHECKING:
    from wasmdrop.proof.keys import PrivateKey

VARIABLE: Final = "WASMDROP_SIGNING_KEY"

#: A key has a few hundred bytes. OpenSSL writes its parameters before some, in clear text.
_MAX_BYTES: Final = 16 * 1024


class SigningKeyError(SettingsError):
    """A signing key that must not be used. The text is one line, which ends in the advice."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(f"{VARIABLE}: {found}; {advice}")
        self.found = found
        self.advice = advice
        """What to do."""


def load_signing_key(settings: Settings) -> "PrivateKey | None":
    """Read the key; None if there is none. From then on other processes can't inspect this one.

    Raises ``SigningKeyError`` if the key can't be used or is not safe.
    """
    if settings.signing_key is None:
        return None
    path = settings.signing_key
    try:
        # Only a daemon that signs needs it: it takes 0.2 s and 13 MiB.
        from wasmdrop.proof.keys import PrivateKey  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if not RECEIPTS.is_missing(error):
            raise
        raise SigningKeyError(
            f"{printable(path)} can't be used: the package cryptography is not installed",
            RECEIPTS.install_command,
        ) from None
    forbid_inspection()
    try:
        content, way = read_secret(path, _MAX_BYTES)
        require_outside(settings, way)
        return PrivateKey.from_pem(content)
    except NotSecretError as error:
        raise _refused(path, str(error), error.advice) from None
    except MalformedError as error:
        advice = "make one with `wasmdrop key new`"
        raise _refused(path, str(error), advice) from None


def require_confinement(settings: Settings, missing: str) -> None:
    """Raise ``SigningKeyError`` if there is a key, which the ``missing`` confinement guards."""
    if settings.signing_key is not None:
        raise SigningKeyError(
            f"{printable(settings.signing_key)} must not be used where jobs can't be confined;"
            f" missing: {missing}",
            "let the kernel or the container confine them (`wasmdrop doctor`), or unset"
            f" {VARIABLE}",
        )


def _refused(path: Path, reason: str, advice: str) -> SigningKeyError:
    expected = (
        "expected an unencrypted private key in PEM (ed25519, P-256 or secp256k1) that only user"
        f" {os.geteuid()} can read"
    )
    return SigningKeyError(f"{printable(path)}: {reason}; {expected}", advice)
