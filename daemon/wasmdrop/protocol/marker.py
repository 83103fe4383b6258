"""The completion marker: its definition, and how to write, read and check one.

The daemon writes and reads values of these types, and ``wasmdrop schema marker`` is generated from
them.
"""

import contextlib
import json
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from wasmdrop.protocol.limits import MAX_OUTPUT_ENTRIES, Limits
from wasmdrop.protocol.outcome import Code, Status
from wasmdrop.protocol.runtime_versions import RuntimeVersions
from wasmdrop.protocol.slot import RESULT_SUFFIXES

MARKER_SCHEMA: Final = "wasmdrop.marker/1"

#: Largest marker to read. One that names as many files as a job may leave has up to 27 MB, if their
#: names are long and consist of characters that JSON escapes.
MAX_MARKER_BYTES: Final = 32 * 1024 * 1024

#: Files of one marker: those that a job may leave, and its result files.
_MAX_FILES: Final = MAX_OUTPUT_ENTRIES + len(RESULT_SUFFIXES)

#: Components of a file's name in a marker. A job can make fewer levels of directories.
_MAX_COMPONENTS: Final = 40

Digest: TypeAlias = Annotated[
    # The length, because $ in a pattern of Python also matches before a newline.
    str,
    msgspec.Meta(pattern="^[0-9a-f]{64}$", max_length=64, description="SHA-256 in hex."),
]
ContentId: TypeAlias = Annotated[
    str,
    msgspec.Meta(
        pattern="^b[a-z2-7]{58}$",
        max_length=59,
        description="CID by the profile unixfs-v1-2025 of IPIP-0499.",
    ),
]
Moment: TypeAlias = Annotated[
    datetime, msgspec.Meta(tz=True, description="RFC 3339, in UTC, with microseconds.")
]
_Duration: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]


class MarkedFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A result file."""

    sha256: Digest
    bytes: _Count
    cid: ContentId | None = None


class MarkedModule(msgspec.Struct, frozen=True, omit_defaults=True):
    """The module as it was read."""

    path: str
    sha256: Digest
    bytes: _Count
    cid: ContentId | None = None


class FileIdentity(msgspec.Struct, frozen=True):
    """Identifies a file without its content (stat(2))."""

    mtime_ns: Annotated[int, msgspec.Meta(description="Nanoseconds since 1970-01-01 UTC.")]
    inode: _Count
    device: _Count


class MarkedInput(msgspec.Struct, frozen=True, omit_defaults=True):
    """The input as it was read or refused."""

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
    cid: ContentId | None = None


class MarkedOutput(msgspec.Struct, frozen=True):
    """The directory with the output files."""

    cid: ContentId | None


class Seconds(msgspec.Struct, frozen=True):
    """The time from drop to end, by phase."""

    queued: _Duration
    compile: _Duration
    run: _Duration
    total: _Duration
    cpu: Annotated[
        _Duration | None,
        msgspec.Meta(
            description="Processor time of the run, including its WASI calls; that of the whole"
            " process if the job was killed; null if unknown or if the job never ran."
        ),
    ] = None


class DeterministicEnvironment(msgspec.Struct, frozen=True):
    """The environment of a deterministic job."""

    seed: int
    clock: str
    """The time at which its clock started."""
    profile: Annotated[
        int | None,
        msgspec.Meta(
            description="Number of the rules for clock, seed, file metadata and result files;"
            " unknown if it is absent."
        ),
    ] = None


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """The completion marker. If it is present, the files that it names are complete and final.

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
        str | None, msgspec.Meta(description="The function that was called; null if none was.")
    ]
    module: MarkedModule | None
    input: MarkedInput | None
    files: Annotated[
        dict[str, MarkedFile],
        msgspec.Meta(description="Every result file by its path beside the marker."),
    ]
    output: Annotated[
        MarkedOutput | None,
        msgspec.Meta(description="The output directory; null if there is none."),
    ] = None
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
    worker: Annotated[
        str | None,
        msgspec.Meta(description="The worker of the fleet that ran the job; null without one."),
    ] = None

    def is_of_input(self, sha256: str | None, size_bytes: int | None, mtime_ns: int) -> bool:
        """Whether it is the marker of an input with this digest, size and time of modification.

        The digest decides, if the daemon could read the input. Device and inode numbers are not
        compared: they differ between mounts of the same directory.
        """
        if self.input is None or self.input.sha256 is not None:
            return self.input is not None and self.input.sha256 == sha256
        file = self.input.file
        return file is not None and (self.input.bytes, file.mtime_ns) == (size_bytes, mtime_ns)


_marker_decoder = msgspec.json.Decoder(Marker)
_marker_encoder = msgspec.json.Encoder()


def parse_marker(data: bytes) -> Marker | None:
    """Parse a marker; return None if ``data`` is not a valid one."""
    try:
        return _marker_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def parse_slot_marker(data: bytes, stem: str) -> Marker | None:
    """Parse the marker of the slot with this stem, which any user may have forged.

    Return None if it is not valid, lacks the files that every job writes, or names too many files
    or files outside the slot.
    """
    marker = parse_marker(data)
    if marker is None or len(marker.files) > _MAX_FILES:
        return None
    is_inside = all(name.startswith(f"{stem}.") and _is_plain(name) for name in marker.files)
    is_complete = {f"{stem}.json", f"{stem}.txt"} <= marker.files.keys()
    return marker if is_inside and is_complete else None


def _is_plain(name: str) -> bool:
    parts = name.split("/")
    return "\0" not in name and len(parts) <= _MAX_COMPONENTS and not {"", ".", ".."} & set(parts)


def encode_marker(marker: Marker) -> bytes:
    """Return the content of the marker file: one line."""
    # msgspec is much faster than the standard library, but it omits microseconds that are zero and
    # rejects names that are not UTF-8.
    if all(each.microsecond for each in (marker.dropped_at, marker.started_at, marker.finished_at)):
        with contextlib.suppress(UnicodeEncodeError):
            return _marker_encoder.encode(marker) + b"\n"
    body = msgspec.to_builtins(marker, builtin_types=(datetime,))
    return printable(compact(body) + "\n")


def moment(nanoseconds: int) -> datetime:
    """Return a time since the epoch as a datetime in UTC, to the microsecond."""
    return datetime.fromtimestamp(nanoseconds // 1000 / 1e6, UTC)


def timestamp(nanoseconds: int) -> str:
    """Return a time since the epoch as RFC 3339, in UTC with microseconds."""
    return _rfc3339(moment(nanoseconds))


def compact(value: Any) -> str:
    """Return ``value`` as JSON without spaces, times as RFC 3339."""
    return _compact_encoder.encode(value)


def printable(text: str) -> bytes:
    """Encode as UTF-8; bytes of file names that are not UTF-8 become question marks."""
    return text.encode("utf-8", "replace")


def _rfc3339(value: datetime) -> str:
    return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


#: One encoder for all calls: ``json.dumps`` makes a new one each time.
_compact_encoder: Final = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_rfc3339
)
