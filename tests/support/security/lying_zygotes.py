"""A fork server whose zygotes lie: they are confined as usual, but do anything.

They stand for zygotes that the machine code of their module has taken over. The output limit of the
jobs selects the lie; with another memory limit the zygote is the native program.
"""

import _socket
import errno
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from tests.support.native_reports import report_frame
from wasmdrop.protocol.limits import MEBIBYTE, Limits
from wasmdrop.sandbox.confinement import landlock
from wasmdrop.sandbox.confinement.confine import PROCESS_BYTES, Confinement
from wasmdrop.sandbox.confinement.syscalls import Role
from wasmdrop.sandbox.guest import fork_server
from wasmdrop.sandbox.guest.native_zygote import execute_zygote
from wasmdrop.sandbox.native_wire import MAX_NATIVE_REPORT_BYTES, Result
from wasmdrop.sandbox.wire import FRAME, ZygoteRequest

_LINK_FD: Final = 3
_SO_PEERCRED: Final = 17

#: The memory limit of jobs whose zygote lies.
_MEMORY_MB: Final = 17

_NAN: Final = float("nan")
_LARGEST: Final = (1 << 63) - 1


def main(control_fd: int, uid: int, gid: int) -> NoReturn:
    """Serve like the real one, with zygotes that lie if they are asked to."""
    vars(fork_server).update(execute_zygote=_serve)
    fork_server.main(control_fd, uid, gid)


