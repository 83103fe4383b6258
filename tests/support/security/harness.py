"""Makes every attempt in a world of its own, confined or free, and tells what came of it.

Run as a program, which prints one line of JSON. For each attempt it forks a *parent*, which stands
for the forking server: it furnishes a world, forks a sibling and the attempt's own process, and
compares the world before and after. Whatever outlives a parent falls to this program and is told.

There are four modes. What is ``confined`` is a job of the forking server; ``invoked`` is one of a
template, as is its sibling; ``template`` is the template itself; ``free`` is none of these.
"""

import contextlib
import ctypes
import functools
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from tests.support.security import (
    attempts_files,
    attempts_kernel,
    attempts_limits,
    attempts_mounts,
    attempts_processes,
    attempts_sockets,
)
from tests.support.security.syscalls import ATTEMPTS, Attempt, libc
from tests.support.security.world import SECRET, SIBLING_SECRET_FD, World, new_base
from wasmdrop.sandbox.confinement.confine import Confinement
from wasmdrop.system.job_user import DEFAULT_JOB_USER, JobUser

__all__ = ["main"]

#: Named so that their attempts are in the registry.
_SOURCES: Final = (
    *(attempts_files, attempts_mounts, attempts_processes),
    *(attempts_sockets, attempts_kernel, attempts_limits),
)

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_MEBIBYTE: Final = 1 << 20
_DESCRIPTORS: Final = 1 << 16

#: Of a run with WASI: what the forking server would pass for ``memory_mb`` 16 and ``output_mb`` 8.
_FILE_BYTES: Final = 8 * _MEBIBYTE
_DATA_BYTES: Final = (16 + 192) * _MEBIBYTE
_CPU_SECONDS: Final = 1

#: How long one attempt may take, how long its process may take to end when it was told to, and how
#: long it may outlive its parent, in seconds. Only what fails takes as long: an attempt that
#: computes needs 3 s of a core, of which a busy machine may give it a tenth.
_ATTEMPT_SECONDS: Final = 120.0
_END_SECONDS: Final = 30.0
_GRACE_SECONDS: Final = 5.0

_MODES: Final = ("confined", "invoked", "template", "free")


def main(mode: str, names: Sequence[str]) -> None:
    """Make the attempts of these names, all if there are none; ``mode`` is one of the four."""
    # What whoever called this forgot to close is no finding.
    os.closerange(3, _DESCRIPTORS)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.umask(0)
    # A user of each round's own: the kernel counts processes by user, and rounds run side by side.
    number = DEFAULT_JOB_USER.uid + 1 + _MODES.index(mode)
    confinement = Confinement(JobUser(number, number))
    confined = mode != "free"
    results: dict[str, Any] = {}
    for attempt in ATTEMPTS.values():
        if (names and attempt.name not in names) or (attempt.never_free and not confined):
            continue
        with new_base() as base:
            results[attempt.name] = _in_a_world(
                attempt, Path(base), confinement if confined else None, mode
            )
    json.dump({"missing": confinement.missing, "results": results}, sys.stdout)


