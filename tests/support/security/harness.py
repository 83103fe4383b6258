"""Make each attempt in a world of its own, confined or not, and report the results.

Runs as a program and prints one line of JSON. For each attempt it forks a *parent*, which acts as
the fork server: it creates a world, forks a sibling and the process of the attempt, and compares
the world before and after. Processes that outlive their parent become children of this program,
which reports them.

The mode is the confinement of the process: that of a ``child`` of the fork server, of a native
``zygote``, of a ``zygote-child``, or none (``unconfined``).
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
    attempts_key,
    attempts_limits,
    attempts_mounts,
    attempts_processes,
    attempts_sockets,
)
from tests.support.security.native_confinement import NativeConfinement, preparation_of
from tests.support.security.syscalls import ATTEMPTS, Attempt, libc
from tests.support.security.world import SECRET, SIBLING_SECRET_FD, World, new_base
from wasmdrop.sandbox.confinement.confine import PROCESS_BYTES, Confinement
from wasmdrop.system.job_user import DEFAULT_JOB_USER, JobUser

#: Imported for their attempts, which register themselves.
_SOURCES: Final = (
    *(attempts_files, attempts_mounts, attempts_processes),
    *(attempts_sockets, attempts_kernel, attempts_limits, attempts_key),
)

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_MEBIBYTE: Final = 1 << 20
_DESCRIPTORS: Final = 1 << 16

#: The limits of a job with ``memory_mb`` 16 and ``output_mb`` 8.
_FILE_BYTES: Final = 8 * _MEBIBYTE
_MEMORY_BYTES: Final = 16 * _MEBIBYTE
_DATA_BYTES: Final = _MEMORY_BYTES + PROCESS_BYTES
_CPU_SECONDS: Final = 1

#: Time limits in seconds: of an attempt, of its process's exit, and of its life after its parent.
#: Only failing attempts take that long. An attempt that computes needs 3 s of CPU, of which a busy
#: machine may give it a tenth.
_ATTEMPT_SECONDS: Final = 120.0
_END_SECONDS: Final = 30.0
_GRACE_SECONDS: Final = 5.0

NATIVE_MODES: Final = ("zygote-child", "zygote")
#: What a process does, with its end of a link.
_Work = Callable[[socket.socket], NoReturn]

MODES: Final = ("child", *NATIVE_MODES, "unconfined")


def main(mode: str, names: Sequence[str], library: str) -> None:
    """Make the named attempts, or all of them, in one of the :data:`MODES`.

    ``library``: the native functions that confine, for the modes that need them.
    """
    # Descriptors that the caller left open are not a finding.
    os.closerange(3, _DESCRIPTORS)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.umask(0)
    # One user per round: the kernel counts processes by user, and rounds run at the same time.
    number = DEFAULT_JOB_USER.uid + 1 + MODES.index(mode)
    confinement = Confinement(JobUser(number, number))
    native = None
    if mode in NATIVE_MODES:
        preparation = preparation_of(_MEMORY_BYTES, _FILE_BYTES)
        native = NativeConfinement(library, confinement, preparation)
    confined = mode != "unconfined"
    results: dict[str, Any] = {}
    for attempt in ATTEMPTS.values():
        if (names and attempt.name not in names) or (attempt.only_confined and not confined):
            continue
        with new_base() as base:
            results[attempt.name] = _in_a_world(
                attempt, Path(base), confinement if confined else None, native, mode
            )
    json.dump({"missing": confinement.missing, "results": results}, sys.stdout)


def _in_a_world(
    attempt: Attempt,
    base: Path,
    confinement: Confinement | None,
    native: NativeConfinement | None,
    mode: str,
) -> dict[str, Any]:
    """Fork a parent for one attempt; return its results and what became of its processes."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        with contextlib.suppress(BaseException):
            _parent(attempt, base, confinement, native, mode, writer)
        os._exit(1)
    os.close(writer)
    # Longer than all waits of the parent, which must not be killed before it reports.
    patience_seconds = _ATTEMPT_SECONDS + 3 * _END_SECONDS
    ended, _, _ = select.select([reader], [], [], patience_seconds)
    output = os.read(reader, 1 << 16) if ended else b""
    os.close(reader)
    result: dict[str, Any] = json.loads(output) if output else {"report": "", "changed": []}
    if not ended:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if status:
        result["changed"].append(f"the parent (it ended with {os.waitstatus_to_exitcode(status)})")
    stays = result["report"] == "stay"
    if stays:
        result["changed"].clear()
    left = _left_over()
    if left:
        result["changed"].append(f"{left} processes are left")
    return result


