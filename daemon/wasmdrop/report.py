"""What the result files and the marker say. Pure: values in, bytes out.

``result.json`` is one line whose first three keys are ``entry``, ``args`` and ``results`` or
``error``; ``result.txt`` ends in the raw value alone; the marker names every file by its digest.
"""

import codecs
import hashlib
import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final, Literal

import msgspec

from wasmdrop.job import Job
from wasmdrop.layout import OUTPUT_SUFFIX
from wasmdrop.limits import Limits
from wasmdrop.outcome import DETERMINISTIC_SEED, Code, Outcome, OutputTree

__all__ = [
    "MARKER_SCHEMA",
    "MARKER_SUFFIX",
    "MarkedFile",
    "Marker",
    "Package",
    "package",
    "parse_marker",
    "raw_value",
    "timestamp",
]

MARKER_SCHEMA: Final = "wasmdrop.marker/1"

MARKER_SUFFIX: Final = ".done"

#: Output shown in ``result.json``, in bytes of each stream; the whole is in its own file.
_SHOWN_BYTES: Final = 64 * 1024

_decoder = codecs.getincrementaldecoder("utf-8")

_RUNTIME: Final = {
    "wasmdrop": version("wasmdrop"),
    "wasmtime": version("wasmtime"),
    "platform": f"{platform.system().lower()}-{platform.machine()}",
}


#: What a deterministic job saw of the outer world.
_WORLD: Final = {"seed": DETERMINISTIC_SEED, "clock": "2000-01-01T00:00:00Z"}


class Package(msgspec.Struct, frozen=True):
    """All that a delivery puts into a slot."""

    files: dict[str, bytes]
    """The result files by suffix: ``.json``, ``.txt``, …"""
    marker: bytes
    output: OutputTree | None = None
    """What becomes ``result.output/``; where it lies it is the delivery's, which removes it."""

    @property
    def line(self) -> bytes:
        """The line for standard output, the same as ``result.json``."""
        return self.files[".json"]


class MarkedFile(msgspec.Struct, frozen=True):
    """A file as a marker tells of it."""

    sha256: str


class Marker(msgspec.Struct, frozen=True):
    """What is read back of a marker: anybody may have written it."""

    schema: Literal["wasmdrop.marker/1"]
    job: str
    code: str
    dropped_at: datetime
    files: dict[str, MarkedFile]
    input: MarkedFile | None
    module: MarkedFile | None


_marker_decoder = msgspec.json.Decoder(Marker)


def parse_marker(data: bytes) -> Marker | None:
    """Return what a marker says; None where ``data`` is none."""
    try:
        return _marker_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def package(
    job: Job,
    entry: str | None,
    args: list[Any],
    outcome: Outcome,
    limits: Limits,
    *,
    is_deterministic: bool = False,
) -> Package:
    """Return what a finished job delivers; ``entry`` and ``args`` are what was called, if known."""
    files = _result_files(entry, args, outcome, job.finished_at_ns or 0)
    return Package(
        files, _marker(job, entry, outcome, files, limits, is_deterministic), outcome.output
    )


def _result_files(
    entry: str | None, args: list[Any], outcome: Outcome, finished_at_ns: int
) -> dict[str, bytes]:
    body: dict[str, Any] = {"entry": entry, "args": args}
    if outcome.code is Code.OK:
        body["results"] = list(outcome.results or ())
    else:
        body["error"] = {"code": outcome.code, "message": outcome.message}
    if outcome.stdout is not None and outcome.stderr is not None:
        body["exit_code"] = outcome.exit_code
        for name, data in (("stdout", outcome.stdout), ("stderr", outcome.stderr)):
            is_cut = len(data) > _SHOWN_BYTES
            # A character that the cut divides is left out.
            body[name] = _decoder("replace").decode(data[:_SHOWN_BYTES], final=not is_cut)
            if is_cut:
                body[f"{name}_truncated"] = True
    files = {
        ".json": _line(body),
        ".txt": _text(outcome, finished_at_ns),
    }
    if outcome.stdout is not None and outcome.stderr is not None:
        files[".stdout"] = outcome.stdout
        files[".stderr"] = outcome.stderr
    return files


