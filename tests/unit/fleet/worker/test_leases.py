"""Leases are extended while their jobs are in hand, and not for longer than they may take."""

import asyncio

from tests.unit.fleet.worker.fakes import Clock, FakeLease
from wasmdrop.fleet.worker.leases import EXTEND_SECONDS, LeaseKeeper


def test_lease_in_hand_is_extended_at_intervals() -> None:
    """Not before the first interval: most jobs are done by then."""
    clock, lease = Clock(), FakeLease()
    keeper = LeaseKeeper(clock)

    async def play() -> list[int]:
        keeper.hold(lease.as_lease(), 1000)
        counts = []
        for seconds in (EXTEND_SECONDS - 0.1, 0.2, EXTEND_SECONDS - 0.1, 0.2):
            clock.seconds += seconds
            await keeper.extend_due()
            counts.append(lease.extensions)
        return counts

    assert asyncio.run(play()) == [0, 1, 1, 2]


def test_lease_that_lasted_long_enough_is_not_extended() -> None:
    """A job that never ends is given to another worker."""
    clock, lease = Clock(), FakeLease()
    keeper = LeaseKeeper(clock)

    async def play() -> None:
        keeper.hold(lease.as_lease(), 100)
        clock.seconds += 101
        await keeper.extend_due()

    asyncio.run(play())
    assert lease.extensions == 0


def test_dropped_lease_is_not_extended() -> None:
    """Its job is answered, or was not for this worker."""
    clock, lease = Clock(), FakeLease()
    keeper = LeaseKeeper(clock)

    async def play() -> None:
        keeper.drop(keeper.hold(lease.as_lease(), 1000))
        clock.seconds += 500
        await keeper.extend_due()

    asyncio.run(play())
    assert lease.extensions == 0
