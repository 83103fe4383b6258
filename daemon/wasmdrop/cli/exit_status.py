"""The exit statuses of all commands."""

import signal
from typing import Final

from wasmdrop.protocol.outcome import Code

USAGE_ERROR: Final = 2
INTERNAL_ERROR: Final = 3
OUTPUT_ERROR: Final = 4
#: Of ``verify`` alone.
MISMATCH: Final = 1
UNVERIFIABLE: Final = 4
TIMEOUT: Final = 124
#: As in a shell, of a program that SIGTERM ended.
CANCELLED: Final = 128 + signal.SIGTERM
INTERRUPTED: Final = 128 + signal.SIGINT
#: As in a shell, of a program that SIGPIPE ended.
CLOSED_PIPE: Final = 128 + signal.SIGPIPE

_BY_CODE: Final = {
    Code.OK: 0,
    Code.INTERNAL: INTERNAL_ERROR,
    Code.TIMEOUT: TIMEOUT,
    Code.CANCELLED: CANCELLED,
}


def exit_status_of(code: Code) -> int:
    """Return the exit status for the code of a job: 1 for most failures."""
    return _BY_CODE.get(code, 1)
