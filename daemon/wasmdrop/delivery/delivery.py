"""Delivery in the daemon: routes each job's results to the delivery worker of their filesystem.

A worker that hangs with its filesystem delays no other one and gets only a bounded number of
results. Deliveries that failed before go through a worker of their own, so that new ones do not
wait behind them. If a worker died, the next delivery starts another one. The results that it had
fail as storage failures; their retry first checks whether they are in place already.
"""

import asyncio
import errno
import os
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final, Self

from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.delivery.worker_process import (
    DeliveryHangsError,
    PendingDelivery,
    WorkerProcess,
)
from wasmdrop.protocol.slot import Slot
from wasmdrop.system.mount_table import MountTable

#: How long a shutdown waits for deliveries in progress.
_CLOSE_SECONDS: Final = 5.0


class _Traffic(StrEnum):
    """Kinds of deliveries to one filesystem, which do not wait for each other."""

    RESULTS = "results"
    OUTPUT = "output"
    """Results with output files, which may be many megabytes."""
    RETRIES = "retries"


class Delivery:
    """Delivers results. Used from one event loop.

    ``on_delivered`` is called with each package that is in place. With ``prints_lines`` its result
    line is printed on standard output then. Every worker inherits the descriptors
    ``instance_locks`` and holds these locks for as long as it lives.
    """

    def __init__(
        self,
        shared_dir: str,
        on_delivered: Callable[[ResultPackage], None] = lambda _package: None,
        *,
        prints_lines: bool = False,
        instance_locks: Sequence[int] = (),
    ) -> None:
        self._shared_dir = shared_dir
        self._on_delivered = on_delivered
        self._instance_locks = instance_locks
        self._output_lock_fd = os.memfd_create("wasmdrop-lines") if prints_lines else -1
        self._mounts = MountTable()
        self._workers: dict[tuple[str, _Traffic], WorkerProcess] = {}
        # Started in advance: a worker takes a moment to start, which the first job should not wait.
        self._worker(self._shared_dir, _Traffic.RESULTS)

    def stage(self, slot: Slot, package: ResultPackage) -> PendingDelivery:
        """Have results written to temporary files beside their final names.

        The caller must call :meth:`PendingDelivery.publish` or :meth:`PendingDelivery.abandon`.
        """
        traffic = _Traffic.RESULTS if package.output is None else _Traffic.OUTPUT
        return self._stage(slot, package, traffic, may_be_published=False)

    def deliver(self, slot: Slot, package: ResultPackage) -> "asyncio.Future[None]":
        """Stage and publish; see :meth:`stage` and :meth:`PendingDelivery.publish`."""
        return self.stage(slot, package).publish()

    def deliver_again(self, slot: Slot, package: ResultPackage) -> "asyncio.Future[None]":
        """Retry a delivery that failed, or whose worker died before it reported.

        Results that are in place already are only made durable, and no second line is printed.
        """
        return self._stage(slot, package, _Traffic.RETRIES, may_be_published=True).publish()

    def probe(self, directory: str) -> "asyncio.Future[None]":
        """Check that a slot's directory can be opened; the future raises ``OSError`` if not.

        Before a retry: no results are sent to a directory that can't take them.
        """
        try:
            return self._worker(directory, _Traffic.RETRIES).probe(directory)
        except OSError as error:
            failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed

    def _stage(
        self, slot: Slot, package: ResultPackage, traffic: _Traffic, *, may_be_published: bool
    ) -> PendingDelivery:
        try:
            worker = self._worker(slot.directory, traffic)
        except OSError as error:  # there is no room for one more process, or it hangs
            delivery = PendingDelivery(None, 0, package)
            delivery.fail(error)
            return delivery
        return worker.stage(slot, package, may_be_published)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        """Stop the workers after they have published their packages.

        Results of a worker that hangs stay in the journal.
        """
        end = time.monotonic() + _CLOSE_SECONDS
        for worker in self._workers.values():
            worker.hang_up(max(0.0, end - time.monotonic()))
        end = time.monotonic() + _CLOSE_SECONDS  # a worker that hangs takes no time from the others
        for worker in self._workers.values():
            worker.join(max(0.0, end - time.monotonic()))
        self._mounts.close()
        if self._output_lock_fd >= 0:
            os.close(self._output_lock_fd)

    def _worker(self, directory: str, traffic: _Traffic) -> WorkerProcess:
        """Return the worker for a directory. Raises ``OSError`` if it takes no more results."""
        mount_point = self._mounts.of(directory).point
        key = (mount_point, traffic)
        worker = self._workers.get(key)
        if worker is None or worker.has_ended:
            shared_mount_point = self._mounts.of(self._shared_dir).point
            worker = self._workers[key] = WorkerProcess(
                mount_point,
                self._shared_dir,
                self._output_lock_fd,
                self._instance_locks,
                self._on_delivered,
                ends_when_idle=key != (shared_mount_point, _Traffic.RESULTS),
            )
        if worker.is_full:
            raise DeliveryHangsError(errno.ETIMEDOUT, "the filesystem does not answer", directory)
        return worker
