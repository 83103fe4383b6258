"""The delivery worker: a process that delivers to one filesystem until the daemon hangs up or dies.

All requests that wait at a time go through each step together, so that one sync of a directory
serves all of them. Results are staged as soon as a job has them, while the journal is synced, and
published at the daemon's request.

Guarantees to end with the daemon: the next daemon must find nothing at work in its slots.
"""

import contextlib
import fcntl
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from wasmdrop.delivery.fsync import FsyncBatch
from wasmdrop.delivery.placement import Placement, TargetDirectory
from wasmdrop.delivery.wire import (
    DeliveryReport,
    DeliveryRequest,
    Finished,
    FrameDecoder,
    LogEvent,
    Probe,
    Publish,
    Stage,
    decode_request,
    encode,
)
from wasmdrop.protocol.text import escaped
from wasmdrop.system import openat2, signals
from wasmdrop.system.output_thread import OutputThread
from wasmdrop.system.process_title import set_process_title
from wasmdrop.system.processes import (
    die_with_parent,
    use_batch_scheduling,
    use_normal_scheduling,
)

#: Bytes that one read of the link takes: some dozen small results. The allocator asks the kernel
#: for larger buffers each time.
_READ_BYTES: Final = 1 << 16

#: Requests that go through the steps together. Bounds the descriptors that are open at a time, also
#: when a full disk has room again for everything that waited.
_MAX_BATCH: Final = 64

#: Files, or directories, that are synced at a time: three files of each request of a batch.
_MAX_SYNCS: Final = 3 * _MAX_BATCH

#: With more staged results than this, throughput counts more than the latency of each one.
_FEW_STAGED: Final = 2

_STDOUT: Final = 1

#: How long the worker's exit waits for a reader of the last result lines.
_FLUSH_SECONDS: Final = 1.0


class DeliveryWorker:
    """Delivers into directories below ``shared_dir``, and others that requests name.

    Names of temporary files begin with ``temporary_prefix``, which no other process uses.
    ``report`` sends reports; ``print_line`` prints the line of a result that is in place.
    """

    def __init__(
        self,
        shared_dir: str,
        temporary_prefix: str,
        report: Callable[[Sequence[DeliveryReport]], None],
        print_line: Callable[[bytes], None],
    ) -> None:
        self._shared_dir = shared_dir.rstrip("/")
        self._temporary_prefix = temporary_prefix
        self._report = report
        self._print_line = print_line
        self._file_syncs = FsyncBatch(_MAX_SYNCS)
        self._directory_syncs = FsyncBatch(_MAX_SYNCS)
        self._staged: dict[int, Placement] = {}
        self._removals: deque[Iterator[None]] = deque()
        """Removals to be done while there is nothing else to do."""

    def handle(self, requests: Iterable[DeliveryRequest]) -> None:
        """Handle all these requests. One that fails is reported with its error."""
        new: dict[int, Placement] = {}
        durable: list[Placement] = []
        """Those to publish whose files an earlier call has synced."""
        others: list[Placement] = []
        for request in requests:
            if isinstance(request, Stage):
                placement = Placement(request, self._temporary_name, self._warn)
                new[request.number] = self._staged[request.number] = placement
            elif isinstance(request, Probe):
                self._probe(request)
            elif request.number in self._staged:
                placement = self._staged.pop(request.number)
                if isinstance(request, Publish):
                    (others if request.number in new else durable).append(placement)
                else:
                    placement.close()
                    new.pop(request.number, None)
        written = list(new.values())
        self._write(written)
        with self._syncing_files(written):  # meanwhile, publish what is durable
            self._publish(durable)
        for placement in written:
            placement.close_files()
        self._publish(others)

    @property
    def staged_count(self) -> int:
        """How many results wait to be published."""
        return len(self._staged)

    def remove_some(self) -> bool:
        """Do one step of the pending removals; return whether any are left."""
        if self._removals and next(self._removals[0], True) is not None:
            self._removals.popleft()
        return bool(self._removals)

    def close(self) -> None:
        """Remove results that were staged and never published, and do all pending removals."""
        for placement in self._staged.values():
            placement.close()
        while self.remove_some():
            pass

    def _write(self, placements: list[Placement]) -> None:
        directories: dict[bytes, TargetDirectory] = {}
        _each(placements, lambda one: one.enter(self._open(one.request.directory, directories)))
        _each(placements, Placement.write)

    def _publish(self, placements: list[Placement]) -> None:
        """Take all of them through each step before the next step."""
        if not placements:
            return
        missing = [placement for placement in placements if not placement.is_published]
        _each(missing, Placement.remove_marker)
        self._sync_directories(one for one in missing if one.had_marker)
        _each(missing, Placement.publish)
        self._sync_directories(missing)
        _each(missing, Placement.publish_marker)
        self._sync_directories(placements)
        # The worker that published the others may have printed their lines: none is printed twice.
        _each(missing, lambda one: self._print_line(one.request.package.line))
        self._report([Finished(one.request.number, _fields(one.error)) for one in placements])
        # After the reports: without one, the daemon delivers again and needs the output's source.
        for placement in placements:
            removal = placement.remove_leftovers()
            # The first step opens what the removal needs of the placement. Most have no other.
            if next(removal, True) is None:
                self._removals.append(removal)
            placement.close()

    @contextlib.contextmanager
    def _syncing_files(self, placements: Iterable[Placement]) -> Iterator[None]:
        """Sync the written files while the block runs; they are durable at its end."""
        files = [(placement, fd) for placement in placements for fd in placement.unsynced]
        self._file_syncs.begin([fd for _placement, fd in files])
        try:
            yield
        finally:
            for (placement, _fd), error in zip(files, self._file_syncs.finish(), strict=True):
                placement.error = error or placement.error

    def _sync_directories(self, placements: Iterable[Placement]) -> None:
        """Sync each placement's directory, once for all placements in it."""
        groups: dict[tuple[int, int], tuple[TargetDirectory, list[Placement]]] = {}
        for placement in placements:
            if placement.error is None and placement.directory is not None:
                directory = placement.directory
                groups.setdefault(directory.inode, (directory, []))[1].append(placement)
        self._directory_syncs.begin([directory.fd for directory, _group in groups.values()])
        errors = self._directory_syncs.finish()
        for (_directory, group), error in zip(groups.values(), errors, strict=True):
            for placement in group:
                placement.error = error

    def _probe(self, request: Probe) -> None:
        error = None
        try:
            os.close(self._open_directory(os.fsdecode(request.directory)))
        except OSError as caught:
            error = caught
        self._report([Finished(request.number, _fields(error))])

    def _open(self, path: bytes, directories: dict[bytes, TargetDirectory]) -> TargetDirectory:
        directory = directories.get(path)
        if directory is None:
            fd = self._open_directory(os.fsdecode(path))
            directory = directories[path] = TargetDirectory(fd)
        return directory

    def _open_directory(self, path: str) -> int:
        if path.startswith(self._shared_dir + "/"):
            return openat2.open_directory(self._shared_dir, path[len(self._shared_dir) + 1 :])
        # The shared directory itself, or the one that the operator chose for the root slot.
        return openat2.open_directory(path, "")

    def _temporary_name(self) -> str:
        return f"{self._temporary_prefix}{os.urandom(8).hex()}"

    def _warn(self, event: str, **fields: str) -> None:
        self._report([LogEvent(event, {key: escaped(value) for key, value in fields.items()})])


