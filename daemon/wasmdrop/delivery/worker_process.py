"""A delivery worker as the daemon sees it: its process, its requests and its reports."""

import asyncio
import contextlib
import errno
import itertools
import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from wasmdrop.delivery.wire import (
    Abandon,
    DeliveryRequest,
    Finished,
    FrameDecoder,
    Probe,
    Publish,
    ResultPackage,
    Stage,
    decode_report,
    encode,
)
from wasmdrop.protocol.slot import Slot
from wasmdrop.system.durable_files import temporary_name
from wasmdrop.system.processes import python_command

_log = structlog.get_logger()

#: How long an idle worker lives, unless it is the one of the shared directory.
_IDLE_SECONDS: Final = 300.0

_READ_BYTES: Final = 1 << 16

#: A worker hangs if it owes reports and has sent none for so long. A busy one reports all the time.
_HANGS_SECONDS: Final = 2.0

#: A worker that hangs gets no more results than these, which only wait in memory.
_MAX_WAITING: Final = 64
_MAX_WAITING_BYTES: Final = 8 * 1024 * 1024


class DeliveryLostError(OSError):
    """The worker ended before it reported whether the results are in place."""


class DeliveryHangsError(TimeoutError):
    """The worker hangs with its filesystem; ``delivery-worker-stalled`` was logged."""


class _PendingRequest:
    """A request that the worker has not answered yet."""

    def __init__(self, worker: "WorkerProcess | None", number: int) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._worker = worker
        self._number = number

    def fail(self, error: OSError) -> None:
        """Set the error of a request that failed."""
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # marks it as retrieved: there may be no waiter yet


class PendingDelivery(_PendingRequest):
    """Results on their way into a slot."""

    def __init__(self, worker: "WorkerProcess | None", number: int, package: ResultPackage) -> None:
        super().__init__(worker, number)
        self.package = package
        self.size_bytes = package.size_bytes

    def publish(self) -> "asyncio.Future[None]":
        """Have the results moved into place; the future is done when they are there.

        It raises ``OSError`` if storage fails. The slot then holds no marker, or a true old one,
        and the delivery may be repeated. After a ``DeliveryLostError`` it may hold the new marker.
        """
        if self._worker is not None:
            self._worker.publish(self._number)
        return self.done

    def hangs(self) -> bool:
        """Whether the worker hangs; logs that once for all of its deliveries."""
        return self._worker is not None and self._worker.hangs()

    def abandon(self) -> None:
        """Have the staged files removed; they are never published."""
        if self._worker is not None:
            self._worker.forget(self._number)
            self._worker.send(Abandon(self._number))


