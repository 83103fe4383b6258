"""Writes lines to a descriptor, such as standard output, without ever blocking the caller.

A pipe that is not read, a stopped terminal (Ctrl-S) or a disk that hangs blocks one thread here and
nothing else. Waiting lines take a bounded amount of memory. Further lines, and lines that can't be
written, are dropped and counted.
"""

import contextlib
import os
import queue
import select
import threading
from collections.abc import Callable
from typing import Final

#: Bytes of lines that wait for a slow reader. A larger line waits alone.
_MAX_WAITING_BYTES: Final = 4 * 1024 * 1024


class OutputThread:
    """Writes lines to ``fd``, whole and in order.

    ``on_stopped`` is called with the reason when the first line is dropped, ``on_resumed`` with the
    number of lines dropped so far when lines are written again; both on any thread. ``guard`` is
    held while a line is written.
    """

    def __init__(
        self,
        fd: int,
        on_stopped: Callable[[str], None],
        on_resumed: Callable[[int], None],
        guard: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        self._fd = fd
        self._on_stopped = on_stopped
        self._on_resumed = on_resumed
        self._guard = guard
        self._queue = queue.SimpleQueue[bytes | threading.Event]()
        # Reentrant: a finalizer may run at any moment and log an error.
        self._lock = threading.RLock()
        self._waiting_bytes = 0
        self._dropped = 0
        self._has_stopped = False
        self._is_torn = False
        """Whether the last line was written only in part."""
        self._thread: threading.Thread | None = None

    def put(self, line: bytes) -> None:
        """Write a line soon. Returns at once and raises nothing. Thread-safe."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="output", daemon=True)
                self._thread.start()
            has_room = self._waiting_bytes + len(line) <= max(_MAX_WAITING_BYTES, len(line))
            if has_room:
                self._waiting_bytes += len(line)
                self._queue.put(line)
        if not has_room:
            self._drop("the reader does not read")

    def flush(self, seconds: float) -> None:
        """Wait until all lines are written or dropped, or none was for so many seconds."""
        if self._thread is not None:
            written = threading.Event()
            left_bytes = self._waiting_bytes
            self._queue.put(written)
            while not written.wait(seconds) and self._waiting_bytes < left_bytes:
                left_bytes = self._waiting_bytes

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            try:
                with self._guard():
                    self._write(item)
            except OSError as error:
                self._drop(error.strerror or str(error))
                is_written = False
            else:
                is_written = True
            with self._lock:
                self._waiting_bytes -= len(item)
                # Only when none waits: otherwise a slow reader causes two calls for each line.
                resumes = is_written and self._has_stopped and not self._waiting_bytes
                if resumes:
                    self._has_stopped = False
            if resumes:
                self._on_resumed(self._dropped)

    def _write(self, line: bytes) -> None:
        rest = memoryview(b"\n" + line if self._is_torn else line)
        while rest:
            try:
                written = os.write(self._fd, rest)
            except BlockingIOError:  # another process has made it non-blocking
                select.select([], [self._fd], [])
                continue
            rest = rest[written:]
            self._is_torn = bool(rest)

    def _drop(self, reason: str) -> None:
        with self._lock:
            self._dropped += 1
            stops = not self._has_stopped
            self._has_stopped = True
        if stops:
            self._on_stopped(reason)