def _in_a_world(
    attempt: Attempt, base: Path, confinement: Confinement | None, mode: str
) -> dict[str, Any]:
    """Fork a parent for one attempt; return what it tells and what becomes of its processes."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        with contextlib.suppress(BaseException):
            _parent(attempt, base, confinement, mode, writer)
        os._exit(1)
    os.close(writer)
    # Longer than all that the parent itself waits for: else it is killed before it can tell.
    patience_seconds = _ATTEMPT_SECONDS + 3 * _END_SECONDS
    ended, _, _ = select.select([reader], [], [], patience_seconds)
    told = os.read(reader, 1 << 16) if ended else b""
    os.close(reader)
    result: dict[str, Any] = json.loads(told) if told else {"said": "", "changed": []}
    if not ended:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if status:
        result["changed"].append(f"the parent (it ended with {os.waitstatus_to_exitcode(status)})")
    stays = result["said"] == "stay"
    if stays:
        result["changed"].clear()
    left = _left_over()
    if left:
        result["changed"].append(f"{left} processes live on")
    return result


def _left_over() -> int:
    """Wait a little for processes without a parent; kill those that stay, return their number."""
    end = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < end:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.005)
        except ChildProcessError:
            return 0
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for pid in pids:
        os.kill(int(pid), signal.SIGKILL)
        os.waitpid(int(pid), 0)
    return len(pids)


def _parent(
    attempt: Attempt, base: Path, confinement: Confinement | None, mode: str, writer: int
) -> NoReturn:
    """Be the forking server of one attempt, and end."""
    os.setsid()
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(base / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    # As the pool starts the forking server.
    for fd, target in ((null, 0), (null, 1), (log, 2)):
        os.dup2(fd, target)
    os.close(null)
    os.close(log)
    try:
        if confinement is not None:
            confinement.prepare_fork_server()
        world = World(base)
        world.file_bytes, world.data_bytes = _FILE_BYTES, _DATA_BYTES
        family = _family(attempt, world, confinement, mode)
        sibling, sibling_link = family.fork(_sibling)
        world.sibling_pid = sibling
        secret = os.memfd_create("secret")
        os.pwrite(secret, SECRET, 0)
        socket.send_fds(sibling_link, [b"keep this"], [secret])
        os.close(secret)
        if sibling_link.recv(1) != b"r":
            raise RuntimeError("the sibling did not come up")
        pid, ours = family.fork(family.attempt)
        ctypes.memmove(world.memory, b"parent only!", 12)
        before = world.snapshot()
        _order(ours, world)
        said = _answer(ours)
        if said == "stay":
            _tell(writer, said, [])
            os.kill(os.getpid(), signal.SIGKILL)
        with contextlib.suppress(OSError):
            ours.send(b"x")
        status = family.ended(pid)
        try:
            after = world.snapshot()
            changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        except OSError as error:
            changed = [f"the world ({error})"]
        family.end(sibling)
        _tell(writer, said or f"status {status}", changed)
    except BaseException:  # noqa: BLE001 - the last frame of a process of its own
        _tell(writer, "fault: " + traceback.format_exc(), ["the harness"])
    os._exit(0)


def _tell(writer: int, said: str, changed: list[str]) -> None:
    os.write(writer, json.dumps({"said": said, "changed": changed}).encode())


class _Children:
    """Processes that the forking server forks; ``attempt`` is what one of them does."""

    def __init__(self, confinement: Confinement | None, attempt: Callable[[int], NoReturn]) -> None:
        self._confinement = confinement
        self.attempt = attempt

    def fork(self, do: Callable[[int], NoReturn]) -> tuple[int, socket.socket]:
        """Fork a process that does this with its end of a link; return its id and our end."""
        ours, theirs = socket.socketpair()
        parent_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                do(self._leave(parent_pid, ours, theirs.detach()))
            finally:
                os._exit(70)
        theirs.close()
        return pid, ours

    def _leave(self, parent_pid: int, ours: socket.socket, link_fd: int) -> int:
        if self._confinement is not None:
            return self._confinement.detach_from_fork_server(parent_pid, link_fd)
        ours.close()
        return link_fd

    def ended(self, pid: int) -> int:
        """Wait until one of them has ended; return its exit code."""
        return _ended(pid)

    def end(self, sibling: int) -> None:
        """End the other one."""
        os.kill(sibling, signal.SIGKILL)
        os.waitpid(sibling, 0)


class _TemplatesChildren(_Children):
    """Processes that a template forks, which the forking server has forked.

    The template is told which by the order in which it is asked.
    """

    def __init__(
        self, confinement: Confinement | None, attempt: Callable[[int], NoReturn], code: Path
    ) -> None:
        super().__init__(confinement, attempt)
        self._pid, self._link = super().fork(self._serve)
        with code.open("rb") as file:
            socket.send_fds(self._link, [b"be a template"], [file.fileno()])

    def fork(self, do: Callable[[int], NoReturn]) -> tuple[int, socket.socket]:
        """Have the template fork a process."""
        ours, theirs = socket.socketpair()
        word = b"sibling" if do is _sibling else b"attempt"
        with theirs:
            socket.send_fds(self._link, [word], [theirs.fileno()])
        return int(self._link.recv(64)), ours

    def _serve(self, link_fd: int) -> NoReturn:
        """Be the template."""
        assert self._confinement is not None
        link = socket.socket(fileno=link_fd)
        _word, descriptors, _flags, _address = socket.recv_fds(link, 64, 1)
        _enter_template(self._confinement, descriptors)
        parent_pid = os.getpid()
        for _ in range(2):
            word, (theirs,), _flags, _address = socket.recv_fds(link, 64, 1)
            try:
                pid = os.fork()
            except OSError as error:
                # In place of the number, so that whoever asked shows it.
                link.send(str(error).encode())
                os._exit(70)
            if pid == 0:
                own_fd = self._confinement.detach_from_zygote(parent_pid, theirs)
                (_sibling if word == b"sibling" else self.attempt)(own_fd)
            os.close(theirs)
            link.send(b"%d" % pid)
        asked = int(link.recv(64))
        while (ended := os.wait())[0] != asked:
            pass
        link.send(b"%d" % os.waitstatus_to_exitcode(ended[1]))
        link.recv(1)
        os._exit(0)

    def ended(self, pid: int) -> int:
        """Ask the template to wait until one of them has ended."""
        self._link.send(b"%d" % pid)
        self._link.settimeout(_END_SECONDS)
        try:
            return int(self._link.recv(64))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            return int(self._link.recv(64))

    def end(self, sibling: int) -> None:
        """End the template, and so the other one."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(sibling, 0)


