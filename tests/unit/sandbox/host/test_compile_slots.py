"""Compile slots: who compiles next, and who makes room, by a clock that the test moves."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from wasmdrop.sandbox.host.compile_slots import CompileSlots, SlotRequest

QUICK_SECONDS: Final = 1.0


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[tuple[float, Callable[[], None], asyncio.TimerHandle]] = []

    def call_later(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        """Call a function when so much time has passed, unless it is cancelled."""
        handle = asyncio.TimerHandle(0, call, (), asyncio.get_running_loop())
        self._timers.append((self.now + seconds, call, handle))
        return handle

    async def pass_by(self, seconds: float) -> None:
        """Let time pass, and everybody act on it."""
        await settle()
        self.now += seconds
        due = [timer for timer in self._timers if timer[0] <= self.now]
        self._timers = [timer for timer in self._timers if timer[0] > self.now]
        for _at, call, handle in due:
            if not handle.cancelled():
                call()
        await settle()


async def settle() -> None:
    """Let every task go on until it waits for something that does not come by itself."""
    for _ in range(20):
        await asyncio.sleep(0)


class Rig:
    """CompileSlots, and compilations that last until they are told to end."""

    def __init__(self, count: int = 1) -> None:
        self.clock = Clock()
        self.lanes = CompileSlots(count, QUICK_SECONDS, self.clock.call_later)
        self.running: list[str] = []
        """Names of those that have a place, in the order in which they got it."""
        self.entrants: dict[str, SlotRequest] = {}
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, name: str, directory: str) -> None:
        """Begin one."""
        self.entrants[name] = SlotRequest(directory)
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._compile(name))

    async def end(self, *names: str) -> None:
        """Let some end."""
        for name in names:
            self._ends[name].set()
        await settle()

    async def _compile(self, name: str) -> None:
        entrant = self.entrants[name]
        end = asyncio.create_task(self._ends[name].wait())
        while not end.done():
            async with self.lanes.place(entrant):
                self.running.append(name)
                ends: list[asyncio.Future[object]] = [end, entrant.interrupted]  # type: ignore[list-item]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                self.running.remove(name)


def scenario(count: int = 1) -> Callable[[Callable[[Rig], Awaitable[None]]], None]:
    """Run a scenario with lanes of so many quick places."""

    def run(play: Callable[[Rig], Awaitable[None]]) -> None:
        async def main() -> None:
            rig = Rig(count)
            await play(rig)
            for task in rig.tasks.values():
                task.cancel()
            await asyncio.gather(*rig.tasks.values(), return_exceptions=True)
            assert not rig.lanes.are_full()

        asyncio.run(main())

    return run


@pytest.mark.parametrize("slow", [2, 8, 100])
@pytest.mark.parametrize("count", [1, 2])
def test_a_directory_with_slow_modules_delays_another_by_a_quick_period(
    slow: int, count: int
) -> None:
    """At most, and however many they are; those go on when there is room again."""

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


def test_a_slow_module_finds_a_long_place_that_others_can_not_take() -> None:
    """The last long place is not for a directory that holds one."""

    @scenario()
    async def _play(rig: Rig) -> None:
        for number in range(5):
            rig.begin(f"many-{number}", "many")
        for _ in range(5):
            await rig.clock.pass_by(QUICK_SECONDS)
        assert rig.running == ["many-0", "many-1"]
        rig.begin("slow", "few")
        await settle()
        assert "slow" in rig.running, "many-1 has had its quick period, and makes room"
        rig.begin("small", "other")
        await rig.clock.pass_by(QUICK_SECONDS)
        assert {"many-0", "slow", "small"} <= set(rig.running), "slow has the kept place"
        await rig.end("small")
        assert {"many-0", "slow"} < set(rig.running)


def test_an_interrupted_module_begins_again_when_a_long_place_is_free() -> None:
    """And not before: it would be interrupted again."""

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
        assert rig.running == ["b", "a-1"], "the long place is free, the quick one is d's"
        await rig.end("b", "d")
        assert rig.running == ["a-1"]
        await rig.clock.pass_by(100 * QUICK_SECONDS)
        rig.begin("c", "c")
        await settle()
        assert rig.running == ["a-1", "c"], "a long compilation is not interrupted"


def test_late_modules_of_one_directory_do_not_interrupt_each_other() -> None:
    """Their work would be lost, and their directory's other modules gain by it what they lose."""

    @scenario()
    async def _play(rig: Rig) -> None:
        for number in range(3):
            rig.begin(str(number), "one")
            await rig.clock.pass_by(QUICK_SECONDS)
        await rig.clock.pass_by(10 * QUICK_SECONDS)
        assert rig.running == ["0", "1"]
        await rig.end("0")
        assert rig.running == ["1", "2"]


def test_directories_take_turns() -> None:
    """One each, however many the first one has."""

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


def test_a_module_of_several_directories_counts_for_the_one_whose_turn_comes_first() -> None:
    """It need not wait behind the other modules of the directory that asked first."""

    @scenario()
    async def _play(rig: Rig) -> None:
        for number in range(4):
            rig.begin(f"a-{number}", "a")
        await settle()
        rig.begin("b-0", "b")
        await settle()
        rig.lanes.also_for(rig.entrants["a-3"], "c")
        rig.lanes.also_for(rig.entrants["a-3"], "c")
        await settle()
        order = []
        for _ in range(5):
            (name,) = rig.running
            order.append(name)
            await rig.end(name)
        assert order == ["a-0", "b-0", "a-3", "a-1", "a-2"]
        assert rig.entrants["a-3"].charged == "c"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_place_is_given_back_whenever_its_holder_is_cancelled(count: int) -> None:
    """While it waits, in its quick period, late, interrupted, or in a long place."""

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
