"""Wait with a timeout that a pause of the whole process does not use up.

After a pause (SIGSTOP, a frozen container) all timers of the event loop are due at once, also those
of a part that has answered or was about to.
"""

import asyncio
from typing import Any, Final

#: Parts of a timeout. A pause uses up one of them at most.
_PARTS: Final = 5


async def wait_awake(future: "asyncio.Future[Any]", seconds: float) -> bool:
    """Wait until ``future`` is done, at most for so long; return whether it is."""
    for _ in range(_PARTS):
        done, _pending = await asyncio.wait([future], timeout=seconds / _PARTS)
        if done:
            return True
    return False
