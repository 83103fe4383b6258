"""The report of a native zygote's child, as a report of any child.

The C program sends numbers and the texts of wasmtime; the daemon puts them into words.
"""

import math
import struct
from typing import Final

import msgspec

from wasmdrop.protocol.errors import SandboxError
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import bounded_text
from wasmdrop.sandbox.failures import (
    error_refusal,
    may_lack_memory,
    refused_growth,
    trap_refusal,
    with_growth_reason,
)
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.native_wire import NativeReport, Result, decode_report
from wasmdrop.sandbox.wire import Preparation, RunReport

OUTPUT_LIMIT_MESSAGE: Final = "wrote more than %d bytes of output"


def decode_native_report(data: bytes, call: Call, preparation: Preparation) -> RunReport:
    """Return the report of a call. Raise ``SandboxError`` if it does not decode."""
    native = _decode(data)
    report = msgspec.structs.replace(
        _report_of(native, call, preparation),
        memory_bytes=native.memory_bytes,
        fuel_used=native.fuel_used,
        run_seconds=native.run_seconds if math.isfinite(native.run_seconds) else 0.0,
        cpu_seconds=native.cpu_seconds if math.isfinite(native.cpu_seconds) else 0.0,
    )
    if not may_lack_memory(report):
        return report
    refused, is_by_limit = refused_growth(
        preparation, native.refused_bytes, native.refused_elements
    )
    return with_growth_reason(report, refused, is_by_limit=is_by_limit)


def is_ready(data: bytes) -> bool:
    """Whether a zygote reports that it is ready, and not that its module cannot be prepared.

    Raise ``SandboxError`` if it reports anything else.
    """
    report = _decode(data)
    if report.result is Result.INTERNAL:
        raise SandboxError(bounded_text(report.message))
    return report.result is Result.RETURNED


def _decode(data: bytes) -> NativeReport:
    try:
        return decode_report(data)
    except (ValueError, struct.error) as error:
        raise SandboxError(f"a child's report does not decode: {error}") from None


def _report_of(native: NativeReport, call: Call, preparation: Preparation) -> RunReport:
    match native.result:
        case Result.RETURNED:
            return RunReport(Code.OK, "", native.values, 0 if call.is_command else None)
        case Result.EXITED:
            if native.exit_code == 0 and call.is_command:
                return RunReport(Code.OK, exit_code=0)
            message = f"the program exited with code {native.exit_code}"
            return RunReport(Code.EXIT, message, exit_code=native.exit_code)
        case Result.TRAPPED:
            refusal = trap_refusal(native.trap, native.message, native.frames, native.frame_count)
        case Result.FAILED:
            refusal = error_refusal(native.message)
        case Result.OUTPUT_LIMIT:
            message = OUTPUT_LIMIT_MESSAGE % preparation.output_bytes
            return RunReport(Code.OUTPUT_LIMIT, message)
        case Result.NO_ENTRY:
            message = f"the module exports no function {call.entry!r}"
            return RunReport(Code.ENTRY_NOT_FOUND, message)
        case Result.STALE_CODE | Result.INTERNAL:
            return RunReport(Code.INTERNAL, native.message)
    return RunReport(refusal.code, refusal.message)
