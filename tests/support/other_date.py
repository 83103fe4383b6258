"""A process that believes in another date: its C library is told another time."""

import subprocess
from pathlib import Path
from typing import Final

from tests.support.require import require_tools

_SOURCE: Final = """
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && clock == CLOCK_REALTIME)
        now->tv_sec += OFFSET_SECONDS;
    return result;
}
"""


def at_other_date(directory: Path, days: int) -> dict[str, str]:
    """Return variables with which Python's clock is so many days ahead.

    ``directory`` holds a library to preload. Times of files are true.
    """
    require_tools("cc")
    library = directory / "libdate.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", f"-DOFFSET_SECONDS={days * 86400}", "-xc", "-", "-o", library],
        input=_SOURCE.encode(),
        check=True,
    )
    return {"LD_PRELOAD": str(library)}
