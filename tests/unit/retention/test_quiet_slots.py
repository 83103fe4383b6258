"""Quiet slots: those in use are left out, and all are released, unless the daemon stops."""

import asyncio
from typing import Any, cast

import pytest

from tests.unit.jobs.fakes import slot
from wasmdrop.retention.quiet_slots import QuietSlots


class Daemon:
    """Stands for intake, dispatcher and journal; records calls in their order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.looked_at: set[str] = set()
        self.open: set[str] = set()
        self.quiet_slots = QuietSlots(*cast("tuple[Any, Any, Any]", (self,) * 3), self.emptied)

    def hold(self, path: str) -> bool:
        """As :meth:`Intake.hold`."""
        return path not in self.looked_at

    def release(self, path: str, *, is_gone: bool) -> None:
        """As :meth:`Intake.release`."""
        self.calls.append(("release gone" if is_gone else "release", path))

    def reserve(self, key: str) -> bool:
        """As :meth:`Dispatcher.reserve`."""
        return key not in self.open

    def free(self, key: str) -> None:
        """As :meth:`Dispatcher.free`."""
        self.calls.append(("free", key))

    def forget(self, path: str) -> None:
        """As :meth:`Journal.forget`."""
        self.calls.append(("forget", path))

    async def emptied(self) -> None:
        """Accept a drop that was read before the hold."""
        self.open.add("late/input.json")


def test_quiet_leaves_out_slots_in_use() -> None:
    """One that is looked at, one with an open job, and one whose drop becomes a job just now."""

    async def use() -> None:
        daemon = Daemon()
        slots = [slot(key) for key in ("a/input.json", "b/input.json", "late/input.json")]
        looked_at = slot("c/input.json")
        daemon.open.add("b/input.json")
        daemon.looked_at.add(looked_at.input_path)
        async with daemon.quiet_slots.quiet([*slots, looked_at]) as quiet:
            assert [one.key for one in quiet.slots] == ["a/input.json"]
            assert quiet.busy == [looked_at]
        assert daemon.calls == [
            *(("release", one.input_path) for one in slots),
            ("free", "a/input.json"),
        ]

    asyncio.run(use())


def test_quiet_forgets_inputs_that_are_gone_before_it_releases_them() -> None:
    """A drop that comes then is recorded after that."""

    async def use() -> None:
        daemon, one = Daemon(), slot("a/input.json")
        async with daemon.quiet_slots.quiet([one]) as quiet:
            quiet.gone.add(one.input_path)
        path = one.input_path
        assert daemon.calls == [("forget", path), ("release gone", path), ("free", one.key)]

    asyncio.run(use())


@pytest.mark.parametrize(
    ("error", "is_released"), [(OSError("failed"), True), (asyncio.CancelledError(), False)]
)
def test_quiet_slots_stay_quiet_only_if_the_daemon_stops(
    error: BaseException, is_released: bool
) -> None:
    """A thread may still be at work on them then."""

    async def use() -> None:
        daemon = Daemon()
        with pytest.raises(type(error)):
            async with daemon.quiet_slots.quiet([slot("a/input.json")]):
                raise error
        assert bool(daemon.calls) is is_released

    asyncio.run(use())
