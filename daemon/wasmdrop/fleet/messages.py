"""The messages of the fleet: typed and bounded, in MessagePack.

A message comes from another machine, which may have been taken over: decoding checks types and
ranges, and the code that uses a value checks its meaning.
"""

from typing import Annotated, Final, TypeVar

import msgspec

from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.runtime_versions import RuntimeVersions
from wasmdrop.protocol.text import one_line
from wasmdrop.sandbox.wire import EngineOptions

#: Largest body that travels in the message itself, in bytes. The server allows a message 1 MiB.
INLINE_BYTES: Final = 256 * 1024

#: Size of the chunks of larger bodies, in bytes.
CHUNK_BYTES: Final = 256 * 1024

#: Size limit of a message, in bytes: two bodies and the rest.
MAX_MESSAGE_BYTES: Final = 768 * 1024

#: Room for the headers of a message, in bytes.
HEADER_BYTES: Final = 4096

#: Most jobs of one revocation.
MAX_REVOKED: Final = 1000

# These become parts of subjects. A pattern ends with \Z: a newline may follow what $ matches.
_Text = Annotated[str, msgspec.Meta(max_length=4096)]
Name = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]+\\Z", min_length=1, max_length=64)]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]+\\Z", min_length=64, max_length=64)]
Ticket = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]+\\Z", min_length=32, max_length=32)]
JobId = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9-]+\\Z", min_length=1, max_length=64)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 48)]


class Blob(msgspec.Struct, frozen=True):
    """Bytes that travel in chunks of :data:`CHUNK_BYTES`, the last one shorter."""

    sha256: Digest
    size_bytes: _Count
    upload: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]*\\Z", max_length=32)] = ""
    """The name of the upload; empty for modules and calls, which have one."""


class JobMessage(msgspec.Struct, frozen=True):
    """One publication of a job: a lease on it is a lease to run this attempt."""

    daemon: Name
    job: JobId
    attempt: _Count
    generation: _Count
    """Publications of this attempt before this one, after which the job was lost or returned."""
    ticket: Ticket
    """A worker that knows it may answer. Only the receivers of the job know it."""
    module: Blob
    options: EngineOptions
    limits: Limits
    call: bytes | Blob
    """A :class:`~wasmdrop.sandbox.host.call.Call`, see :mod:`wasmdrop.fleet.bodies.call_codec`."""
    attempts: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    """Deliveries after which the job is given up: so many workers died running it."""


class Output(msgspec.Struct, frozen=True):
    """The output files of a job, see :mod:`wasmdrop.fleet.bodies.output_files`."""

    listing_bytes: _Count
    """Size of the list of files at the start of the body."""
    body: bytes | Blob


class Ran(msgspec.Struct, frozen=True, tag="ran"):
    """The job ran to an outcome."""

    outcome: bytes | Blob
    """An :class:`~wasmdrop.protocol.outcome.Outcome` without its output files, see
    :mod:`wasmdrop.fleet.bodies.outcome_codec`."""
    output: Output | None
    runtime: RuntimeVersions


class Returned(msgspec.Struct, frozen=True, tag="returned"):
    """The worker can't run the job, or stops: another one is to run it. It is not counted."""

    reason: _Text
    needs_module: bool = False
    """Whether the module's chunks are gone and must be sent again."""


class GivenUp(msgspec.Struct, frozen=True, tag="given-up"):
    """The job was delivered too often without an answer, and was not run again."""

    deliveries: _Count


class Answer(msgspec.Struct, frozen=True):
    """The answer to a job; published once under its ticket."""

    job: JobId
    attempt: _Count
    generation: _Count
    worker: Name
    content: Ran | Returned | GivenUp


class Started(msgspec.Struct, frozen=True):
    """A worker begins a job; sent once, and may be lost."""

    ticket: Ticket
    worker: Name
    delivery: _Count
    """Number of the delivery, from 1."""


class Revocation(msgspec.Struct, frozen=True):
    """A daemon has no use for jobs any more, in any attempt; may be lost, and is repeated.

    The daemon is in the subject.
    """

    jobs: Annotated[tuple[JobId, ...], msgspec.Meta(max_length=MAX_REVOKED)]


class WorkerHeartbeat(msgspec.Struct, frozen=True):
    """What a worker says of itself every few seconds; may be lost."""

    worker: Name
    pool: Name
    engine: Name
    """The class of deterministic jobs that it runs; it runs those of class ``any``, too."""
    runtime: RuntimeVersions
    protocols: tuple[int, ...]
    slots: _Count
    running: _Count
    done: _Count
    """Jobs answered since its start."""
    started_at_ns: int


class DaemonHeartbeat(msgspec.Struct, frozen=True):
    """What a daemon says of itself every few seconds; may be lost."""

    daemon: Name
    identity: str
    """Differs between two daemons with the same name, which would take each other's outcomes."""
    runtime: RuntimeVersions
    window: _Count
    unanswered: _Count
    waiting: _Count
    """Jobs that wait for room in the window."""


_encoder: Final = msgspec.msgpack.Encoder()

_Message = TypeVar("_Message", bound=msgspec.Struct)


class InvalidMessageError(Exception):
    """A message that does not decode. The text says why."""


def encode(message: msgspec.Struct) -> bytes:
    """Return a message in MessagePack."""
    return _encoder.encode(message)


def decode(data: bytes, form: type[_Message]) -> _Message:
    """Return a message. Raises ``InvalidMessageError``."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise InvalidMessageError(f"{len(data)} bytes are more than {MAX_MESSAGE_BYTES}")
    try:
        return msgspec.msgpack.decode(data, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessageError(one_line(str(error))) from None
