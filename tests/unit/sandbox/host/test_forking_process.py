"""ForkingProcess of a process that forks: what becomes of those that have reported."""

import asyncio
import socket

from wasmdrop.sandbox.host.child_process import ChildProcess, ForkingProcess


def child(pid: int) -> tuple[ChildProcess, socket.socket]:
    """Return a child that is told to end rather than killed, and its end of the link."""
    ours, theirs = socket.socketpair()
    pidfd, other = socket.socketpair()  # any descriptor: nobody is killed by it
    other.close()
    return ChildProcess(pid, ours, pidfd.detach(), doubted_parent=1), theirs


def test_who_leaves_does_not_wait_for_those_that_are_ending() -> None:
    """A child that takes its time to end must not keep others: they would fill the machine."""

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        children = ForkingProcess(0)
        slow, slows_end = child(1)
        children.close_soon(slow)
        await loop.run_in_executor(None, slows_end.recv, 1)  # it was told to end, and does not
        later, laters_end = child(2)
        children.close_soon(later)
        assert children._leaving_timer is not None
        assert children._leaving_timer.when() <= children._leaving[later]
        await loop.run_in_executor(None, laters_end.recv, 1)
        children._disconnect()
        for end in (slows_end, laters_end):
            end.close()

    asyncio.run(scene())
