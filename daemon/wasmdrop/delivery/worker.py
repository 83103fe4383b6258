"""The process that delivers to one filesystem: takes orders until the daemon hangs up, or dies.

All orders that wait at a time go together through each step: a sync of a directory is then one for
all of them. Results are staged as soon as a job has them, beside the journal's own sync, and
published when the daemon says so.

Promises to end with the daemon: the next one must find nobody at work in its slots.
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

from wasmdrop.delivery.placement import Directory, Placing
from wasmdrop.delivery.syncing import Syncs
from wasmdrop.delivery.wire import (
    Answer,
    Frames,
    Order,
    Placed,
    Probe,
    Publish,
    Stage,
    Warned,
    decode_order,
    encode,
)
from wasmdrop.system import openat2, signals
from wasmdrop.system.output_thread import Outlet
from wasmdrop.system.processes import die_with
from wasmdrop.system.scheduling import take_turn_at_once, wait_for_turn

__all__ = ["Deliverer", "main"]

#: What is read of the link at once: some dozen small results. More would be memory that the
#: allocator asks the kernel for each time.
_READ_BYTES: Final = 1 << 16

#: Orders that go through the steps together: few enough for the descriptors of their files, also
#: when a disk that was full has room again for all that waited. More would only make the first wait
#: for the last.
_TOGETHER: Final = 64

#: Results that wait to be published, up to which each of them is in a hurry.
_FEW: Final = 2

_STDOUT: Final = 1

#: How long the end of the process waits for a reader of the last lines, in seconds.
_FLUSH_SECONDS: Final = 1.0


class Deliverer:
    """Delivers into directories below ``shared_dir``, and others that orders name.

    ``temporary_prefix``: what names of temporary files begin with, for nobody else's to be equal.
    ``answer`` sends answers; ``print_line`` prints a result's line, when it is in its place.
    """

    def __init__(
        self,
        shared_dir: str,
        temporary_prefix: str,
        answer: Callable[[Sequence[Answer]], None],
        print_line: Callable[[bytes], None],
    ) -> None:
        self._shared_dir = shared_dir.rstrip("/")
        self._temporary_prefix = temporary_prefix
        self._answer = answer
        self._print_line = print_line
        self._syncs = Syncs()
        self._staged: dict[int, Placing] = {}
        self._trash: deque[Iterator[None]] = deque()
        """What is to be removed when there is time."""

    def obey(self, orders: Iterable[Order]) -> None:
        """Do all of these; one that fails is answered with its error."""
        new: dict[int, Placing] = {}
        durable: list[Placing] = []
        """Those to be published that were written before."""
        others: list[Placing] = []
        for order in orders:
            if isinstance(order, Stage):
                placing = Placing(order, self._temporary_name, self._warn)
                new[order.number] = self._staged[order.number] = placing
            elif isinstance(order, Probe):
                self._probe(order)
            elif order.number in self._staged:
                placing = self._staged.pop(order.number)
                if isinstance(order, Publish):
                    (others if order.number in new else durable).append(placing)
                else:
                    placing.leave()
                    new.pop(order.number, None)
        written = list(new.values())
        self._write(written)
        # What the one half waits for the disk is time for the other.
        with self._syncs.files(written):
            self._publish(durable)
        for placing in written:
            placing.close_files()
        self._publish(others)

    @property
    def staged(self) -> int:
        """How many results wait to be published."""
        return len(self._staged)

    def tidy(self) -> bool:
        """Remove a piece of what nobody needs any more; False where there is nothing."""
        if self._trash and next(self._trash[0], True) is not None:
            self._trash.popleft()
        return bool(self._trash)

    def leave(self) -> None:
        """Remove what was staged and is not to be published any more, and all else."""
        for placing in self._staged.values():
            placing.leave()
        while self.tidy():
            pass

    def _write(self, placings: list[Placing]) -> None:
        directories: dict[bytes, Directory] = {}
        _each(placings, lambda one: one.enter(self._open(one.order.directory, directories)))
        _each(placings, Placing.write)

    def _publish(self, placings: list[Placing]) -> None:
        """Take all of them through each step before any goes on to the next."""
        missing = [placing for placing in placings if not placing.is_there]
        _each(missing, Placing.unmark)
        self._syncs.directories(placing for placing in missing if placing.was_marked)
        _each(missing, Placing.publish)
        self._syncs.directories(missing)
        _each(missing, Placing.mark)
        self._syncs.directories(placings)
        # Whoever put the others in place may have printed their lines: none is printed twice.
        _each(missing, lambda one: self._print_line(one.order.line))
        if placings:
            self._answer([_answer_of(placing) for placing in placings])
        # After the answers: who has none delivers again, for which what the output is copied from
        # must still be there.
        for placing in placings:
            trash = placing.clear()
            # The first step opens what it needs of the placing's, and is all for most.
            if next(trash, True) is None:
                self._trash.append(trash)
            placing.leave()

    def _probe(self, order: Probe) -> None:
        error = None
        try:
            os.close(self._open_directory(os.fsdecode(order.directory)))
        except OSError as caught:
            error = caught
        self._answer([Placed(order.number, _told(error))])

    def _open(self, path: bytes, directories: dict[bytes, Directory]) -> Directory:
        """Open the directory of a slot, once for those that come together."""
        directory = directories.get(path)
        if directory is None:
            directory = directories[path] = Directory(self._open_directory(os.fsdecode(path)))
        return directory

    def _open_directory(self, path: str) -> int:
        if path.startswith(self._shared_dir + "/"):
            return openat2.open_directory(self._shared_dir, path[len(self._shared_dir) + 1 :])
        # The shared directory itself, or where the operator wants the root slot's results.
        return openat2.open_directory(path, "")

    def _temporary_name(self) -> str:
        return f"{self._temporary_prefix}{os.urandom(8).hex()}"

    def _warn(self, event: str, **fields: str) -> None:
        shown = {key: _shown(value) or "" for key, value in fields.items()}
        self._answer([Warned(event, shown)])


class _Lines:
    """Prints result lines on standard output, whole, beside other processes that do so.

    ``lock_fd``: a file that they all have, to lock while a line is written. A short one, too: it is
    written at once (pipe(7)), but a long one of another process is not.
    """

    def __init__(self, lock_fd: int, warn: Callable[[str, dict[str, str]], None]) -> None:
        self._lock_fd = lock_fd
        self._outlet = Outlet(
            _STDOUT,
            lambda reason: warn("result-lines-stopped", {"error": reason}),
            lambda total: warn("result-lines-dropped", {"total": str(total)}),
            self._locked,
        )

    def print(self, line: bytes) -> None:
        """Print a line soon. The results are in their files: no reader must stop the daemon."""
        self._outlet.put(line)

    def flush(self) -> None:
        """Wait a little for those that are not printed yet."""
        self._outlet.flush(_FLUSH_SECONDS)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._lock_fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._lock_fd, fcntl.LOCK_UN)


def main(link_fd: int, daemon_pid: int, shared_dir: bytes, prefix: str, lock_fd: int) -> None:
    """Deliver what comes over the link; ``lock_fd`` is -1 where no lines are to be printed."""
    die_with(daemon_pid)
    signals.ignore_all()  # the daemon hangs up when it has stopped
    link = socket.socket(fileno=link_fd)
    sending = threading.Lock()  # lines are printed, and warned of, by a thread of their own

    def answer(answers: Sequence[Answer]) -> None:
        # A daemon that stops hears no answers any more, but is still owed what it has ordered.
        with sending, contextlib.suppress(OSError):
            link.sendall(b"".join(map(encode, answers)))

    lines = _Lines(lock_fd, lambda event, fields: answer([Warned(event, fields)]))

    deliverer = Deliverer(
        os.fsdecode(shared_dir),
        prefix,
        answer,
        lines.print if lock_fd >= 0 else lambda _line: None,
    )
    frames = Frames()
    is_patient = False
    while data := _received(link, deliverer):
        orders = list(map(decode_order, frames.feed(data)))
        # A single result is what everybody waits for; one of many is not the sooner there for
        # taking a core from those who make them.
        if is_patient != (deliverer.staged > _FEW):
            is_patient = not is_patient
            (wait_for_turn if is_patient else take_turn_at_once)()
        for start in range(0, len(orders), _TOGETHER):
            deliverer.obey(orders[start : start + _TOGETHER])
    deliverer.leave()
    lines.flush()


def _received(link: socket.socket, deliverer: Deliverer) -> bytes:
    """Return what the daemon says next, and tidy up until it does; nothing when it has hung up."""
    while deliverer.tidy() and not select.select([link], [], [], 0)[0]:
        pass
    try:
        return link.recv(_READ_BYTES)
    except ConnectionResetError:  # it did not read all answers
        return b""


def _each(placings: list[Placing], step: Callable[[Placing], None]) -> None:
    for placing in placings:
        if placing.error is None:
            try:
                step(placing)
            except OSError as error:
                placing.error = error


def _answer_of(placing: Placing) -> Placed:
    return Placed(placing.order.number, _told(placing.error))


def _told(error: OSError | None) -> tuple[int, str, str | None] | None:
    if error is None:
        return None
    return (error.errno or 0, error.strerror or str(error), _shown(error.filename))


def _shown(name: object) -> str | None:
    """Return a name of a file as text that can be sent, whatever bytes it holds."""
    if name is None:
        return None
    return str(name).encode("utf-8", "backslashreplace").decode()
