"""The window: its order, and what a cancelled job gives back."""

import asyncio

from wasmdrop.fleet.daemon.window import Window


async def turns(count: int = 10) -> None:
    """Let all tasks go on."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_window_gives_room_in_the_order_of_requests() -> None:
    """One that asks when room was just given back waits behind the others."""

    async def scenario() -> None:
        window, order = Window(1), list[int]()

        async def enter(number: int) -> None:
            assert await window.enter()
            order.append(number)

        tasks = [asyncio.create_task(enter(number)) for number in range(3)]
        await turns()
        assert (order, window.waiting) == ([0], 2)
        window.leave()
        tasks.append(asyncio.create_task(enter(3)))
        for _ in range(3):
            await turns()
            window.leave()
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3]

    asyncio.run(scenario())


def test_window_room_of_a_cancelled_job_goes_to_the_next() -> None:
    """Whether it was cancelled before or after it got room."""

    async def scenario() -> None:
        window = Window(1)
        assert await window.enter()
        waiting = [asyncio.create_task(window.enter()) for _ in range(3)]
        await turns()
        waiting[0].cancel()
        await turns()
        window.leave()  # to the second, which is cancelled before it runs
        waiting[1].cancel()
        assert await waiting[2]
        assert window.waiting == 0
        window.leave()
        assert await window.enter()

    asyncio.run(scenario())


def test_window_sends_all_away_that_wait() -> None:
    """Those that have room keep it."""

    async def scenario() -> None:
        window = Window(1)
        assert await window.enter()
        waiting = [asyncio.create_task(window.enter()) for _ in range(2)]
        await turns()
        window.send_away()
        assert await asyncio.gather(*waiting) == [False, False]
        entering = asyncio.create_task(window.enter())
        await turns()
        assert not entering.done()
        window.leave()
        assert await entering

    asyncio.run(scenario())
