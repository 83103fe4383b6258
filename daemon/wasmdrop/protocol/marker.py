"""The completion marker: what it says, how it is written, and how it is read back.

The one definition of the marker: the daemon writes values of it, reads them back as such, and the
document that `wasmdrop schema marker` prints is made from it.
"""

import contextlib
import json
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.outcome import Code, Status

__all__ = [
    "MARKER_SCHEMA",
    "DeterministicEnvironment",
    "FileIdentity",
    "MarkedFile",
    "MarkedInput",
    "MarkedModule",
    "Marker",
    "RuntimeVersions",
    "Seconds",
    "compact",
    "encode_marker",
    "moment",
    "parse_marker",
    "printable",
    "timestamp",
]

MARKER_SCHEMA: Final = "wasmdrop.marker/1"

Digest: TypeAlias = Annotated[
    str, msgspec.Meta(pattern="^[0-9a-f]{64}$", description="SHA-256 in hex.")
]
Moment: TypeAlias = Annotated[
    datetime, msgspec.Meta(tz=True, description="RFC 3339, in UTC, with microseconds.")
]
_Duration: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]


class MarkedFile(msgspec.Struct, frozen=True):
    """A result file."""

    sha256: Digest
    bytes: _Count


class MarkedModule(msgspec.Struct, frozen=True):
    """The module, as it was when it was read."""

    path: str
    sha256: Digest
    bytes: _Count


class FileIdentity(msgspec.Struct, frozen=True):
    """What tells a file from others without its content (stat(2))."""

    mtime_ns: Annotated[int, msgspec.Meta(description="Nanoseconds since 1970-01-01 UTC.")]
    inode: _Count
    device: _Count


class MarkedInput(msgspec.Struct, frozen=True, omit_defaults=True):
    """The input, as it was when it was read or refused."""

    path: str
    sha256: Annotated[
        Digest | None,
        msgspec.Meta(description="null if the daemon could not read the file; then see `file`."),
    ]
    bytes: Annotated[_Count | None, msgspec.Meta(description="null if it is no regular file.")]
    file: Annotated[
        FileIdentity | None,
        msgspec.Meta(description="The file at `path`, or the link there, if it has no digest."),
    ] = None


class Seconds(msgspec.Struct, frozen=True):
    """Where the time from drop to end went."""

    queued: _Duration
    compile: _Duration
    run: _Duration
    total: _Duration
    cpu: Annotated[
        _Duration | None,
        msgspec.Meta(
            description="Processor time of the run, with what WASI did for it; of a job that was"
            " killed, of its whole process; null if that is not known or it never ran."
        ),
    ] = None


class DeterministicEnvironment(msgspec.Struct, frozen=True):
    """What a deterministic job saw of the outer world."""

    seed: int
    clock: str
    """Where its clock started."""


class RuntimeVersions(msgspec.Struct, frozen=True):
    """Versions of what ran the job."""

    wasmdrop: str
    wasmtime: str
    platform: str


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """The completion marker: its presence says that the files it names are complete and final.

    Wait for one whose ``input.sha256`` is that of the dropped file. If the daemon could not read
    the file, that is null: then wait for one whose ``input.file.mtime_ns`` is that of the dropped
    file. Later versions of wasmdrop may add keys.
    """

    schema: Literal["wasmdrop.marker/1"]
    job: str
    id: Annotated[
        str | None, msgspec.Meta(description="The producer's own name for the job, if any.")
    ]
    status: Status
    code: Code
    message: str
    attempt: _Count
    slot: Annotated[
        str, msgspec.Meta(description="The path of its input below the shared directory.")
    ]
    entry: Annotated[
        str | None, msgspec.Meta(description="What was called; null where nothing was.")
    ]
    module: MarkedModule | None
    input: MarkedInput | None
    files: Annotated[
        dict[str, MarkedFile],
        msgspec.Meta(description="Every result file by its path beside the marker."),
    ]
    dropped_at: Moment
    started_at: Moment
    finished_at: Moment
    seconds: Seconds
    limits: Limits
    deterministic: DeterministicEnvironment | None = None
    fuel_used: _Count | None = None
    peak_memory_bytes: Annotated[
        _Count | None,
        msgspec.Meta(
            description="Size of all the guest's memories at the end, its heap of structs and"
            " exceptions included, which is their peak; null if the job was killed or never ran."
        ),
    ] = None
    runtime: RuntimeVersions


_marker_decoder = msgspec.json.Decoder(Marker)
_marker_encoder = msgspec.json.Encoder()


def parse_marker(data: bytes) -> Marker | None:
    """Return what a marker says, which anybody may have written; None where ``data`` is none."""
    try:
        return _marker_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def encode_marker(marker: Marker) -> bytes:
    """Return the content of the marker's file: one line."""
    # msgspec's JSON is by far the faster. It leaves out microseconds that are none, and refuses
    # names that are not UTF-8, which the standard library's takes.
    if all(each.microsecond for each in (marker.dropped_at, marker.started_at, marker.finished_at)):
        with contextlib.suppress(UnicodeEncodeError):
            return _marker_encoder.encode(marker) + b"\n"
    body = msgspec.to_builtins(marker, builtin_types=(datetime,))
    return printable(compact(body) + "\n")


def moment(nanoseconds: int) -> datetime:
    """Return a time since 1970-01-01 UTC, to the microsecond."""
    return datetime.fromtimestamp(nanoseconds // 1000 / 1e6, UTC)


def timestamp(nanoseconds: int) -> str:
    """Return a time as RFC 3339 in UTC with microseconds."""
    return _rfc3339(moment(nanoseconds))


def compact(value: Any) -> str:
    """Return ``value`` as JSON without spaces; times as RFC 3339."""
    return _compact_encoder.encode(value)


def printable(text: str) -> bytes:
    """Encode; what is not UTF-8 in a name of a file is shown as a question mark."""
    return text.encode("utf-8", "replace")


def _rfc3339(value: datetime) -> str:
    return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


#: Made once: ``json.dumps`` makes one for each call.
_compact_encoder: Final = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_rfc3339
)
