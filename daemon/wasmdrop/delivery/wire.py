"""The wire format between the daemon and its delivery workers.

Each message is a frame: a length of four bytes, little-endian, and a value of one of these types in
MessagePack. Both sides are the daemon's own code and trust each other.
"""

from typing import Final

import msgspec

from wasmdrop.protocol.outcome import OutputTree
from wasmdrop.protocol.slot import DirectoryIdentity

_LENGTH_BYTES: Final = 4


class ResultPackage(msgspec.Struct, frozen=True):
    """Everything that a delivery puts into a slot."""

    files: dict[str, bytes]
    """The result files by suffix: ``.json``, ``.txt``, …"""
    marker: bytes
    output: OutputTree | None = None
    """The source of ``result.output/``. The delivery owns and removes it."""

    @property
    def line(self) -> bytes:
        """The result line for standard output, the same as ``result.json``."""
        return self.files[".json"]

    @property
    def size_bytes(self) -> int:
        """The size of the result files and the marker, without the output files."""
        return len(self.marker) + sum(map(len, self.files.values()))


class Stage(msgspec.Struct, frozen=True, tag=True):
    """Request: write a slot's results under temporary names."""

    number: int
    directory: bytes
    found_in: DirectoryIdentity | None
    """The directory that it must be, if that matters."""
    stem: bytes
    package: ResultPackage
    """The output has no root, which may not be text."""
    output_root: bytes
    may_be_published: bool
    """Whether another worker may have published it and died before it reported that."""


class Publish(msgspec.Struct, frozen=True, tag=True):
    """Request: move the results staged under this number into place."""

    number: int


class Abandon(msgspec.Struct, frozen=True, tag=True):
    """Request: remove the results staged under this number."""

    number: int


class Probe(msgspec.Struct, frozen=True, tag=True):
    """Request: open a slot's directory and close it again."""

    number: int
    directory: bytes


class Finished(msgspec.Struct, frozen=True, tag=True):
    """Report: the results are durably in place, or the request failed with this error."""

    number: int
    error: tuple[int, str, str | None] | None = None
    """Errno, text and file name."""


class LogEvent(msgspec.Struct, frozen=True, tag=True):
    """Report: a warning for the daemon's log."""

    event: str
    fields: dict[str, str]


DeliveryRequest = Stage | Publish | Abandon | Probe
DeliveryReport = Finished | LogEvent

_encoder: Final = msgspec.msgpack.Encoder()
_request_decoder: Final[msgspec.msgpack.Decoder[DeliveryRequest]] = msgspec.msgpack.Decoder(
    DeliveryRequest
)
_report_decoder: Final[msgspec.msgpack.Decoder[DeliveryReport]] = msgspec.msgpack.Decoder(
    DeliveryReport
)


def encode(message: DeliveryRequest | DeliveryReport) -> bytes:
    """Return the frame of a message."""
    body = _encoder.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body


def decode_request(body: bytes) -> DeliveryRequest:
    """Decode the body of a frame from the daemon. Raises ``msgspec.DecodeError``."""
    return _request_decoder.decode(body)


def decode_report(body: bytes) -> DeliveryReport:
    """Decode the body of a frame from a worker. Raises ``msgspec.DecodeError``."""
    return _report_decoder.decode(body)


class FrameDecoder:
    """Splits a stream into the bodies of its frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the bodies that ``data`` completes."""
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
