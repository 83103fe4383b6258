"""A fork server whose zygotes lie: they are confined as usual, but do anything.

They stand for zygotes that the machine code of their module has taken over. The function that a
zygote is made for selects the lie; other functions get an honest zygote.
"""

import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from typing import Final, NoReturn

from wasmdrop.protocol.outcome import Code
from wasmdrop.sandbox.confinement.confine import PROCESS_BYTES, Confinement
from wasmdrop.sandbox.guest import fork_server
from wasmdrop.sandbox.guest.channel import send
from wasmdrop.sandbox.guest.engine import Engine
from wasmdrop.sandbox.guest.zygote import serve_zygote
from wasmdrop.sandbox.wire import RunReport, ZygoteRequest

#: The function of an honest zygote that can fork only twice.
FORKS_NO_MORE: Final = "forks-no-more"

_LINK_FD: Final = 3
_SO_PEERCRED: Final = 17


def main(control_fd: int, uid: int, gid: int) -> NoReturn:
    """Serve like the real one, with zygotes that lie if they are asked to."""
    vars(fork_server).update(serve_zygote=_serve)
    fork_server.main(control_fd, uid, gid)


class Liar:
    """A zygote that lies."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.kept: list[socket.socket] = []

    def asked(self) -> None:
        """Wait until the daemon requests a child; exit when it closes the socket."""
        if not self.control.recv(16):
            os._exit(0)

    def fork(self, do: Callable[[int], object], pid_of: int = 0) -> int:
        """Fork a child that calls ``do`` with its link; announce it, or the process ``pid_of``."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
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
        self.control.send(words)


def _serve(
    request: ZygoteRequest,
    engine: Engine,
    warm_up: Callable[[], None],
    confinement: Confinement,
    link_fd: int,
    descriptors: list[int],
) -> NoReturn:
    function = request.preparation.function
    if function is not None and function.entry == FORKS_NO_MORE:
        _fork_no_more()
    if function is None or function.entry not in LIES:
        serve_zygote(request, engine, warm_up, confinement, link_fd, descriptors)
    code_fd, control_fd = descriptors
    control = socket.socket(fileno=control_fd)
    confinement.confine_zygote(
        readable=[code_fd], file_bytes=1 << 20, data_bytes=(1 << 24) + PROCESS_BYTES
    )
    confinement.confine_after_loading()
    if not function.entry.startswith("made:"):
        send(_LINK_FD, RunReport(Code.OK))
    LIES[function.entry](Liar(control))
    os._exit(0)


def _fork_no_more() -> None:
    fork, left = os.fork, [1, 1]

    def fork_twice() -> int:
        if not left:
            raise BlockingIOError
        left.pop()
        return fork()

    vars(os)["fork"] = fork_twice


def _for_ever(*_what: object) -> NoReturn:
    while True:
        time.sleep(1)


def _compute(*_what: object) -> NoReturn:
    while True:
        pass


def _answer(link_fd: int) -> None:
    """Report that the function returned seven."""
    if not os.read(link_fd, 64):
        return
    report = struct.pack("<ddqq", 0.0, 1e300, -1, -1) + (7).to_bytes(16, "little")
    os.write(link_fd, struct.pack("<II", 0, len(report)) + report)
    os.read(link_fd, 1)


def _serving(liar: Liar, once: Callable[[], object]) -> NoReturn:
    while True:
        liar.asked()
        once()


def _of_another(pid: Callable[[Liar], int]) -> Callable[[Liar], None]:
    """Announce children with the pidfd of another process, so that they cannot be killed."""
    return lambda liar: _serving(liar, lambda: liar.fork(_for_ever, pid(liar)))


def _daemon(liar: Liar) -> int:
    credentials = liar.control.getsockopt(socket.SOL_SOCKET, _SO_PEERCRED, 12)
    return int(struct.unpack("3i", credentials)[0])


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
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
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


def _tells_of_no_end(liar: Liar) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _serving(liar, lambda: liar.fork(_answer))


LIES: Final[dict[str, Callable[[Liar], None]]] = {
    "children-are-the-fork-server": _of_another(lambda _liar: os.getppid()),
    "children-are-the-daemon": _of_another(_daemon),
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
    "made: never": _for_ever,
    "made: garbage": _made_of_garbage,
    "made: dies": lambda _liar: None,
    "made: dies and leaves processes behind": _made_and_left_behind,
}
