"""Keys, statements and envelopes for tests of receipts."""

import base64
import json
from typing import Any, Final

from wasmdrop.proof.envelope import Envelope, sign_payload
from wasmdrop.proof.keys import KeyKind, PrivateKey
from wasmdrop.proof.statement import Engine, Resource, encode_statement, statement_of
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.outcome import Code, Outcome

CID: Final = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
DIRECTORY_CID: Final = "bafybeiatwgvu43eohbv7lhfmz4iw4bgohs77oteulqeem5m7gyl27fb7iq"


def resource(digit: str = "a") -> Resource:
    """Return a file with a digest of this digit."""
    return Resource.of(digit * 64, CID)


def a_payload(outcome: Outcome | None = None, **changes: Any) -> bytes:
    """Return the payload of a receipt, with changed parts."""
    parts: dict[str, Any] = {
        "files": {".json": resource("1"), ".txt": resource("2")},
        "output_cid": None,
        "module": resource("3"),
        "given": resource("4"),
        "entry": "fib",
        "args": (12,),
        "limits": Limits(),
        "engine": Engine(wasmdrop="0.1.0", wasmtime="50.0.1"),
        "outcome": outcome or Outcome(code=Code.OK, results=(144,), fuel_used=212),
    }
    return encode_statement(statement_of(**(parts | changes)))


def an_envelope(payload: bytes | None = None, kind: KeyKind = KeyKind.ED25519) -> Envelope:
    """Return an envelope that a new key has signed."""
    return sign_payload(payload or a_payload(), PrivateKey.generate(kind))


def statement_in(receipt: bytes) -> Any:
    """Return the statement of a receipt as a plain value."""
    return json.loads(base64.b64decode(json.loads(receipt)["payload"]))


def edited(receipt: bytes, **changes: Any) -> bytes:
    """Return an envelope with other keys."""
    return json.dumps(json.loads(receipt) | changes).encode()
