"""Encode result files and the marker: values in, bytes out.

``result.json`` is one line whose first three keys are ``entry``, ``args`` and ``results`` or
``error``; ``result.txt`` ends in the raw value alone; the marker names every file by its digest.
"""

import codecs
import functools
import hashlib
from datetime import UTC, datetime
from typing import Any, Final

from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.jobs.job import Job
from wasmdrop.jobs.receipts import encode_receipt
from wasmdrop.proof.envelope import Signer
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.marker import (
    MARKER_SCHEMA,
    DeterministicEnvironment,
    FileIdentity,
    MarkedFile,
    MarkedInput,
    MarkedModule,
    MarkedOutput,
    Marker,
    Seconds,
    compact,
    encode_marker,
    moment,
    printable,
)
from wasmdrop.protocol.outcome import (
    DETERMINISTIC_CLOCK,
    DETERMINISTIC_CLOCK_NS,
    DETERMINISTIC_PROFILE,
    DETERMINISTIC_SEED,
    Code,
    Outcome,
    OutputTree,
)
from wasmdrop.protocol.runtime_versions import RuntimeVersions, own_versions
from wasmdrop.protocol.slot import OUTPUT_SUFFIX, RECEIPT_SUFFIX, InputFile, PinnedModule
from wasmdrop.unixfs.file_digest import cid_of, large_cid

#: Output of each stream in ``result.json``, in bytes; all of it is in a file of its own.
_SHOWN_BYTES: Final = 64 * 1024

_decoder = codecs.getincrementaldecoder("utf-8")

_WORLD: Final = DeterministicEnvironment(
    DETERMINISTIC_SEED, DETERMINISTIC_CLOCK, DETERMINISTIC_PROFILE
)


def package(
    job: Job,
    entry: str | None,
    args: list[Any],
    outcome: Outcome,
    limits: Limits,
    module_cid: str | None = None,
    *,
    is_deterministic: bool = False,
    signer: Signer | None = None,
) -> ResultPackage:
    """Return the results of a finished job.

    ``entry`` and ``args`` are those called, if known; ``module_cid`` is the content id of the job's
    module. If there is a ``signer``, a deterministic job has a receipt.
    """
    timestamp_ns = DETERMINISTIC_CLOCK_NS if is_deterministic else job.finished_at_ns or 0
    files = encode_result_files(entry, args, outcome, timestamp_ns)
    module, given = _module(job.module, module_cid), _input(job.input)
    marked = {suffix: mark_file(data) for suffix, data in files.items()}
    if is_deterministic and signer is not None:
        receipt = encode_receipt(
            *(marked, module, given, entry, args, limits, _runtime_of(outcome), outcome), signer
        )
        if receipt is not None:
            files[RECEIPT_SUFFIX] = receipt
            marked[RECEIPT_SUFFIX] = mark_file(receipt)
    marker = _marker(job, entry, outcome, module, given, marked, limits, is_deterministic)
    return ResultPackage(files, marker, outcome.output)


def encode_result_files(
    entry: str | None, args: list[Any], outcome: Outcome, timestamp_ns: int
) -> dict[str, bytes]:
    """Return the content of each result file by its suffix, such as ``.json``.

    ``timestamp_ns`` is the time that ``result.txt`` gives, in nanoseconds since 1970-01-01 UTC:
    when the job ended, but for a deterministic job the start of its clock. Then the files depend on
    nothing else.
    """
    body: dict[str, Any] = {"entry": entry, "args": args}
    if outcome.code is Code.OK:
        body["results"] = list(outcome.results or ())
    else:
        body["error"] = {"code": outcome.code, "message": outcome.message}
    if outcome.stdout is not None and outcome.stderr is not None:
        if outcome.is_command or outcome.exit_code is not None:
            body["exit_code"] = outcome.exit_code
        for name, data in (("stdout", outcome.stdout), ("stderr", outcome.stderr)):
            is_cut = len(data) > _SHOWN_BYTES
            # A character that the limit divides is left out.
            body[name] = _decoder("replace").decode(data[:_SHOWN_BYTES], final=not is_cut)
            if is_cut:
                body[f"{name}_truncated"] = True
    files = {
        ".json": printable(compact(body) + "\n"),
        ".txt": _text(outcome, timestamp_ns),
    }
    streams = ((".stdout", outcome.stdout), (".stderr", outcome.stderr))
    return files | {
        suffix: data
        for suffix, data in streams
        if data is not None and (data or outcome.is_command)
    }


