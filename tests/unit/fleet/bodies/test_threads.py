"""Blocking steps on threads."""

import asyncio
import threading

import pytest

from wasmdrop.fleet.bodies.threads import on_thread


def test_cancelled_caller_waits_for_its_thread() -> None:
    """It may then close what the thread used."""
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def step() -> None:
        begun.set()
        may_end.wait()
        ended.set()

    async def scene() -> None:
        calling = asyncio.create_task(on_thread(step))
        await asyncio.to_thread(begun.wait)
        calling.cancel()
        await asyncio.sleep(0)
        was_done = calling.done()
        may_end.set()
        assert not was_done
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert ended.is_set()

    asyncio.run(scene())


def test_result_and_error_of_the_thread_are_passed_on() -> None:
    """As of a function that is called directly."""
    assert asyncio.run(on_thread(int, "7")) == 7
    with pytest.raises(ValueError, match="invalid literal"):
        asyncio.run(on_thread(int, "x"))
