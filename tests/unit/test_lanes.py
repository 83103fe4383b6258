"""Lanes: who takes long makes room, and nothing is lost whichever way a holder ends."""

import asyncio

import pytest

from wasmdrop.sandbox.lanes import Lanes


async def hold(lanes: Lanes, entered: list[str], name: str, end: asyncio.Event) -> None:
    """Hold a lane until told."""
    async with lanes.taken():
        entered.append(name)
        await end.wait()


def test_who_takes_long_makes_room_for_one_more() -> None:
    """As many as there are lanes, and then no more until one ends."""

    async def scenario() -> None:
        lanes, entered, end = Lanes(1, 0.01), list[str](), asyncio.Event()
        tasks = [asyncio.create_task(hold(lanes, entered, name, end)) for name in "abc"]
        await asyncio.sleep(0.1)
        assert entered == ["a", "b"]
        assert lanes.are_full()
        tasks[0].cancel()
        await asyncio.sleep(0.1)
        assert entered == ["a", "b", "c"]
        end.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not lanes.are_full()

    asyncio.run(scenario())


@pytest.mark.parametrize("quick_seconds", [0.0, 0.001, 60.0])
def test_every_lane_is_given_back_whenever_its_holder_ends(quick_seconds: float) -> None:
    """Also where it ends in the very moment in which it makes room, or was waiting."""

    async def scenario() -> None:
        lanes, entered = Lanes(2, quick_seconds), list[str]()
        for _ in range(50):
            end = asyncio.Event()
            tasks = [asyncio.create_task(hold(lanes, entered, "x", end)) for _ in range(8)]
            await asyncio.sleep(0.001)
            for task in tasks[::2]:
                task.cancel()
            end.set()
            await asyncio.gather(*tasks, return_exceptions=True)
        entered.clear()
        end = asyncio.Event()
        tasks = [asyncio.create_task(hold(lanes, entered, "y", end)) for _ in range(3)]
        await asyncio.sleep(0.01 if quick_seconds < 1 else 0)
        await asyncio.sleep(0)
        assert len(entered) == (3 if quick_seconds < 1 else 2)
        end.set()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())
