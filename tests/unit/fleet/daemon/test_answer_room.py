"""Room for large answers."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from wasmdrop.fleet.daemon.answer_room import AnswerRoom
from wasmdrop.protocol.limits import MEBIBYTE

Room = contextlib.ExitStack


def play(scene: Callable[[AnswerRoom], Awaitable[None]]) -> None:
    """Play a scene; all room must be given back at its end."""

    async def run() -> None:
        room = AnswerRoom()
        await scene(room)
        assert room.is_unused

    asyncio.run(run())


async def waiting(room: AnswerRoom, outcome_mb: int, output_mb: int) -> asyncio.Task[Room]:
    """Ask for room that is not there yet."""
    sizes = outcome_mb * MEBIBYTE, output_mb * MEBIBYTE
    task = asyncio.create_task(room.reserve(*sizes, has_values=False))
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def take(room: AnswerRoom, outcome_mb: int, output_mb: int) -> Room:
    """Take room that is there."""
    sizes = outcome_mb * MEBIBYTE, output_mb * MEBIBYTE
    return await room.reserve(*sizes, has_values=False)


def test_outcomes_beyond_the_limit_wait_until_others_are_delivered() -> None:
    """Each in turn; one that is larger than the limit is received alone."""

    async def scene(room: AnswerRoom) -> None:
        first, second = await take(room, 40, 0), await take(room, 20, 0)
        third, huge = await waiting(room, 20, 0), await waiting(room, 1000, 0)
        first.close()
        last = await third
        assert not huge.done()
        second.close()
        last.close()
        (await huge).close()

    play(scene)


def test_large_outcome_is_not_overtaken() -> None:
    """A steady flow of others would keep it out for ever."""

    async def scene(room: AnswerRoom) -> None:
        first = await take(room, 40, 0)
        huge = await waiting(room, 1000, 0)
        later = await waiting(room, 20, 0)
        first.close()
        (await huge).close()
        (await later).close()

    play(scene)


def test_output_files_beyond_the_limit_wait_until_others_are_delivered() -> None:
    """Files alone: answers without them go on."""

    async def scene(room: AnswerRoom) -> None:
        first = await take(room, 2, 1000)
        second = await waiting(room, 2, 30)
        (await take(room, 50, 0)).close()
        first.close()
        (await second).close()

    play(scene)


def test_small_answers_need_no_room() -> None:
    """They do not wait for large ones."""

    async def scene(room: AnswerRoom) -> None:
        large = await take(room, 1000, 5000)
        (await take(room, 1, 1)).close()
        (await room.reserve(1000, 1000, has_values=True)).close()
        large.close()

    play(scene)


def test_values_of_components_need_many_times_their_size() -> None:
    """Even if they travel in the message."""

    async def scene(room: AnswerRoom) -> None:
        first = await room.reserve(500 * 1024, 0, has_values=True)
        second = await waiting(room, 20, 0)
        first.close()
        (await second).close()

    play(scene)


def test_answer_that_is_not_received_gives_all_room_back() -> None:
    """It has memory, and waits for the disk."""

    async def scene(room: AnswerRoom) -> None:
        first = await take(room, 0, 1000)
        second = await waiting(room, 60, 1000)
        second.cancel()
        await asyncio.wait([second])
        (await take(room, 60, 0)).close()
        first.close()

    play(scene)
