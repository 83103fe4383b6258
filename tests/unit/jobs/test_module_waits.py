"""Waits for modules: each ends once, at a drop or at its deadline."""

import asyncio

from wasmdrop.jobs.module_waits import ModuleWaits


def test_module_waits_wake_ends_only_waits_of_its_keys() -> None:
    """Each ends once, by any of its keys."""

    async def scenario() -> None:
        over: list[str] = []
        waits = ModuleWaits[str](over.append)
        far = asyncio.get_running_loop().time() + 1000
        for name, keys in (("a", ["x", "y"]), ("b", ["y"]), ("c", ["z"])):
            assert waits.park(waits.watch(name, keys, far))
        waits.wake(["y"])
        assert sorted(over) == ["a", "b"]
        waits.wake(["x", "y"])
        assert sorted(over) == ["a", "b"]
        waits.wake(["z"])
        assert over[-1] == "c"
        assert not waits._by_key
        waits.close()

    asyncio.run(scenario())


def test_module_waits_wake_before_park_is_not_missed() -> None:
    """The job looks again instead of waiting."""

    async def scenario() -> None:
        over: list[str] = []
        waits = ModuleWaits[str](over.append)
        wait = waits.watch("a", ["x"], asyncio.get_running_loop().time() + 1000)
        waits.wake(["x"])
        assert not waits.park(wait)
        assert over == []

    asyncio.run(scenario())


def test_module_waits_wait_ends_at_its_deadline_unless_cancelled() -> None:
    """In the order of the deadlines."""

    async def scenario() -> None:
        over: asyncio.Queue[int] = asyncio.Queue()
        waits = ModuleWaits[int](over.put_nowait)
        now = asyncio.get_running_loop().time()
        for number in range(10):
            wait = waits.watch(number, ["x"], now + number / 1000)
            assert waits.park(wait)
            if number % 2:
                waits.cancel(wait)
        assert [await over.get() for _ in range(5)] == [0, 2, 4, 6, 8]
        assert over.empty()
        assert not waits._by_key
        waits.close()

    asyncio.run(scenario())


def test_module_waits_ended_waits_are_removed_before_their_deadline() -> None:
    """However many drops end waits meanwhile."""

    async def scenario() -> None:
        waits = ModuleWaits[int](lambda _number: None)
        far = asyncio.get_running_loop().time() + 1000
        for number in range(10_000):
            waits.park(waits.watch(number, [str(number)], far))
            waits.wake([str(number)])
        assert len(waits._by_deadline) < 2000
        waits.close()

    asyncio.run(scenario())
