"""Compile slots: who compiles next, and who makes room, by a clock that the test moves."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from wasmdrop.sandbox.host.compile_slots import CompileSlots, SlotRequest

QUICK_SECONDS: Final = 1.0


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[tuple[float, Callable[[], None], asyncio.TimerHandle]] = []

    def call_later(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        """Call a function after this time, unless it is cancelled."""
        handle = asyncio.TimerHandle(0, call, (), asyncio.get_running_loop())
        self._timers.append((self.now + seconds, call, handle))
        return handle

    async def pass_by(self, seconds: float) -> None:
        """Advance the clock and run what is due."""
        await settle()
        self.now += seconds
        due = [timer for timer in self._timers if timer[0] <= self.now]
        self._timers = [timer for timer in self._timers if timer[0] > self.now]
        for _at, call, handle in due:
            if not handle.cancelled():
                call()
        await settle()


async def settle() -> None:
    """Run all tasks until each waits for the test."""
    for _ in range(20):
        await asyncio.sleep(0)


class Rig:
    """Compile slots, and compilations that last until the test ends them."""

    def __init__(self, count: int = 1) -> None:
        self.clock = Clock()
        self.slots = CompileSlots(count, QUICK_SECONDS, self.clock.call_later)
        self.running: list[str] = []
        """Names of the compilations that have a slot, in the order in which they got it."""
        self.requests: dict[str, SlotRequest] = {}
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, name: str, directory: str) -> None:
        """Start a compilation."""
        self.requests[name] = SlotRequest(directory)
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._compile(name))

    async def end(self, *names: str) -> None:
        """End some compilations."""
        for name in names:
            self._ends[name].set()
        await settle()

    async def _compile(self, name: str) -> None:
        request = self.requests[name]
        end = asyncio.create_task(self._ends[name].wait())
        while not end.done():
            async with self.slots.slot(request):
                self.running.append(name)
                ends: list[asyncio.Future[object]] = [end, request.interrupted]  # type: ignore[list-item]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                self.running.remove(name)


def scenario(count: int = 1) -> Callable[[Callable[[Rig], Awaitable[None]]], None]:
    """Run a scenario with ``count`` quick slots."""

    def run(play: Callable[[Rig], Awaitable[None]]) -> None:
        async def main() -> None:
            rig = Rig(count)
            await play(rig)
            for task in rig.tasks.values():
                task.cancel()
            await asyncio.gather(*rig.tasks.values(), return_exceptions=True)
            assert not rig.slots.are_full()

        asyncio.run(main())

    return run


@pytest.mark.parametrize("slow", [2, 8, 100])
@pytest.mark.parametrize("count", [1, 2])
def test_module_of_another_directory_waits_at_most_a_quick_period(slow: int, count: int) -> None:
    """However many slow modules there are; they go on when there is room again."""

    @scenario(count)
    async def _play(rig: Rig) -> None:
        for number in range(slow):
            rig.begin(f"slow-{number}", "many")
        for _ in range(3):
            await rig.clock.pass_by(QUICK_SECONDS)
        before = rig.clock.now
        rig.begin("small", "few")
        while "small" not in rig.running:
            await rig.clock.pass_by(QUICK_SECONDS)
            assert rig.clock.now <= before + QUICK_SECONDS
        await rig.end("small")
        assert len(rig.running) == min(slow, 2 * count)


def test_long_slot_for_a_directory_without_one_is_reserved() -> None:
    """The last long slot is not for a directory that holds one."""

    @scenario()
    async def _play(rig: Rig) -> None:
        for number in range(5):
            rig.begin(f"many-{number}", "many")
        for _ in range(5):
            await rig.clock.pass_by(QUICK_SECONDS)
        assert rig.running == ["many-0", "many-1"]
        rig.begin("slow", "few")
        await settle()
        assert "slow" in rig.running, "many-1 is late and makes room"
        rig.begin("small", "other")
        await rig.clock.pass_by(QUICK_SECONDS)
        assert {"many-0", "slow", "small"} <= set(rig.running), "slow has the reserved slot"
        await rig.end("small")
        assert {"many-0", "slow"} < set(rig.running)


def test_interrupted_module_restarts_when_a_long_slot_is_free() -> None:
    """Not before, because it would be interrupted again."""

    @scenario()
    async def _play(rig: Rig) -> None:
        for name in ("a-0", "a-1"):
            rig.begin(name, "a")
            await rig.clock.pass_by(QUICK_SECONDS)
        assert rig.running == ["a-0", "a-1"]
        rig.begin("b", "b")
        await settle()
        assert rig.running == ["a-0", "b"]
        rig.begin("d", "d")
        await rig.end("a-0")
        assert rig.running == ["b", "a-1"], "the long slot is free, d has the quick one"
        await rig.end("b", "d")
        assert rig.running == ["a-1"]
        await rig.clock.pass_by(100 * QUICK_SECONDS)
        rig.begin("c", "c")
        await settle()
        assert rig.running == ["a-1", "c"], "a long compilation is not interrupted"


def test_late_modules_of_one_directory_are_not_interrupted() -> None:
    """Their directory would gain nothing, and their work would be lost."""

    @scenario()
    async def _play(rig: Rig) -> None:
        for number in range(3):
            rig.begin(str(number), "one")
            await rig.clock.pass_by(QUICK_SECONDS)
        await rig.clock.pass_by(10 * QUICK_SECONDS)
        assert rig.running == ["0", "1"]
        await rig.end("0")
        assert rig.running == ["1", "2"]


def test_directories_with_many_modules_take_turns() -> None:
    """One module each, however many the first directory has."""

    @scenario()
    async def _play(rig: Rig) -> None:
        for name in ("a-0", "a-1", "a-2", "b-0", "c-0", "b-1"):
            rig.begin(name, name[0])
        order = []
        for _ in range(6):
            await settle()
            (name,) = rig.running
            order.append(name)
            await rig.end(name)
        assert order == ["a-0", "b-0", "c-0", "a-1", "b-1", "a-2"]


def test_module_of_several_directories_counts_for_the_earliest_turn() -> None:
    """It does not wait behind the other modules of its first directory."""

    @scenario()
    async def _play(rig: Rig) -> None:
        for number in range(4):
            rig.begin(f"a-{number}", "a")
        await settle()
        rig.begin("b-0", "b")
        await settle()
        rig.slots.add_directory(rig.requests["a-3"], "c")
        rig.slots.add_directory(rig.requests["a-3"], "c")
        await settle()
        order = []
        for _ in range(5):
            (name,) = rig.running
            order.append(name)
            await rig.end(name)
        assert order == ["a-0", "b-0", "a-3", "a-1", "a-2"]
        assert rig.requests["a-3"].charged == "c"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_slot_of_a_cancelled_compilation_is_released(count: int) -> None:
    """Whether it waits, is quick, late, interrupted, or has a long slot."""

    @scenario(count)
    async def _play(rig: Rig) -> None:
        for step in range(60):
            for number in range(5):
                rig.begin(f"{step}-{number}", f"directory {number % 3}")
            if step % 3:
                await rig.clock.pass_by(QUICK_SECONDS * (step % 2))
            for name in list(rig.tasks)[step % 4 :: 3]:
                rig.tasks.pop(name).cancel()
                if name in rig.running:
                    rig.running.remove(name)
            await settle()
        for name in list(rig.tasks):
            rig.tasks.pop(name).cancel()
        await settle()
        rig.running.clear()
        for number in range(20):
            rig.begin(f"after-{number}", f"new {number}")
        await rig.clock.pass_by(0)
        assert len(rig.running) == count
        for _ in range(3):
            await rig.clock.pass_by(QUICK_SECONDS)
        assert len(rig.running) == 2 * count + 1
