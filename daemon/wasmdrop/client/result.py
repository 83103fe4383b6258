"""The result of a job, from the content of its files."""

from typing import Any

import msgspec

from wasmdrop.protocol import strict_json
from wasmdrop.protocol.errors import RefusedError, StorageError
from wasmdrop.protocol.marker import Marker
from wasmdrop.protocol.outcome import Code, Status
from wasmdrop.protocol.slot import OUTPUT_SUFFIX
from wasmdrop.protocol.text import one_line


class ResultError(StorageError):
    """A job ended, but its result can't be used: too large, forged or unreadable.

    The text is one line, safe for a terminal, and begins with the slot.
    """


class TornResultError(ResultError):
    """The result files do not agree with the sizes and digests in their marker."""


class Result(msgspec.Struct, frozen=True):
    """The result of a job."""

    status: Status
    code: Code
    message: str
    """Empty if the job succeeded."""
    results: tuple[Any, ...] | None
    """The returned values; None if the job failed."""
    exit_code: int | None
    """None if the job did not exit: a function that returned, or a command that was stopped."""
    stdout: bytes | None
    """The whole standard output of a WASI program; None for a function, or if it never ran."""
    stderr: bytes | None
    output: dict[str, bytes]
    """Output files of a WASI program, by path below its directory."""
    raw: str
    """The last line of ``result.txt``, which is only the value."""
    line: bytes
    """The line in ``result.json``, without its newline."""
    text: bytes
    """The content of ``result.txt``."""
    receipt: bytes | None
    """The content of ``result.receipt``; None if the daemon has signed none."""
    marker: dict[str, Any]
    """The whole completion marker."""


class _ResultBody(msgspec.Struct, frozen=True):
    """The parts of ``result.json`` that a result uses."""

    results: tuple[Any, ...] | None = None
    exit_code: int | None = None
    stdout: str | None = None
    stderr: str | None = None


def result_of(slot: str, stem: str, marker: Marker, data: bytes, files: dict[str, bytes]) -> Result:
    """Return the result of a slot whose files have names that begin with ``stem``.

    ``data`` is the content of the marker, ``files`` that of the others, with the digests in the
    marker. Raises ``ResultError`` if they are not what a daemon writes.
    """
    line = files[f"{stem}.json"].removesuffix(b"\n")
    if b"\n" in line or b"\r" in line:
        raise unfit(slot, f"{stem}.json is more than one line")
    try:
        # Not msgspec's JSON, which reads no integers of more than 64 bits.
        body = msgspec.convert(strict_json.parse(line), _ResultBody)
        whole_marker = msgspec.convert(strict_json.parse(data), dict[str, Any])
        raw = files[f"{stem}.txt"].decode().rstrip("\n").rpartition("\n")[2]
    except (RefusedError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise unfit(slot, f"not what a daemon writes: {error}") from error
    return Result(
        status=marker.status,
        code=marker.code,
        message=marker.message,
        results=body.results,
        exit_code=body.exit_code,
        stdout=_output(files.get(f"{stem}.stdout"), body.stdout),
        stderr=_output(files.get(f"{stem}.stderr"), body.stderr),
        output={
            name.removeprefix(f"{stem}{OUTPUT_SUFFIX}/"): content
            for name, content in files.items()
            if name.startswith(f"{stem}{OUTPUT_SUFFIX}/")
        },
        raw=raw,
        line=line,
        text=files[f"{stem}.txt"],
        receipt=files.get(f"{stem}.receipt"),
        marker=whole_marker,
    )


def unfit(slot: str, reason: str) -> ResultError:
    """Return the error of a result that can't be used."""
    return ResultError(one_line(f"{slot}: {reason}"))


def _output(file: bytes | None, shown: str | None) -> bytes | None:
    """Return the content of a stream: an empty one has no file."""
    return b"" if file is None and shown == "" else file
