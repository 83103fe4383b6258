"""Memory for large outcomes."""

import asyncio

from wasmdrop.fleet.answer_memory import AnswerMemory
from wasmdrop.protocol.limits import MEBIBYTE


def test_outcomes_beyond_the_limit_wait_until_others_are_delivered() -> None:
    """Each in turn; one that is larger than the limit is received alone."""

    async def scene() -> None:
        memory = AnswerMemory()
        first, second = await memory.reserve(40 * MEBIBYTE), await memory.reserve(20 * MEBIBYTE)
        third = asyncio.create_task(memory.reserve(20 * MEBIBYTE))
        huge = asyncio.create_task(memory.reserve(1000 * MEBIBYTE))
        await asyncio.sleep(0)
        assert not third.done()
        first.release()
        reserved = await third
        assert not huge.done()
        second.release()
        reserved.release()
        (await huge).release()

    asyncio.run(scene())