class Liar:
    """A zygote that lies."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        # Confined, it may not ask for it.
        self.daemon_pid = _peer_of(control)
        self.kept: list[_socket.socket] = []

    def asked(self) -> None:
        """Wait until the daemon requests a child; exit when it closes the socket."""
        if not os.read(self.control.fileno(), 64):
            os._exit(0)

    def fork(self, do: Callable[[int], object], pid_of: int = 0) -> int:
        """Fork a child that calls ``do`` with its link; announce it, or the process ``pid_of``."""
        ours, theirs = _pair()
        pid = os.fork()
        if pid == 0:
            do(theirs.fileno())
            os._exit(0)
        self.kept += [ours, theirs]
        self.tell(pid, ours.fileno(), os.pidfd_open(pid_of or pid))
        return pid

    def tell(self, pid: int, *descriptors: int) -> None:
        """Announce a child."""
        socket.send_fds(self.control, [b"child %d" % pid], descriptors)

    def say(self, words: bytes) -> None:
        """Send any message."""
        os.write(self.control.fileno(), words)


def limits_of(lie: str, timeout_sec: float) -> Limits:
    """Return the limits of a job for which a zygote lies."""
    return Limits(
        timeout_sec=timeout_sec, memory_mb=_MEMORY_MB, output_mb=1 + list(LIES).index(lie)
    )


def _serve(
    executables: Sequence[int],
    request: ZygoteRequest,
    confinement: Confinement,
    link_fd: int,
    descriptors: Sequence[int],
) -> NoReturn:
    preparation = request.preparation
    if preparation is None or preparation.memory_bytes != _MEMORY_MB * MEBIBYTE:
        execute_zygote(executables, request, confinement, link_fd, descriptors)
    lie = list(LIES)[preparation.output_bytes // MEBIBYTE - 1]
    code_fd, control_fd = descriptors
    liar = Liar(socket.socket(fileno=control_fd))
    confinement._limit_space(MEBIBYTE, preparation.memory_bytes + PROCESS_BYTES)
    confinement._limit_threads()
    landlock.restrict(confinement.landlock_version, [code_fd])
    for role in (Role.ZYGOTE, Role.RUNNING):
        confinement._load_filter(role)
    if not lie.startswith("made:"):
        os.write(_LINK_FD, report_frame())
    LIES[lie](liar)
    os._exit(0)


def _with_number(frame: bytes, offset: int, number: int) -> bytes:
    """Return a report frame with another number of 4 bytes in its body."""
    body = bytearray(frame[FRAME.size :])
    struct.pack_into("<I", body, offset, number)
    return frame[: FRAME.size] + bytes(body)


def _for_ever(*_what: object) -> NoReturn:
    while True:
        time.sleep(1)


def _compute(*_what: object) -> NoReturn:
    while True:
        pass


def _answers(report: bytes) -> Callable[[int], None]:
    """Report this."""

    def answer(link_fd: int) -> None:
        if os.read(link_fd, 64):
            os.write(link_fd, report)
            os.read(link_fd, 1)

    return answer


#: Report that the function returned seven, after an implausible time.
_answer: Final = _answers(report_frame(7, numbers=(0.0, 1e300, -1, -1, 0, 0)))


def _serving(liar: Liar, once: Callable[[], object]) -> NoReturn:
    while True:
        liar.asked()
        once()


def _of_another(pid: Callable[[Liar], int]) -> Callable[[Liar], None]:
    """Announce children with the pidfd of another process, so that they cannot be killed."""
    return lambda liar: _serving(liar, lambda: liar.fork(_for_ever, pid(liar)))


def _peer_of(control: socket.socket) -> int:
    credentials = control.getsockopt(socket.SOL_SOCKET, _SO_PEERCRED, 12)
    return int(struct.unpack("3i", credentials)[0])


def _pair() -> tuple[_socket.socket, _socket.socket]:
    """Return a pair of sockets; those of the module ``socket`` make a forbidden call."""
    return _socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def _says(*words: bytes) -> Callable[[Liar], None]:
    """Send these messages after the first child."""

    def lie(liar: Liar) -> None:
        liar.asked()
        pid = liar.fork(_answer)
        for word in words:
            liar.say(word.replace(b"PID", b"%d" % pid))
        _for_ever()

    return lie


def _no_socket(liar: Liar) -> None:
    _serving(liar, lambda: liar.tell(os.getpid(), 0, os.pidfd_open(os.getpid())))


def _no_pidfd(liar: Liar) -> None:
    def once() -> None:
        ours, theirs = _pair()
        liar.kept += [ours, theirs]
        liar.tell(os.getpid(), ours.fileno(), 0)

    _serving(liar, once)


def _wrong_number(count: int) -> Callable[[Liar], None]:
    return lambda liar: _serving(liar, lambda: liar.tell(os.getpid(), *[0] * count))


def _flood(words: bytes, descriptors: int = 0) -> Callable[[Liar], None]:
    def lie(liar: Liar) -> None:
        liar.asked()
        while True:
            socket.send_fds(liar.control, [words], [0] * descriptors)

    return lie


def _ends_with_descriptors(liar: Liar) -> None:
    while True:
        liar.asked()
        pid = liar.fork(lambda _link: None)
        os.waitpid(pid, 0)
        socket.send_fds(liar.control, [b"exit %d 0 0" % pid], [0, 0])


def _twice(liar: Liar) -> None:
    while True:
        liar.asked()
        pid = liar.fork(_for_ever)
        liar.tell(pid, liar.kept[0].fileno(), os.pidfd_open(pid))


def _dead_before_they_are_used(liar: Liar) -> None:
    for _ in range(2):
        liar.asked()
        pid = liar.fork(lambda _link: None)
        liar.say(b"exit %d 0 0" % pid)
    _for_ever()


def _dies_with_its_jobs(liar: Liar) -> None:
    liar.asked()
    child = liar.fork(lambda link: (os.read(link, 64), os._exit(0)))
    os.waitpid(child, 0)


def _leave_behind() -> None:
    """Fork a process that forks another one; both outlive their parents."""
    if os.fork() == 0:
        os.fork()
        _for_ever()


def _leaves_behind(liar: Liar) -> None:
    _leave_behind()
    _serving(liar, lambda: liar.fork(_answer))


def _in_a_child(liar: Liar) -> None:
    def do(link_fd: int) -> None:
        _leave_behind()
        _answer(link_fd)

    _serving(liar, lambda: liar.fork(do))


def _made_and_left_behind(_liar: Liar) -> None:
    _leave_behind()


def _made_of_garbage(_liar: Liar) -> None:
    os.write(_LINK_FD, b"\xff" * 100)
    _for_ever()


def _computes(liar: Liar) -> None:
    liar.asked()
    liar.fork(_answer)
    _compute()


def _forks_no_more(liar: Liar) -> None:
    """Fork only twice: the user may have no processes left."""
    for _ in range(2):
        liar.asked()
        liar.fork(_answer)
    _serving(liar, lambda: liar.say(b"none %d" % errno.EAGAIN))


def _tells_of_no_end(liar: Liar) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _serving(liar, lambda: liar.fork(_answer))


def _says_byte_by_byte(link_fd: int) -> None:
    if os.read(link_fd, 64):
        for byte in report_frame(result=Result.FAILED, message=b"slow"):
            os.write(link_fd, bytes([byte]))
        os.read(link_fd, 1)


#: Answers of the children of a zygote that forks as it should.
ANSWERS: Final[dict[str, Callable[[int], None]]] = {
    "nothing": _answers(b""),
    "half-a-frame": _answers(report_frame(7)[:10]),
    "frame-of-four-gibibytes": _answers(FRAME.pack(0, 0xFFFFFFFF)),
    "frame-just-too-large": _answers(FRAME.pack(0, MAX_NATIVE_REPORT_BYTES + 1)),
    "frame-with-a-header": _answers(FRAME.pack(2, 0) + b"{}"),
    "frame-without-a-body": _answers(FRAME.pack(0, 0)),
    "garbage": _answers(FRAME.pack(0, 100) + bytes(range(100, 200))),
    "two-reports": _answers(report_frame(7) + report_frame(8)),
    "byte-by-byte": _says_byte_by_byte,
    "unknown-result": _answers(report_frame(7, result=99)),
    "stale-machine-code": _answers(report_frame(result=Result.STALE_CODE, message=b"stale")),
    "fault-of-the-sandbox": _answers(report_frame(result=Result.INTERNAL, message=b"fault")),
    "results-of-another": _answers(report_frame(1, 2, 3)),
    "results-too-wide": _answers(report_frame(1 << 32)),
    "results-without-bytes": _answers(_with_number(report_frame(7), 12, 0xFFFFFFFF)),
    "no-results": _answers(report_frame()),
    "largest-exit-code": _answers(report_frame(result=Result.EXITED, exit_code=0xFFFFFFFF)),
    "trap-of-no-number": _answers(report_frame(result=Result.TRAPPED, trap=-77)),
    "trap-beyond-all-numbers": _answers(report_frame(result=Result.TRAPPED, trap=1 << 30)),
    "message-of-terminal-escapes": _answers(
        report_frame(result=Result.FAILED, message=b"\x1b[2J\n" * 5000)
    ),
    "message-that-is-no-text": _answers(report_frame(result=Result.FAILED, message=b"\xff\xfe")),
    "message-longer-than-the-report": _answers(_with_number(report_frame(7), -8, 1 << 31)),
    "frames-without-bytes": _answers(_with_number(report_frame(7), -4, 0xFFFFFFFF)),
    "bytes-after-the-end": _answers(report_frame(7, frames=bytes(40))),
    "time-below-nothing": _answers(report_frame(7, numbers=(-5.0, -5.0, 0, -1, 0, 0))),
    "time-that-is-no-number": _answers(report_frame(7, numbers=(_NAN, _NAN, 0, -1, 0, 0))),
    "memory-below-nothing": _answers(report_frame(7, numbers=(0.0, 0.0, -5, -1, 0, 0))),
    "fuel-below-nothing": _answers(report_frame(7, numbers=(0.0, 0.0, 0, -5, 0, 0))),
    "growth-below-nothing": _answers(
        report_frame(result=Result.FAILED, numbers=(0.0, 0.0, 0, -1, -99, -99))
    ),
    "growth-beyond-measure": _answers(
        report_frame(result=Result.FAILED, numbers=(0.0, 0.0, 0, -1, _LARGEST, _LARGEST))
    ),
}


def _serves(answer: Callable[[int], None]) -> Callable[[Liar], None]:
    """Fork a child with this answer for each request."""
    return lambda liar: _serving(liar, lambda: liar.fork(answer))


LIES: Final[dict[str, Callable[[Liar], None]]] = {
    "children-are-the-fork-server": _of_another(lambda _liar: os.getppid()),
    "children-are-the-daemon": _of_another(lambda liar: liar.daemon_pid),
    "children-are-the-zygote": _of_another(lambda _liar: os.getpid()),
    "links-are-no-sockets": _no_socket,
    "processes-are-none": _no_pidfd,
    "children-without-descriptors": _wrong_number(0),
    "children-with-one-descriptor": _wrong_number(1),
    "children-with-many-descriptors": _wrong_number(20),
    "children-twice": _twice,
    "children-not-requested": _flood(b"child 1", 2),
    "ends-with-descriptors": _ends_with_descriptors,
    "ends-of-no-child": _says(b"exit 1 0 0"),
    "ends-beyond-measure": _says(b"exit PID 99999999999999999999 0"),
    "ends-that-are-stops": _says(b"exit PID 4991 0"),
    "ends-by-no-signal": _says(b"exit PID 100 0"),
    "ends-without-a-time": _says(b"exit PID 0"),
    "ends-after-all-time": _says(b"exit PID 0 " + b"9" * 400),
    "ends-of-two": _says(b"exit PID 0 0", b"exit PID 0 0"),
    "floods-of-garbage": _flood(b"\xff" * 900),
    "floods-of-nothing": _flood(b""),
    "packets-without-end": _says(b"x" * 100_000),
    "no-children-without-end": _flood(b"none"),
    "children-that-died-before": _dead_before_they_are_used,
    "never-answers": _for_ever,
    "dies-at-once": lambda _liar: None,
    "dies-with-its-jobs": _dies_with_its_jobs,
    "leaves-processes-behind": _leaves_behind,
    "children-leave-processes-behind": _in_a_child,
    "computes": _computes,
    "tells-of-no-end": _tells_of_no_end,
    "forks-no-more": _forks_no_more,
    **{f"answers: {name}": _serves(answer) for name, answer in ANSWERS.items()},
    "made: never": _for_ever,
    "made: garbage": _made_of_garbage,
    "made: dies": lambda _liar: None,
    "made: dies and leaves processes behind": _made_and_left_behind,
}
