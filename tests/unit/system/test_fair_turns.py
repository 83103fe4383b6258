"""Turns of owners, in a queue and for room."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from wasmdrop.system.fair_turns import FairSemaphore, FairTurns


def test_fair_turns_many_of_one_owner_do_not_delay_those_of_another() -> None:
    """Each owner has the next turn after all others had one."""
    items: FairTurns[str] = FairTurns()
    items.add(("many", f"many {number}") for number in range(100))
    items.add([("few", "few 0"), ("few", "few 1")])
    assert len(items) == 102
    assert items.take(5) == ["many 0", "few 0", "many 1", "few 1", "many 2"]
    assert len(items) == 97
    assert items.take(1000) == [f"many {number}" for number in range(3, 100)]
    assert not items
    assert items.take(1) == []


@contextlib.asynccontextmanager
async def _held(semaphore: FairSemaphore, owner: str) -> AsyncIterator[None]:
    await semaphore.acquire(owner)
    try:
        yield
    finally:
        semaphore.release()


class _Holders:
    """Tasks that hold room until a test ends them."""

    def __init__(self, room: int) -> None:
        self._semaphore = FairSemaphore(room)
        self.held: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    def start(self, owner: str, name: str) -> None:
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._hold(owner, name))

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def _hold(self, owner: str, name: str) -> None:
        async with _held(self._semaphore, owner):
            self.held.append(name)
            await self._ends[name].wait()


def test_fair_semaphore_owner_of_many_waiting_delays_another_by_one_turn() -> None:
    """Without room, owners take turns; no more hold room than there is."""

    async def main() -> None:
        holders = _Holders(2)
        for number in range(5):
            holders.start("many", f"many {number}")
        await holders.settle()
        holders.start("few", "few 0")
        await holders.settle()
        assert holders.held == ["many 0", "many 1"]
        for name in ("many 0", "many 1", "many 2", "few 0", "many 3", "many 4"):
            await holders.end(name)
        await asyncio.gather(*holders.tasks.values())
        assert holders.held == ["many 0", "many 1", "many 2", "few 0", "many 3", "many 4"]

    asyncio.run(main())


@pytest.mark.parametrize("has_turn", [False, True])
def test_fair_semaphore_cancelled_wait_changes_no_room(has_turn: bool) -> None:
    """Nor if its turn came at the same moment."""

    async def main() -> None:
        semaphore = FairSemaphore(1)

        async def hold() -> None:
            async with _held(semaphore, "some"):
                pass

        async with _held(semaphore, "first"):
            waits = asyncio.create_task(hold())
            await asyncio.sleep(0)
            if not has_turn:
                waits.cancel()
        if has_turn:
            waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        async with asyncio.timeout(60), _held(semaphore, "again"):
            waits = asyncio.create_task(hold())
            for _ in range(10):
                await asyncio.sleep(0)
            assert not waits.done()
        await waits

    asyncio.run(main())
