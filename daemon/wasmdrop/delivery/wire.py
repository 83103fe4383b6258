"""What the daemon and a process that delivers say to each other.

Each message is a frame: its length in four bytes, and a value of one of these types in MessagePack.
The daemon speaks to a process of its own: what it hears is not held against anything.
"""

from typing import Final

import msgspec

from wasmdrop.protocol.outcome import OutputTree
from wasmdrop.protocol.slot import FoundIn

__all__ = [
    "Abandon",
    "Answer",
    "Frames",
    "Order",
    "Placed",
    "Probe",
    "Publish",
    "Stage",
    "Warned",
    "decode_answer",
    "decode_order",
    "encode",
]

_LENGTH_BYTES: Final = 4


class Stage(msgspec.Struct, frozen=True, tag=True):
    """Write a slot's results beside their places; nobody may see them yet."""

    number: int
    directory: bytes
    found_in: FoundIn | None
    """Which directory that must be, if that matters."""
    stem: bytes
    files: dict[str, bytes]
    """By suffix."""
    marker: bytes
    line: bytes
    """What to print on standard output when all is in place."""
    output: OutputTree | None
    """Without its root, which may be no text."""
    output_root: bytes
    may_be_there: bool
    """Whether another process may have put all of it in place, and died before it said so."""


class Publish(msgspec.Struct, frozen=True, tag=True):
    """Put what was staged under this number in its places."""

    number: int


class Abandon(msgspec.Struct, frozen=True, tag=True):
    """Remove what was staged under this number."""

    number: int


class Probe(msgspec.Struct, frozen=True, tag=True):
    """Open a slot's directory and close it again; answer as if something had been placed."""

    number: int
    directory: bytes


class Placed(msgspec.Struct, frozen=True, tag=True):
    """All of it is in its places, durably; or it is not, because of this error."""

    number: int
    error: tuple[int, str, str | None] | None = None
    """Number, words, and the name that it is about."""


class Warned(msgspec.Struct, frozen=True, tag=True):
    """Something for the log."""

    event: str
    fields: dict[str, str]


Order = Stage | Publish | Abandon | Probe
Answer = Placed | Warned

_encoder: Final = msgspec.msgpack.Encoder()
_orders: "msgspec.msgpack.Decoder[Order]" = msgspec.msgpack.Decoder(Order)
_answers: "msgspec.msgpack.Decoder[Answer]" = msgspec.msgpack.Decoder(Answer)


def encode(message: Order | Answer) -> bytes:
    """Return the frame of a message."""
    body = _encoder.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body


def decode_order(body: bytes) -> Order:
    """Return what the daemon says. Raises ``msgspec.DecodeError``."""
    return _orders.decode(body)


def decode_answer(body: bytes) -> Answer:
    """Return what a process says. Raises ``msgspec.DecodeError``."""
    return _answers.decode(body)


class Frames:
    """Takes a stream apart into the bodies of its frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the bodies that are complete with ``data``."""
        self._data += data
        bodies = []
        start = 0
        while len(self._data) - start >= _LENGTH_BYTES:
            body_at = start + _LENGTH_BYTES
            end = body_at + int.from_bytes(self._data[start:body_at], "little")
            if len(self._data) < end:
                break
            bodies.append(bytes(self._data[body_at:end]))
            start = end
        del self._data[:start]
        return bodies
