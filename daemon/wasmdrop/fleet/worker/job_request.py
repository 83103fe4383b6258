"""Read a job message and check that this worker may run it.

A daemon that was taken over may send anything. A message that does not decode, or is not what its
subject says, can't be answered; one that this worker must not run is returned with the reason.
"""

from typing import Final

from wasmdrop.fleet.messages import InvalidMessageError, JobMessage, decode
from wasmdrop.fleet.names import ANY_ENGINE, job_subject
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.text import describe_value

#: Bounds of the limits, as in the settings of a daemon: a week, a tebibyte.
_MAX_SECONDS: Final = 604_800
_MAX_MB: Final = 1 << 20
_MAX_FUEL: Final = (1 << 64) - 1


class UnfitJobError(Exception):
    """This worker can't run the job. The text says why."""

    def __init__(self, reason: str, *, needs_module: bool = False) -> None:
        super().__init__(reason)
        self.needs_module = needs_module
        """Whether the daemon has to send the module again."""


def read_request(subject: str, data: bytes, pool: str, engine: str) -> JobMessage:
    """Return the message of a job. Raises ``InvalidMessageError``.

    A daemon may only publish under subjects of its own name, so that its jobs are answered to it
    alone.
    """
    message = decode(data, JobMessage)
    expected = job_subject(
        pool, engine, message.daemon, message.job, message.attempt, message.generation
    )
    if subject != expected:
        raise InvalidMessageError(
            f"expected under {expected}, came under {describe_value(subject)}"
        )
    return message


def check_request(message: JobMessage, engine: str, max_module_bytes: int) -> None:
    """Raise ``UnfitJobError`` if this worker must not run the job."""
    if message.options.deterministic and engine == ANY_ENGINE:
        raise UnfitJobError("a deterministic job came without the class of its engine")
    size_bytes = message.module.size_bytes
    if size_bytes > max_module_bytes:
        raise UnfitJobError(
            f"its module of {size_bytes} bytes is larger than {max_module_bytes}"
            " (WASMDROP_MAX_MODULE_MB of the worker)"
        )
    _check_limits(message.limits)


def _check_limits(limits: Limits) -> None:
    for name, value, most in (
        ("timeout_sec", limits.timeout_sec, _MAX_SECONDS),
        ("memory_mb", limits.memory_mb, _MAX_MB),
        ("output_mb", limits.output_mb, _MAX_MB),
        ("disk_mb", limits.disk_mb, _MAX_MB),
        ("fuel", 1 if limits.fuel is None else limits.fuel, _MAX_FUEL),
    ):
        if not 0 < value <= most:  # also if it is not a number
            raise UnfitJobError(
                f"its limit {name}: expected more than 0 and at most {most},"
                f" got {describe_value(value)}"
            )
