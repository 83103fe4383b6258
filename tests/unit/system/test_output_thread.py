"""OutputThread: slow readers, and readers that do not read at all."""

import fcntl
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.support.daemon import wait_until
from wasmdrop.system.output_thread import OutputThread

PAGE_BYTES = 4096
LINE = b"%07d\n"


@dataclass
class Pipe:
    """A pipe of one page, and an outlet into it."""

    reading: int
    writing: int
    stopped: list[str] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, PAGE_BYTES)
        self.outlet = OutputThread(self.writing, self.stopped.append, self.resumed.append)

    def put(self, count: int) -> None:
        """Put so many numbered lines."""
        for number in range(count):
            self.outlet.put(LINE % number)

    def fill(self) -> None:
        """Leave no room in the pipe, and the outlet's thread waiting for some."""
        self.outlet.put(b"x" * (PAGE_BYTES + 1))
        wait_until(lambda: self._held_bytes() == PAGE_BYTES, "a full pipe")

    def _held_bytes(self) -> int:
        answer = fcntl.ioctl(self.reading, FIONREAD, bytes(4))
        return int.from_bytes(answer, "little")


#: What is there to be read (ioctl_tty(2)).
FIONREAD = 0x541B


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """Give a pipe; both its ends are closed afterwards."""
    it = Pipe(*os.pipe())
    yield it
    os.close(it.reading)
    it.outlet.flush(60)
    os.close(it.writing)


def read_until(pipe: Pipe, end: bytes) -> bytes:
    """Read until what was read ends so."""
    data = b""
    while not data.endswith(end):
        data += os.read(pipe.reading, PAGE_BYTES)
    return data


def test_put_beyond_the_bound_drops_lines(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never waits. The number of dropped lines is reported when the reader has caught up."""
    monkeypatch.setattr(
        "wasmdrop.system.output_thread._MAX_WAITING_BYTES", PAGE_BYTES + 1 + 10 * len(LINE % 0)
    )
    pipe.fill()
    pipe.put(25)
    assert pipe.stopped == ["the reader does not read"]
    assert pipe.resumed == []
    assert read_until(pipe, LINE % 9).endswith(b"x" + b"".join(LINE % one for one in range(10)))
    wait_until(lambda: pipe.resumed == [15], "the number")
    pipe.outlet.put(b"next\n")
    assert read_until(pipe, b"next\n") == b"next\n"
    assert len(pipe.stopped) == 1


def test_put_of_single_huge_line_writes_it(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """In as many parts as the pipe takes."""
    monkeypatch.setattr("wasmdrop.system.output_thread._MAX_WAITING_BYTES", 10)
    line = b"y" * 5 * PAGE_BYTES + b"\n"
    pipe.outlet.put(line)
    assert read_until(pipe, b"\n") == line
    assert pipe.stopped == []


def test_put_on_non_blocking_descriptor_waits_for_room(pipe: Pipe) -> None:
    """Another process that shares the pipe may have made it non-blocking."""
    os.set_blocking(pipe.writing, False)
    line = b"y" * 5 * PAGE_BYTES + b"\n"
    pipe.outlet.put(line)
    assert read_until(pipe, b"\n") == line
    assert pipe.stopped == []


def test_line_after_a_torn_line_starts_on_a_new_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a reader can tell them apart."""
    written: list[bytes] = []
    answers = iter([3, None, None, 8, 4])

    def write(_fd: int, data: memoryview) -> int:
        taken = next(answers)
        if taken is None:
            raise OSError(28, "No space left on device")
        written.append(bytes(data[:taken]))
        return taken

    stopped, resumed = list[str](), list[int]()
    outlet = OutputThread(-1, stopped.append, resumed.append)
    monkeypatch.setattr(os, "write", write)
    for line in (b"torn\n", b"lost\n", b"written\n"[1:], b"all\n"):
        outlet.put(line)
        outlet.flush(60)
    monkeypatch.undo()
    assert written == [b"tor", b"\nritten\n", b"all\n"]
    assert (stopped, resumed) == (["No space left on device"], [2])


def test_put_from_many_threads_keeps_lines_whole(pipe: Pipe) -> None:
    """Each thread's lines stay in order."""
    threads = [threading.Thread(target=pipe.put, args=(200,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    data = b""
    while data.count(b"\n") < 800:
        data += os.read(pipe.reading, PAGE_BYTES)
    for thread in threads:
        thread.join()
    assert sorted(data.splitlines(keepends=True)) == sorted(
        LINE % number for number in range(200) for _ in threads
    )


def test_flush_without_reader_returns(pipe: Pipe) -> None:
    """So that the process can exit."""
    pipe.fill()
    pipe.put(3)
    pipe.outlet.flush(0.01)
