"""Memory for large outcomes."""

import asyncio

from wasmdrop.fleet.answer_memory import AnswerMemory
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.system.byte_budget import Reservation


async def reserved(memory: AnswerMemory, size_bytes: int) -> Reservation:
    """Wait for room for an outcome that is not small."""
    found = await memory.reserve(size_bytes, has_values=False)
    assert found is not None
    return found


def test_outcomes_beyond_the_limit_wait_until_others_are_delivered() -> None:
    """Each in turn; one that is larger than the limit is received alone."""

    async def scene() -> None:
        memory = AnswerMemory()
        first = await reserved(memory, 40 * MEBIBYTE)
        second = await reserved(memory, 20 * MEBIBYTE)
        third = asyncio.create_task(reserved(memory, 20 * MEBIBYTE))
        huge = asyncio.create_task(reserved(memory, 1000 * MEBIBYTE))
        await asyncio.sleep(0)
        assert not third.done()
        first.release()
        last = await third
        assert not huge.done()
        second.release()
        last.release()
        (await huge).release()
        assert memory.is_unused

    asyncio.run(scene())


def test_small_outcomes_need_no_room() -> None:
    """They do not wait for large ones."""

    async def scene() -> None:
        memory = AnswerMemory()
        await reserved(memory, 1000 * MEBIBYTE)
        assert await memory.reserve(MEBIBYTE, has_values=False) is None
        assert await memory.reserve(1000, has_values=True) is None

    asyncio.run(scene())


def test_values_of_components_need_many_times_their_size() -> None:
    """Even if they travel in the message."""

    async def scene() -> None:
        memory = AnswerMemory()
        first = await memory.reserve(500 * 1024, has_values=True)
        second = asyncio.create_task(memory.reserve(500 * 1024, has_values=True))
        await asyncio.sleep(0)
        assert not second.done()
        assert first is not None
        first.release()
        assert await second is not None

    asyncio.run(scene())
