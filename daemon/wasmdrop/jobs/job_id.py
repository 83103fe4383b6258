"""Create the ids of jobs."""

import functools
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

__all__ = ["new_job_id"]

_NOISE_BYTES: Final = 5


def new_job_id(dropped_at_ns: int) -> str:
    """Return a unique id that sorts by the time of the drop, in nanoseconds since 1970-01-01 UTC.

    Call it from one thread only.
    """
    return f"{_second(dropped_at_ns // 1_000_000_000)}-{next(_noise)}"


@functools.lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%dT%H%M%SZ}"


def _make_noise() -> Iterator[str]:
    """Yield ten random hexadecimal digits at a time; one system call serves many."""
    while True:
        data = os.urandom(_NOISE_BYTES * 256)
        for start in range(0, len(data), _NOISE_BYTES):
            yield data[start : start + _NOISE_BYTES].hex()


_noise: Final = _make_noise()