def mark_file(data: bytes) -> MarkedFile:
    """Return the entry of the marker for a result file with this content."""
    sha256 = hashlib.sha256(data).hexdigest()
    return MarkedFile(sha256, len(data), cid_of(sha256, len(data), large_cid(data)))


def raw_value(outcome: Outcome) -> str:
    """Return the last line of ``result.txt``, for parsers that read one line."""
    if outcome.exit_code is not None:
        return str(outcome.exit_code)
    if outcome.code is not Code.OK:
        return "error"
    results = outcome.results or ()
    if len(results) == 1:
        value = results[0]
        # A string that is not one printable line is shown as JSON.
        return value if isinstance(value, str) and value.isprintable() else compact(value)
    return compact(list(results))


def _marker(
    job: Job,
    entry: str | None,
    outcome: Outcome,
    module: MarkedModule | None,
    given: MarkedInput | None,
    files: dict[str, MarkedFile],
    limits: Limits,
    is_deterministic: bool,
) -> bytes:
    finished_ns = job.finished_at_ns or 0
    started_ns = job.started_at_ns or finished_ns
    compile_seconds = outcome.compile_seconds
    queued = (started_ns - job.dropped_at_ns) / 1e9 - compile_seconds
    output = outcome.output
    marker = Marker(
        schema=MARKER_SCHEMA,
        job=job.id,
        id=job.producer_id,
        status=outcome.status,
        code=outcome.code,
        message=outcome.message,
        attempt=job.attempt,
        slot=job.slot.key,
        entry=entry,
        module=module,
        input=given,
        files={f"{job.slot.stem}{suffix}": file for suffix, file in files.items()}
        | _output_files(f"{job.slot.stem}{OUTPUT_SUFFIX}", output),
        output=None if output is None else MarkedOutput(output.cid),
        dropped_at=moment(job.dropped_at_ns),
        started_at=moment(started_ns),
        finished_at=moment(finished_ns),
        seconds=Seconds(
            queued=_seconds(queued),
            compile=_seconds(compile_seconds),
            run=_seconds(outcome.run_seconds),
            total=_seconds((finished_ns - job.dropped_at_ns) / 1e9),
            cpu=None if outcome.cpu_seconds is None else _seconds(outcome.cpu_seconds),
        ),
        limits=limits,
        deterministic=_WORLD if is_deterministic else None,
        fuel_used=outcome.fuel_used,
        peak_memory_bytes=outcome.peak_memory_bytes,
        runtime=_runtime_of(outcome),
        worker=outcome.worker,
    )
    return encode_marker(marker)


def _runtime_of(outcome: Outcome) -> RuntimeVersions:
    return outcome.runtime or own_versions()


def _text(outcome: Outcome, timestamp_ns: int) -> bytes:
    value = raw_value(outcome)
    lines = [f"timestamp: {_second(timestamp_ns // 1_000_000_000)}"]
    if outcome.code is Code.OK:
        lines.append(f"result: {value}")
    else:
        first_line = outcome.message.partition("\n")[0]
        lines.append(f"error: {outcome.code}: {first_line}")
    lines.append(value)
    return printable("\n".join(lines) + "\n")


@functools.lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _output_files(name: str, output: OutputTree | None) -> dict[str, MarkedFile]:
    if output is None:
        return {}
    return {
        f"{name}/{file.path}": MarkedFile(
            file.sha256, file.size_bytes, cid_of(file.sha256, file.size_bytes, file.cid)
        )
        for file in output.files
    }


def _module(module: PinnedModule | None, cid: str | None) -> MarkedModule | None:
    if module is None:
        return None
    return MarkedModule(module.path, module.sha256, module.size_bytes, cid)


def _input(found: InputFile | None) -> MarkedInput | None:
    if found is None:
        return None
    identity = None
    if (version := found.version) is not None:
        identity = FileIdentity(version.mtime_ns, version.inode, version.device)
    cid = None
    if found.sha256 is not None and found.size_bytes is not None:
        cid = cid_of(found.sha256, found.size_bytes, found.cid)
    return MarkedInput(found.path, found.sha256, found.size_bytes, identity, cid)


def _seconds(value: float) -> float:
    return round(max(0.0, value), 6)