class _ResultLines:
    """Prints result lines on standard output, each one whole, beside other workers that do so.

    Workers lock ``lock_fd`` while they write a line. The kernel writes a short line to a pipe at
    once (pipe(7)), but not the long one of another worker.
    """

    def __init__(self, lock_fd: int, warn: Callable[[str, dict[str, str]], None]) -> None:
        self._lock_fd = lock_fd
        self._output = OutputThread(
            _STDOUT,
            lambda reason: warn("result-lines-stopped", {"error": reason}),
            lambda total: warn("result-lines-dropped", {"total": str(total)}),
            self._locked,
        )

    def print(self, line: bytes) -> None:
        """Print a line soon. Never blocks: the results are in their files."""
        self._output.put(line)

    def flush(self) -> None:
        """Wait a moment for lines that are not printed yet."""
        self._output.flush(_FLUSH_SECONDS)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._lock_fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._lock_fd, fcntl.LOCK_UN)


def main(
    link_fd: int,
    daemon_pid: int,
    shared_dir: bytes,
    temporary_prefix: str,
    output_lock_fd: int,
    mount_point: bytes,
) -> None:
    """Run a delivery worker.

    ``output_lock_fd``: -1 if no result lines are printed. ``mount_point``: that of the filesystem
    that it writes to, for its title.
    """
    die_with_parent(daemon_pid)
    set_process_title(f"wasmdrop: delivery worker {os.fsdecode(mount_point)}")
    signals.ignore_all()  # the daemon hangs up when it stops
    link = socket.socket(fileno=link_fd)
    sending = threading.Lock()  # the thread that prints lines sends reports too

    def report(reports: Sequence[DeliveryReport]) -> None:
        # A daemon that stops reads no more reports, but its requests are still handled.
        with sending, contextlib.suppress(OSError):
            link.sendall(b"".join(map(encode, reports)))

    lines = _ResultLines(output_lock_fd, lambda event, fields: report([LogEvent(event, fields)]))
    worker = DeliveryWorker(
        os.fsdecode(shared_dir),
        temporary_prefix,
        report,
        lines.print if output_lock_fd >= 0 else lambda _line: None,
    )
    frames = FrameDecoder()
    is_batch = False
    while data := _receive(link, worker):
        requests = list(map(decode_request, frames.feed(data)))
        # Everyone waits for a single result. One of many is not published sooner by taking a core
        # from the jobs that produce the others.
        if is_batch != (worker.staged_count > _FEW_STAGED):
            is_batch = not is_batch
            (use_batch_scheduling if is_batch else use_normal_scheduling)()
        for start in range(0, len(requests), _MAX_BATCH):
            worker.handle(requests[start : start + _MAX_BATCH])
    worker.close()
    lines.flush()


def _receive(link: socket.socket, worker: DeliveryWorker) -> bytes:
    """Return the next data from the daemon, empty after it hung up; remove leftovers meanwhile."""
    while worker.remove_some() and not select.select([link], [], [], 0)[0]:
        pass
    try:
        return link.recv(_READ_BYTES)
    except ConnectionResetError:  # it did not read all reports
        return b""


def _each(placements: list[Placement], step: Callable[[Placement], None]) -> None:
    for placement in placements:
        if placement.error is None:
            try:
                step(placement)
            except OSError as error:
                placement.error = error


def _fields(error: OSError | None) -> tuple[int, str, str | None] | None:
    if error is None:
        return None
    name = None if error.filename is None else escaped(str(error.filename))
    return (error.errno or 0, error.strerror or str(error), name)