def _enter_template(confinement: Confinement, readable: list[int]) -> None:
    """Be confined as a template is."""
    confinement.confine_zygote(readable=readable, file_bytes=_FILE_BYTES, data_bytes=_DATA_BYTES)
    confinement.confine_after_loading()


def _family(
    attempt: Attempt, world: World, confinement: Confinement | None, mode: str
) -> _Children:
    """Return those that the attempt's process is one of."""

    def confine(descriptors: list[int]) -> None:
        if confinement is None:
            return
        if mode == "template":
            _enter_template(confinement, descriptors[:1])
        elif mode == "invoked":
            confinement.confine_zygote_child(cpu_seconds=_CPU_SECONDS, threads=True)
        else:
            confinement.confine(
                readable=descriptors[:1],
                cpu_seconds=_CPU_SECONDS,
                file_bytes=_FILE_BYTES,
                data_bytes=_DATA_BYTES,
                threads=True,
            )
            confinement.confine_after_loading()

    make = functools.partial(_attempt, attempt, world, confine)
    if mode == "invoked":
        return _TemplatesChildren(confinement, make, world.own_code)
    return _Children(confinement, make)


def _sibling(link_fd: int) -> NoReturn:
    """Be an idle child of the same kind, with a secret open."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # where it was free of that
    link = socket.socket(fileno=link_fd)
    _word, (secret,), _flags, _address = socket.recv_fds(link, 64, 1)
    os.dup2(secret, SIBLING_SECRET_FD)
    link.send(b"r")
    link.recv(1)
    os._exit(0)


def _attempt(
    attempt: Attempt, world: World, confine: Callable[[list[int]], None], link_fd: int
) -> NoReturn:
    """Take the order, be confined, make the attempt, say what came of it."""
    link = socket.socket(fileno=link_fd)
    _data, descriptors, _flags, _address = socket.recv_fds(link, 16, 4)
    link.detach()
    world.link_fd, world.given = link_fd, descriptors
    confine(descriptors)
    try:
        said = f"escaped: {attempt.attack(world)}"
    except OSError as error:
        said = f"failed: {error}"
    except MemoryError:
        said = "failed: out of memory"
    os.write(link_fd, said.encode())
    # Not by reading: the kernel does not signal input to an owner while somebody reads.
    poll = select.poll()
    poll.register(link_fd, select.POLLIN)
    poll.poll()
    os._exit(0)


def _order(ours: socket.socket, world: World) -> None:
    fds = [os.open(world.own_code, os.O_RDONLY)]
    fds += [os.memfd_create(name) for name in ("stdout", "stderr")]
    socket.send_fds(ours, [b"order"], fds)
    for fd in fds:
        os.close(fd)


def _answer(ours: socket.socket) -> str:
    """Return what the attempt says; nothing where it died or became something else."""
    ours.settimeout(_ATTEMPT_SECONDS)
    try:
        said, descriptors, _flags, _address = socket.recv_fds(ours, 4096, 4)
        return "escaped: handed a descriptor over" if descriptors else said.decode()
    except TimeoutError:
        return "escaped: it neither ends nor answers"
    except ConnectionResetError:
        return ""


def _ended(pid: int) -> int:
    pidfd = os.pidfd_open(pid)
    if not select.select([pidfd], [], [], _END_SECONDS)[0]:
        os.kill(pid, signal.SIGKILL)
    os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