def raw_value(outcome: Outcome) -> str:
    """Return the value that a line parser wants: the last line of ``result.txt``."""
    if outcome.exit_code is not None:
        return str(outcome.exit_code)
    if outcome.code is not Code.OK:
        return "error"
    results = outcome.results or ()
    if len(results) == 1:
        value = results[0]
        # A string that can't be seen as one line is shown as JSON.
        return value if isinstance(value, str) and value.isprintable() else _compact(value)
    return _compact(list(results))


def _marker(
    job: Job,
    entry: str | None,
    outcome: Outcome,
    files: dict[str, bytes],
    limits: Limits,
    is_deterministic: bool,
) -> bytes:
    finished_ns = job.finished_at_ns or 0
    started_ns = job.started_at_ns or finished_ns
    compile_seconds = outcome.compile_seconds
    queued = (started_ns - job.dropped_at_ns) / 1e9 - compile_seconds
    body = {
        "schema": MARKER_SCHEMA,
        "job": job.id,
        "id": job.producer_id,
        "status": outcome.status,
        "code": outcome.code,
        "message": outcome.message,
        "attempt": job.attempt,
        "slot": job.slot.key,
        "entry": entry,
        "module": None
        if job.module is None
        else _file(job.module.path, job.module.sha256, job.module.size_bytes),
        "input": None
        if job.input is None
        else _file(job.input.path, job.input.sha256, job.input.size_bytes),
        "files": {
            f"{job.slot.stem}{suffix}": {
                "sha256": hashlib.sha256(data).hexdigest(),
                "bytes": len(data),
            }
            for suffix, data in files.items()
        }
        | _output_files(f"{job.slot.stem}{OUTPUT_SUFFIX}", outcome.output),
        "dropped_at": timestamp(job.dropped_at_ns),
        "started_at": timestamp(started_ns),
        "finished_at": timestamp(finished_ns),
        "seconds": {
            "queued": _seconds(queued),
            "compile": _seconds(compile_seconds),
            "run": _seconds(outcome.run_seconds),
            "total": _seconds((finished_ns - job.dropped_at_ns) / 1e9),
        },
        "limits": {
            "timeout_sec": limits.timeout_sec,
            "memory_mb": limits.memory_mb,
            "output_mb": limits.output_mb,
            "disk_mb": limits.disk_mb,
            "fuel": limits.fuel,
        },
        "deterministic": _WORLD if is_deterministic else None,
        "fuel_used": outcome.fuel_used,
        "peak_memory_bytes": outcome.peak_memory_bytes,
        "runtime": _RUNTIME,
    }
    return _line(body)


def timestamp(nanoseconds: int) -> str:
    """Return a time as RFC 3339 in UTC with microseconds."""
    moment = datetime.fromtimestamp(nanoseconds // 1000 / 1e6, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _text(outcome: Outcome, finished_at_ns: int) -> bytes:
    moment = datetime.fromtimestamp(finished_at_ns // 1_000_000_000, UTC)
    value = raw_value(outcome)
    lines = [f"timestamp: {moment:%Y-%m-%dT%H:%M:%SZ}"]
    if outcome.code is Code.OK:
        lines.append(f"result: {value}")
    else:
        first_line = outcome.message.partition("\n")[0]
        lines.append(f"error: {outcome.code}: {first_line}")
    lines.append(value)
    return _printable("\n".join(lines) + "\n")


def _output_files(name: str, output: OutputTree | None) -> dict[str, Any]:
    if output is None:
        return {}
    return {
        f"{name}/{file.path}": {"sha256": file.sha256, "bytes": file.size_bytes}
        for file in output.files
    }


def _file(path: str, sha256: str, size_bytes: int) -> dict[str, Any]:
    return {"path": path, "sha256": sha256, "bytes": size_bytes}


def _seconds(value: float) -> float:
    return round(max(0.0, value), 6)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _line(body: Any) -> bytes:
    return _printable(_compact(body) + "\n")


def _printable(text: str) -> bytes:
    """Encode; what is not UTF-8 in a name of a file is shown as a question mark."""
    return text.encode("utf-8", "replace")