class WorkerProcess:
    """The delivery worker of one filesystem.

    ``output_lock_fd`` is locked while a result line is printed; -1 if none are. The worker inherits
    ``instance_locks``. With ``ends_when_idle`` it is stopped after some idle minutes.
    """

    def __init__(
        self,
        mount_point: str,
        shared_dir: str,
        output_lock_fd: int,
        instance_locks: Sequence[int],
        on_delivered: Callable[[ResultPackage], None],
        *,
        ends_when_idle: bool,
    ) -> None:
        self.has_ended = False
        self._mount_point = mount_point
        self._ends_when_idle = ends_when_idle
        self._on_delivered = on_delivered
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count()
        self._pending: dict[int, _PendingRequest] = {}
        self._pending_bytes = 0
        self._awaited: dict[int, float] = {}
        """When each report that is awaited was asked for, by the monotonic clock."""
        self._last_report_at = 0.0
        self._has_logged_hang = False
        """Whether a hang was logged since the last report."""
        self._unsent: list[bytes] = []
        self._sending = memoryview(b"")
        """The rest of the last send, which goes before the unsent messages."""
        self._is_flush_scheduled = False
        self._idle_timer: asyncio.TimerHandle | None = None
        self._reaping: asyncio.Future[int] | None = None
        self._frames = FrameDecoder()
        self._link, worker_link = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._link.setblocking(False)
        with worker_link:
            arguments = (
                worker_link.fileno(),
                os.getpid(),
                os.fsencode(shared_dir),
                f"{temporary_name()}-",
                output_lock_fd,
                os.fsencode(mount_point),
            )
            # A worker that hangs in a call to its disk may outlive the daemon. It then still holds
            # the daemon's locks, so that no other daemon writes there before it has ended.
            inherited = (worker_link.fileno(), output_lock_fd, *instance_locks)
            try:
                self._process = subprocess.Popen(
                    command(*arguments),
                    stdin=subprocess.DEVNULL,
                    env={},
                    cwd="/",
                    pass_fds=[fd for fd in inherited if fd >= 0],
                    start_new_session=True,
                )
            except OSError:
                self._link.close()
                raise
        self._loop.add_reader(self._link, self._on_readable)

    def stage(self, slot: Slot, package: ResultPackage, may_be_published: bool) -> PendingDelivery:
        """Request that a package is staged."""
        number = next(self._numbers)
        delivery = self._pending[number] = PendingDelivery(self, number, package)
        self._pending_bytes += delivery.size_bytes
        self._stop_idle_timer()
        output_root = b""
        if package.output is not None:
            output_root = os.fsencode(package.output.root)
            output = msgspec.structs.replace(package.output, root="")
            package = msgspec.structs.replace(package, output=output)
        directory, stem = os.fsencode(slot.directory), os.fsencode(slot.stem)
        self.send(
            Stage(number, directory, slot.found_in, stem, package, output_root, may_be_published)
        )
        return delivery

    def publish(self, number: int) -> None:
        """Request that a staged package is published."""
        self._awaited[number] = time.monotonic()
        self.send(Publish(number))

    def probe(self, directory: str) -> "asyncio.Future[None]":
        """Request that a directory is opened and closed again."""
        number = next(self._numbers)
        probe = self._pending[number] = _PendingRequest(self, number)
        self._awaited[number] = time.monotonic()
        self._stop_idle_timer()
        self.send(Probe(number, os.fsencode(directory)))
        return probe.done

    @property
    def is_full(self) -> bool:
        """Whether the worker hangs and has as many results waiting as it may have."""
        has_many = len(self._pending) >= _MAX_WAITING or self._pending_bytes >= _MAX_WAITING_BYTES
        return has_many and self.hangs()

    def hangs(self) -> bool:
        """Whether the worker owes reports and sends none; logs that once."""
        oldest = next(iter(self._awaited.values()), None)
        since = time.monotonic() - _HANGS_SECONDS
        if oldest is None or oldest > since or self._last_report_at > since:
            return False
        # A report may be there unread, if the event loop was busy or the daemon was stopped.
        if self._has_unread_report():
            return False
        self._log_hang(len(self._pending))
        return True

    def _has_unread_report(self) -> bool:
        try:
            self._link.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True  # the worker is dead, which the reader notices
        return True

    def _log_hang(self, undelivered: int) -> None:
        if not self._has_logged_hang:
            self._has_logged_hang = True
            _log.warning(
                "delivery-worker-stalled", mount=self._mount_point, undelivered=undelivered
            )

    def forget(self, number: int) -> _PendingRequest | None:
        """Expect no report on a request any more; return the request."""
        request = self._pending.pop(number, None)
        self._awaited.pop(number, None)
        if isinstance(request, PendingDelivery):
            self._pending_bytes -= request.size_bytes
        return request

    def send(self, request: DeliveryRequest) -> None:
        """Send a request: a single one at once, several in one loop iteration together."""
        if self.has_ended:
            return
        self._unsent.append(encode(request))
        if self._is_flush_scheduled:
            return
        if len(self._pending) > 1:
            self._is_flush_scheduled = True
            self._loop.call_soon(self._flush)
        else:
            self._flush()

    def hang_up(self, seconds: float) -> None:
        """Tell the worker to exit when it has handled all requests."""
        if not self.has_ended:
            self._link.settimeout(seconds)
            with contextlib.suppress(OSError):  # it hangs, or is dead
                self._link.sendall(self._sending)
                self._link.sendall(b"".join(self._unsent))
                self._link.shutdown(socket.SHUT_WR)

    def join(self, seconds: float) -> None:
        """Wait until the worker exits, or kill it. Its reports are no longer read."""
        undelivered = len(self._pending)
        self._end(DeliveryLostError(errno.EINTR, "the daemon stops"))
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._log_hang(undelivered)

    def _flush(self) -> None:
        self._is_flush_scheduled = False
        if self.has_ended:
            return
        if not self._sending:
            self._sending = memoryview(b"".join(self._unsent))
            self._unsent.clear()
        try:
            # A view, so that the rest of many megabytes is not copied each time.
            self._sending = self._sending[self._link.send(self._sending) :]
        except BlockingIOError:
            pass
        except OSError:
            return  # the worker is dead, which the reader notices
        if self._sending or self._unsent:
            self._is_flush_scheduled = True
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
        self._last_report_at = time.monotonic()
        self._has_logged_hang = False
        for body in self._frames.feed(data):
            report = decode_report(body)
            if isinstance(report, Finished):
                self._on_finished(report)
            else:
                _log.warning(report.event, **report.fields)
        if self._ends_when_idle and not self._pending and self._idle_timer is None:
            self._idle_timer = self._loop.call_later(_IDLE_SECONDS, self._on_idle)

    def _on_finished(self, report: Finished) -> None:
        request = self.forget(report.number)
        if request is None:
            return
        if report.error is not None:
            request.fail(OSError(*report.error))
            return
        if isinstance(request, PendingDelivery):
            self._on_delivered(request.package)
        if not request.done.done():  # the waiter may have been cancelled
            request.done.set_result(None)

    def _stop_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _on_idle(self) -> None:
        self._end(DeliveryLostError(errno.EINTR, "the idle delivery worker was stopped"))
        self._reap()

    def _on_lost(self) -> None:
        _log.error(
            "delivery-worker-died", process=self._process.pid, undelivered=len(self._pending)
        )
        self._end(DeliveryLostError(errno.EIO, "the delivery worker died"))
        self._reap()

    def _end(self, error: DeliveryLostError) -> None:
        if self.has_ended:
            return
        self.has_ended = True
        self._stop_idle_timer()
        self._loop.remove_reader(self._link)
        self._loop.remove_writer(self._link)
        self._link.close()
        for request in self._pending.values():
            request.fail(error)
        self._pending.clear()
        self._awaited.clear()

    def _reap(self) -> None:
        self._process.kill()  # it may hang although its link is closed
        self._reaping = self._loop.run_in_executor(None, self._process.wait)


def command(*arguments: object) -> list[str]:
    """Return the command line of a delivery worker with the arguments of :func:`.worker.main`."""
    return python_command("wasmdrop.delivery.worker", *arguments)
