"""The headers of an event: CloudEvents 1.0 in the binary mode of its HTTP binding.

The body is the marker, byte by byte. See
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
"""

import re
from datetime import UTC, datetime
from typing import Final

import msgspec

from wasmdrop.jobs.journal.events import Event
from wasmdrop.protocol.marker import printable

#: The type of all events. A change of its meaning needs a new number.
EVENT_TYPE: Final = "wasmdrop.job.finished.v1"

#: Characters that the binding wants percent-encoded in a header.
_ENCODED: Final = re.compile(rb"[^\x21\x23\x24\x26-\x7e]")

#: With a longer header, a server may refuse the request: many accept 8 KiB of headers. The body has
#: the slot in any case.
_MAX_SUBJECT_BYTES: Final = 2048


class MarkedEnd(msgspec.Struct, frozen=True):
    """The part of a marker that describes the end of its job."""

    status: str
    code: str
    finished_at: datetime


_decoder: Final = msgspec.json.Decoder(MarkedEnd)


def read_end(marker: bytes) -> MarkedEnd:
    """Return how the job of a marker ended. Raises ``msgspec.DecodeError``."""
    return _decoder.decode(marker)


def headers_of(event: Event, source: str) -> dict[str, str]:
    """Return the headers of an event; ``source`` is a URI reference that identifies the daemon."""
    finished_at = read_end(event.marker).finished_at.astimezone(UTC)
    headers = {
        "Content-Type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": event.job_id,
        "ce-source": source,
        "ce-type": EVENT_TYPE,
        "ce-time": f"{finished_at:%Y-%m-%dT%H:%M:%S.%f}Z",
    }
    subject = encode_header(event.slot)
    if len(subject) <= _MAX_SUBJECT_BYTES:
        headers["ce-subject"] = subject
    return headers


def encode_header(text: str) -> str:
    """Return ``text`` as the value of a header: ASCII without spaces and control characters."""
    return _ENCODED.sub(lambda found: b"%%%02X" % ord(found[0]), printable(text)).decode()
