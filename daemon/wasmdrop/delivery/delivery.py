"""Delivery as the daemon sees it: a process for each filesystem, told what to stage and publish.

A process that hangs with its filesystem holds up no other, and is given no more than a bounded
number of results. What failed before goes through a process of its own, behind none of which
others wait. One that died is started again for the
next delivery; those that it had are failures of storage, which are repeated with a look whether
they came to their end unheard.
"""

import asyncio
import contextlib
import errno
import itertools
import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final, Self

import msgspec
import structlog

from wasmdrop.delivery.wire import (
    Abandon,
    Frames,
    Order,
    Placed,
    Probe,
    Publish,
    Stage,
    decode_answer,
    encode,
)
from wasmdrop.protocol.package import Package
from wasmdrop.protocol.slot import Slot
from wasmdrop.system.durable_files import temporary_name
from wasmdrop.system.interpreter import command_for
from wasmdrop.system.mount_table import MountTable

__all__ = ["Delivery", "HangsError", "Placement", "UnheardError", "command"]

_log = structlog.get_logger()

#: How long a stop waits for deliveries that have begun, in seconds.
_CLOSE_SECONDS: Final = 5.0

#: How long a process lives that delivers nothing, but for the shared directory's, in seconds.
_UNUSED_SECONDS: Final = 300.0

_READ_BYTES: Final = 1 << 16

#: A process that owes answers and has given none for so many seconds hangs, and gets no more
#: results than these: they would only wait in memory. A busy one answers all the while.
_HANGS_SECONDS: Final = 2.0
_MOST_WAITING: Final = 64
_MOST_WAITING_BYTES: Final = 8 * 1024 * 1024


class _Kind(StrEnum):
    """What a process delivers: none of them waits for another kind."""

    RESULTS = "results"
    OUTPUT = "output"
    """Results with output files, which may be many megabytes."""
    RETRIES = "retries"


class UnheardError(OSError):
    """The process ended before it said whether the results are in place."""


class HangsError(TimeoutError):
    """The process hangs with its filesystem; ``delivery-worker-stalled`` was logged."""


class Delivery:
    """Delivers results. Used from one event loop.

    ``on_delivered`` hears of each package that is in place. ``prints_lines``: whether each one's
    line goes to standard output then. ``instance_locks``: descriptors of locks that hold as long as
    anything is delivered.
    """

    def __init__(
        self,
        shared_dir: str,
        on_delivered: Callable[[Package], None] = lambda _package: None,
        *,
        prints_lines: bool = False,
        instance_locks: Sequence[int] = (),
    ) -> None:
        self._shared_dir = shared_dir
        self._on_delivered = on_delivered
        self._instance_locks = instance_locks
        self._lock_fd = os.memfd_create("wasmdrop-lines") if prints_lines else -1
        self._mounts = MountTable()
        self._lanes: dict[tuple[str, _Kind], _Lane] = {}
        # A process needs a moment to start: the first job should not wait for that.
        self._lane(self._shared_dir, _Kind.RESULTS)

    def stage(self, slot: Slot, package: Package) -> "Placement":
        """Have results written beside their places, where nobody sees them.

        The caller owes :meth:`Placement.publish` or :meth:`Placement.abandon`.
        """
        kind = _Kind.RESULTS if package.output is None else _Kind.OUTPUT
        return self._stage(slot, package, kind, may_be_there=False)

    def deliver(self, slot: Slot, package: Package) -> "asyncio.Future[None]":
        """Stage and publish; see :meth:`stage` and :meth:`Placement.publish`."""
        return self.stage(slot, package).publish()

    def deliver_again(self, slot: Slot, package: Package) -> "asyncio.Future[None]":
        """Deliver what failed before, or may have come to its end unheard, beside other deliveries.

        If it is in its place, this only makes that durable, and prints no second line.
        """
        return self._stage(slot, package, _Kind.RETRIES, may_be_there=True).publish()

    def probe(self, directory: str) -> "asyncio.Future[None]":
        """Find out whether a slot's directory can be opened; the future raises ``OSError`` if not.

        For what failed before: nothing is sent to where it can't be delivered.
        """
        probe = _Order(None, 0)
        try:
            return self._lane(directory, _Kind.RETRIES).probe(directory)
        except OSError as error:
            probe.fail(error)
            return probe.done

    def _stage(
        self, slot: Slot, package: Package, kind: _Kind, *, may_be_there: bool
    ) -> "Placement":
        try:
            lane = self._lane(slot.directory, kind)
        except OSError as error:  # there is no room for one more process, or it hangs
            placement = Placement(None, 0, package)
            placement.fail(error)
            return placement
        return lane.stage(slot, package, may_be_there)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        """End the processes. Deliveries that have begun are finished first.

        Those that hang the journal still has.
        """
        end = time.monotonic() + _CLOSE_SECONDS
        for lane in self._lanes.values():
            lane.hang_up(max(0.0, end - time.monotonic()))
        end = time.monotonic() + _CLOSE_SECONDS  # one that hears nothing leaves the others theirs
        for lane in self._lanes.values():
            lane.join(max(0.0, end - time.monotonic()))
        self._mounts.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)

    def _lane(self, directory: str, kind: _Kind) -> "_Lane":
        """Return the process for a directory. Raises ``OSError`` if it takes no more."""
        point = self._mounts.of(directory).point
        key = (point, kind)
        lane = self._lanes.get(key)
        if lane is None or lane.has_ended:
            lane = _Lane(
                point, self._shared_dir, self._lock_fd, self._instance_locks, self._on_delivered
            )
            lane.stays = key == (self._mounts.of(self._shared_dir).point, _Kind.RESULTS)
            self._lanes[key] = lane
        if lane.is_full:
            raise HangsError(errno.ETIMEDOUT, "the filesystem does not answer", directory)
        return lane