def _left_over() -> int:
    """Wait a little for orphaned processes; kill the rest and return their number."""
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
    attempt: Attempt,
    base: Path,
    confinement: Confinement | None,
    native: NativeConfinement | None,
    mode: str,
    writer: int,
) -> NoReturn:
    """Act as the fork server for one attempt, and exit."""
    os.setsid()
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(base / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    # Like the fork server.
    for fd, target in ((null, 0), (null, 1), (log, 2)):
        os.dup2(fd, target)
    os.close(null)
    os.close(log)
    try:
        if confinement is not None:
            confinement.prepare_fork_server()
        world = World(base)
        world.file_bytes, world.data_bytes = _FILE_BYTES, _DATA_BYTES
        family = _family(attempt, world, confinement, native, mode)
        sibling, sibling_link = family.fork(_sibling)
        world.sibling_pid = sibling
        secret = os.memfd_create("secret")
        os.pwrite(secret, SECRET, 0)
        socket.send_fds(sibling_link, [b"keep this"], [secret])
        os.close(secret)
        if sibling_link.recv(1) != b"r":
            raise RuntimeError("the sibling did not start")
        pid, ours = family.fork(family.attempt)
        ctypes.memmove(world.memory, b"parent only!", 12)
        before = world.snapshot()
        _send_request(ours, world)
        report = _receive_report(ours)
        if report == "stay":
            _send_result(writer, report, [])
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
        _send_result(writer, report or f"status {status}", changed)
    except BaseException:  # noqa: BLE001 - the last frame of a process of its own
        _send_result(writer, "fault: " + traceback.format_exc(), ["the harness"])
    os._exit(0)


def _send_result(writer: int, report: str, changed: list[str]) -> None:
    os.write(writer, json.dumps({"report": report, "changed": changed}).encode())


class _Children:
    """Processes that the fork server forks; one of them runs ``attempt``."""

    def __init__(self, confinement: Confinement | None, attempt: _Work) -> None:
        self._confinement = confinement
        self.attempt = attempt

    def fork(self, do: _Work) -> tuple[int, socket.socket]:
        """Fork a process that calls ``do`` with its end of a link; return its pid and our end."""
        ours, theirs = socket.socketpair()
        parent_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                do(socket.socket(fileno=self._leave(parent_pid, ours, theirs.detach())))
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
        """Wait until a process exits; return its exit code."""
        return _ended(pid)

    def end(self, sibling: int) -> None:
        """Kill the sibling."""
        os.kill(sibling, signal.SIGKILL)
        os.waitpid(sibling, 0)


class _ZygoteChildren(_Children):
    """Processes that a zygote forks."""

    def __init__(
        self,
        confinement: Confinement | None,
        native: NativeConfinement,
        attempt: _Work,
        code: Path,
    ) -> None:
        super().__init__(confinement, attempt)
        self._native = native
        self._pid, self._link = super().fork(self._serve)
        with code.open("rb") as file:
            socket.send_fds(self._link, [b"become a zygote"], [file.fileno()])

    def fork(self, do: _Work) -> tuple[int, socket.socket]:
        """Let the zygote fork a process."""
        ours, theirs = socket.socketpair()
        word = b"sibling" if do is _sibling else b"attempt"
        with theirs:
            socket.send_fds(self._link, [word], [theirs.fileno()])
        return int(self._link.recv(64)), ours

    def _serve(self, link: socket.socket) -> NoReturn:
        """Act as the zygote.

        Its filter allows no other call of sockets than to pass descriptors.
        """
        _word, descriptors, _flags, _address = socket.recv_fds(link, 64, 1)
        self._native.confine_zygote(descriptors[0])
        parent_pid = os.getpid()
        for _ in range(2):
            word, (theirs,), _flags, _address = socket.recv_fds(link, 64, 1)
            try:
                pid = os.fork()
            except OSError as error:
                # In place of the pid, so that the failure shows the error.
                os.write(link.fileno(), str(error).encode())
                os._exit(70)
            if pid == 0:
                # The link has the same number in the child, and a new object is not allowed.
                assert self._native.detach_child(parent_pid, theirs) == link.fileno()
                (_sibling if word == b"sibling" else self.attempt)(link)
            os.close(theirs)
            os.write(link.fileno(), b"%d" % pid)
        asked = int(os.read(link.fileno(), 64))
        while (ended := os.wait())[0] != asked:
            pass
        os.write(link.fileno(), b"%d" % os.waitstatus_to_exitcode(ended[1]))
        os.read(link.fileno(), 1)
        os._exit(0)

    def ended(self, pid: int) -> int:
        """Let the zygote wait until a process exits; return its exit code."""
        self._link.send(b"%d" % pid)
        self._link.settimeout(_END_SECONDS)
        try:
            return int(self._link.recv(64))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            return int(self._link.recv(64))

    def end(self, sibling: int) -> None:
        """Kill the zygote, and thereby the sibling."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(sibling, 0)


def _family(
    attempt: Attempt,
    world: World,
    confinement: Confinement | None,
    native: NativeConfinement | None,
    mode: str,
) -> _Children:
    """Return the family of processes that the attempt belongs to."""

    def confine(descriptors: list[int]) -> None:
        if confinement is None:
            return
        if native is None:
            confinement.confine(
                readable=descriptors[:1],
                cpu_seconds=_CPU_SECONDS,
                file_bytes=_FILE_BYTES,
                data_bytes=_DATA_BYTES,
                threads=True,
            )
            confinement.confine_after_loading()
        elif mode == "zygote":
            native.confine_zygote(descriptors[0])
        else:
            native.confine_child(_CPU_SECONDS)

    make = functools.partial(_attempt, attempt, world, confine)
    if native is not None and mode == "zygote-child":
        return _ZygoteChildren(confinement, native, make, world.own_code)
    return _Children(confinement, make)


def _sibling(link: socket.socket) -> NoReturn:
    """Act as an idle child of the same kind that has a secret open."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # unconfined, it has not done so yet
    _word, (secret,), _flags, _address = socket.recv_fds(link, 64, 1)
    os.dup2(secret, SIBLING_SECRET_FD)
    os.write(link.fileno(), b"r")
    os.read(link.fileno(), 1)
    os._exit(0)


def _attempt(
    attempt: Attempt, world: World, confine: Callable[[list[int]], None], link: socket.socket
) -> NoReturn:
    """Receive the request, confine the process, make the attempt, report the result."""
    _data, descriptors, _flags, _address = socket.recv_fds(link, 16, 4)
    world.link, world.given = link, descriptors
    confine(descriptors)
    try:
        report = f"escaped: {attempt.attack(world)}"
    except OSError as error:
        report = f"failed: {error}"
    except MemoryError:
        report = "failed: out of memory"
    os.write(link.fileno(), report.encode())
    # Poll, because the kernel does not send SIGIO to an owner while a process reads.
    poll = select.poll()
    poll.register(link, select.POLLIN)
    poll.poll()
    os._exit(0)


def _send_request(ours: socket.socket, world: World) -> None:
    fds = [os.open(world.own_code, os.O_RDONLY)]
    fds += [os.memfd_create(name) for name in ("stdout", "stderr")]
    socket.send_fds(ours, [b"request"], fds)
    for fd in fds:
        os.close(fd)


def _receive_report(ours: socket.socket) -> str:
    """Return the attempt's report; empty if its process died or ran another program."""
    ours.settimeout(_ATTEMPT_SECONDS)
    try:
        report, descriptors, _flags, _address = socket.recv_fds(ours, 4096, 4)
        return "escaped: passed a descriptor" if descriptors else report.decode()
    except TimeoutError:
        return "escaped: it neither exits nor reports"
    except ConnectionResetError:
        return ""


def _ended(pid: int) -> int:
    pidfd = os.pidfd_open(pid)
    if not select.select([pidfd], [], [], _END_SECONDS)[0]:
        os.kill(pid, signal.SIGKILL)
    os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[3:], sys.argv[2])
