"""Reports in the format of the native program."""

import struct

from wasmdrop.sandbox.native_wire import REPORT, Result
from wasmdrop.sandbox.wire import FRAME


def report_frame(
    *values: int,
    result: int = Result.RETURNED,
    trap: int = -1,
    exit_code: int = 0,
    message: bytes = b"",
    numbers: tuple[float, float, int, int, int, int] = (0.0, 0.0, -1, -1, 0, 0),
    frames: bytes = bytes(4),
) -> bytes:
    """Return a report in the format of the native program."""
    body = REPORT.pack(result, trap, exit_code, len(values), *numbers)
    body += struct.pack(f"<{len(values)}Q", *values)
    body += struct.pack("<I", len(message)) + message + frames
    return FRAME.pack(0, len(body)) + body
