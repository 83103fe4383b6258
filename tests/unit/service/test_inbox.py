"""The inbox: drops from other threads reach the event loop."""

import asyncio
import threading

from wasmdrop.intake.drops import DoneInput
from wasmdrop.service.inbox import Inbox


def test_inbox_failing_drop_does_not_stop_the_others() -> None:
    """Many drops from another thread stay in order; one in the middle raises."""
    taken: list[str] = []
    faults: list[object] = []
    last = asyncio.Event()

    def take(drop: object) -> None:
        assert isinstance(drop, DoneInput)
        if drop.path == "3":
            raise ValueError(drop.path)
        taken.append(drop.path)
        if drop.path == "999":
            last.set()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: faults.append(context["exception"]))
        inbox = Inbox()
        inbox.connect(take)

        def put() -> None:
            for number in range(1000):
                inbox.put(DoneInput(str(number), b""))

        thread = threading.Thread(target=put)
        thread.start()
        await asyncio.wait_for(last.wait(), 10)
        thread.join()

    asyncio.run(run())
    assert taken == [str(number) for number in range(1000) if number != 3]
    assert len(faults) == 1


def test_inbox_emptied_returns_after_all_drops_that_were_put_before() -> None:
    """Not before the last of them was taken."""

    async def run() -> None:
        taken: list[object] = []
        inbox = Inbox()
        inbox.connect(taken.append)
        await inbox.emptied()

        def put(count: int) -> None:
            for _ in range(count):
                inbox.put(DoneInput("a", b""))

        for count in (1, 100):
            taken.clear()
            await asyncio.to_thread(lambda: put(100))
            put(count)
            await inbox.emptied()
            assert len(taken) == 100 + count

    asyncio.run(run())
