"""Unit tests of the forking process: what becomes of children that have reported."""

import asyncio
import socket

from wasmdrop.sandbox.host.child_process import ChildProcess
from wasmdrop.sandbox.host.forking_process import ForkingProcess


def reported_child(pid: int) -> tuple[ChildProcess, socket.socket]:
    """Return a child whose link is closed at its end, and the other side of the link."""
    ours, theirs = socket.socketpair()
    pidfd, other = socket.socketpair()  # any descriptor: no process is killed by it
    other.close()
    child = ChildProcess(pid, ours, pidfd.detach(), untrusted_parent=1)
    child.has_reported = True
    return child, theirs


def test_release_while_another_child_exits_is_not_delayed() -> None:
    """A child that is slow to exit does not delay others, which would fill the machine."""

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        parent = ForkingProcess(0)
        slow, slow_link = reported_child(1)
        parent.release(slow)
        await loop.run_in_executor(None, slow_link.recv, 1)  # the link was closed; it stays
        later, later_link = reported_child(2)
        parent.release(later)
        assert parent._ending[later].when() < parent._ending[slow].when()
        await loop.run_in_executor(None, later_link.recv, 1)
        parent._disconnect()
        for link in (slow_link, later_link):
            link.close()

    asyncio.run(scene())


def test_release_without_report_closes_the_child() -> None:
    """A child that was not heard of is killed at once."""

    async def scene() -> None:
        parent = ForkingProcess(0)
        child, link = reported_child(1)
        child.has_reported = False
        parent.release(child)
        assert child.is_closed
        assert not parent._ending
        link.close()

    asyncio.run(scene())
