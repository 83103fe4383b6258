"""The clock of the event loop, which a test can advance."""

import asyncio


class LoopClock:
    """The clock of the running loop. Made before the loop has any timer that matters."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        real_time = loop.time
        self._skipped_seconds = 0.0
        loop.time = lambda: real_time() + self._skipped_seconds  # type: ignore[method-assign]

    async def jump(self, seconds: float) -> None:
        """Advance it, as a pause of the whole process does, and let the timers run that are due."""
        await asyncio.sleep(0)  # so that new tasks have begun to wait
        self._skipped_seconds += seconds
        for _ in range(10):
            await asyncio.sleep(0)