class _Order:
    """Something that a process was told and answers."""

    def __init__(self, lane: "_Lane | None", number: int) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lane = lane
        self._number = number

    def fail(self, error: OSError) -> None:
        """Hear that it can't be done."""
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # marks it as seen: nobody may have asked yet


class Placement(_Order):
    """Results on their way into a slot."""

    def __init__(self, lane: "_Lane | None", number: int, package: Package) -> None:
        super().__init__(lane, number)
        self.package = package
        self.size_bytes = package.size_bytes

    def publish(self) -> "asyncio.Future[None]":
        """Have the results put in their places; the future is done when they are there.

        It raises ``OSError`` where storage fails; then the slot holds no marker, or an old true
        one, and the delivery may be repeated. ``UnheardError``: or it holds the new one.
        """
        if self._lane is not None:
            self._lane.publish(self._number)
        return self.done

    def hangs(self) -> bool:
        """Whether the process hangs; logs that once for all that wait for it."""
        return self._lane is not None and self._lane.hangs()

    def abandon(self) -> None:
        """Have removed what was staged: nobody is to see it."""
        if self._lane is not None:
            self._lane.forget(self._number)
            self._lane.send(Abandon(self._number))


class _Lane:
    """The process of one filesystem, and what it was told."""

    def __init__(
        self,
        mount: str,
        shared_dir: str,
        lock_fd: int,
        instance_locks: Sequence[int],
        on_delivered: Callable[[Package], None],
    ) -> None:
        self._mount = mount
        self.stays = False
        """Whether it is kept when it has nothing to do."""
        self.has_ended = False
        self._on_delivered = on_delivered
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count()
        self._open: dict[int, _Order] = {}
        self._open_bytes = 0
        self._asked: dict[int, float] = {}
        """When each answer that is awaited was asked for, by the monotonic clock."""
        self._heard_at = 0.0
        """When it last answered."""
        self._is_told = False
        """Whether it was logged that it hangs, since then."""
        self._unsent: list[bytes] = []
        self._sending = memoryview(b"")
        """The rest of what was given to the link as one; goes before what is unsent."""
        self._is_flushing = False
        """Whether a flush will come by itself."""
        self._unused: asyncio.TimerHandle | None = None
        self._reaping: asyncio.Future[int] | None = None
        self._frames = Frames()
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._link.setblocking(False)
        with theirs:
            shared = os.fsencode(shared_dir)
            arguments = (theirs.fileno(), os.getpid(), shared, f"{temporary_name()}-", lock_fd)
            # The worker inherits the instance locks: if it outlives the daemon in a call to a hung
            # disk, no other daemon may write there before that call has ended.
            descriptors = [fd for fd in (theirs.fileno(), lock_fd, *instance_locks) if fd >= 0]
            try:
                self._process = subprocess.Popen(
                    command(*arguments),
                    stdin=subprocess.DEVNULL,
                    env={},
                    cwd="/",
                    pass_fds=descriptors,
                    start_new_session=True,
                )
            except OSError:
                self._link.close()
                raise
        self._loop.add_reader(self._link, self._on_readable)

    def stage(self, slot: Slot, package: Package, may_be_there: bool) -> Placement:
        """Tell it to stage a package."""
        number = next(self._numbers)
        placement = self._open[number] = Placement(self, number, package)
        self._open_bytes += placement.size_bytes
        self._is_used()
        output, output_root = package.output, b""
        if output is not None:
            output_root = os.fsencode(output.root)
            output = msgspec.structs.replace(output, root="")
        self.send(
            Stage(
                number,
                os.fsencode(slot.directory),
                slot.found_in,
                os.fsencode(slot.stem),
                package.files,
                package.marker,
                package.line,
                output,
                output_root,
                may_be_there,
            )
        )
        return placement

    def publish(self, number: int) -> None:
        """Tell it to publish what was staged."""
        self._asked[number] = time.monotonic()
        self.send(Publish(number))

    def probe(self, directory: str) -> "asyncio.Future[None]":
        """Tell it to open a directory and close it again."""
        number = next(self._numbers)
        probe = self._open[number] = _Order(self, number)
        self._asked[number] = time.monotonic()
        self._is_used()
        self.send(Probe(number, os.fsencode(directory)))
        return probe.done

    @property
    def is_full(self) -> bool:
        """Whether it seems to hang, and has as much as may wait for it to go on."""
        has_many = len(self._open) >= _MOST_WAITING or self._open_bytes >= _MOST_WAITING_BYTES
        return has_many and self.hangs()

    def hangs(self) -> bool:
        """Whether it owes answers and gives none; logs that once."""
        oldest = next(iter(self._asked.values()), None)
        since = time.monotonic() - _HANGS_SECONDS
        # What has come is read later, if the event loop was busy, or the whole daemon stopped.
        if oldest is None or oldest > since or self._heard_at > since or self._has_answered():
            return False
        self._log_hang(len(self._open))
        return True

    def _has_answered(self) -> bool:
        try:
            self._link.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True  # it is dead, as its reader finds out
        return True

    def _log_hang(self, undelivered: int) -> None:
        if not self._is_told:
            self._is_told = True
            _log.warning("delivery-worker-stalled", mount=self._mount, undelivered=undelivered)

    def forget(self, number: int) -> "_Order | None":
        """Expect no answer any more; return what was to be answered."""
        order = self._open.pop(number, None)
        self._asked.pop(number, None)
        if isinstance(order, Placement):
            self._open_bytes -= order.size_bytes
        return order

    def send(self, order: Order) -> None:
        """Send an order: one that is alone at once, others together with those of their turn."""
        if self.has_ended:
            return
        self._unsent.append(encode(order))
        if self._is_flushing:
            return
        if len(self._open) > 1:
            self._is_flushing = True
            self._loop.call_soon(self._flush)
        else:
            self._flush()

    def hang_up(self, seconds: float) -> None:
        """Tell it to end when it has done what it was told."""
        if not self.has_ended:
            self._link.settimeout(seconds)
            with contextlib.suppress(OSError):  # it hangs, or is dead
                self._link.sendall(self._sending)
                self._link.sendall(b"".join(self._unsent))
                self._link.shutdown(socket.SHUT_WR)

    def join(self, seconds: float) -> None:
        """Wait for the end of the process, or kill it. Its answers are not heard."""
        undelivered = len(self._open)
        self._end(UnheardError(errno.EINTR, "the daemon stops"))
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._log_hang(undelivered)

    def _flush(self) -> None:
        self._is_flushing = False
        if self.has_ended:
            return
        if not self._sending:
            self._sending = memoryview(b"".join(self._unsent))
            self._unsent.clear()
        try:
            # Of a view: what is left of many megabytes is not copied each time.
            self._sending = self._sending[self._link.send(self._sending) :]
        except BlockingIOError:
            pass
        except OSError:
            return  # it is dead, as its reader finds out
        if self._sending or self._unsent:
            # It has much to do: what else comes meanwhile is put behind.
            self._is_flushing = True
            self._loop.add_writer(self._link, self._on_writable)

    def _on_writable(self) -> None:
        self._loop.remove_writer(self._link)
        self._flush()

    def _on_readable(self) -> None:
        try:
            data = self._link.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._on_lost()
            return
        self._heard_at = time.monotonic()
        self._is_told = False
        for body in self._frames.feed(data):
            answer = decode_answer(body)
            if isinstance(answer, Placed):
                self._on_placed(answer)
            else:
                _log.warning(answer.event, **answer.fields)
        if not self._open and not self.stays and self._unused is None:
            self._unused = self._loop.call_later(_UNUSED_SECONDS, self._on_unused)

    def _on_placed(self, answer: Placed) -> None:
        order = self.forget(answer.number)
        if order is None:
            return
        if answer.error is not None:
            order.fail(OSError(*answer.error))
            return
        if isinstance(order, Placement):
            self._on_delivered(order.package)
        if not order.done.done():  # else whoever waited was cancelled
            order.done.set_result(None)

    def _is_used(self) -> None:
        if self._unused is not None:
            self._unused.cancel()
            self._unused = None

    def _on_unused(self) -> None:
        self._end(UnheardError(errno.EINTR, "the process that delivers was told to end"))
        self._reap()

    def _on_lost(self) -> None:
        _log.error("delivery-worker-died", process=self._process.pid, undelivered=len(self._open))
        self._end(UnheardError(errno.EIO, "the process that delivers died"))
        self._reap()

    def _end(self, error: UnheardError) -> None:
        if self.has_ended:
            return
        self.has_ended = True
        if self._unused is not None:
            self._unused.cancel()
        self._loop.remove_reader(self._link)
        self._loop.remove_writer(self._link)
        self._link.close()
        for order in self._open.values():
            order.fail(error)
        self._open.clear()
        self._asked.clear()

    def _reap(self) -> None:
        self._process.kill()  # it may hang, and have closed its link
        self._reaping = self._loop.run_in_executor(None, self._process.wait)


def command(
    link_fd: int, daemon_pid: int, shared_dir: bytes, temporary_prefix: str, lock_fd: int
) -> list[str]:
    """Return the command line of a process that delivers; see :func:`.process.main`."""
    arguments = (link_fd, daemon_pid, shared_dir, temporary_prefix, lock_fd)
    return command_for("wasmdrop.delivery.worker", *arguments)
