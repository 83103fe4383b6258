"""Signs requests as https://www.standardwebhooks.com describes, with HMAC-SHA256.

The signature covers the id, the time and the body of a request: a receiver can tell forged and
replayed requests from true ones.
"""

import base64
import binascii
import hashlib
import hmac
from typing import Final

from wasmdrop.protocol.errors import MalformedError

_PREFIX: Final = b"whsec_"

#: A shorter secret could be guessed. The specification wants 24 to 64 bytes for new ones.
_LEAST_BYTES: Final = 16


def parse_secret(content: bytes) -> bytes:
    """Return the key in a secret file: ``whsec_`` and Base64, or other text as it is.

    Raises ``MalformedError``, whose text does not have the secret.
    """
    text = content.strip()
    if text.startswith(_PREFIX):
        try:
            encoded = text.removeprefix(_PREFIX).rstrip(b"=")
            key = base64.b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True)
        except binascii.Error:
            raise MalformedError("expected Base64 after whsec_") from None
    else:
        key = text
    if len(key) < _LEAST_BYTES:
        raise MalformedError(f"expected a secret of {_LEAST_BYTES} bytes or more")
    return key


def sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of the header ``webhook-signature``; ``timestamp`` in seconds since 1970."""
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    digest = hmac.digest(key, signed, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"
