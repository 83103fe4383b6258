"""Makes every attempt in a world of its own, confined or free, and tells what came of it.

Run as a program, which prints one line of JSON. For each attempt it forks a *parent*, which stands
for the forking server: it furnishes a world, forks a sibling and the attempt's own process, and
compares the world before and after. Whatever outlives a parent falls to this program and is told.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from tests.security import (
    attempts_files,
    attempts_kernel,
    attempts_limits,
    attempts_mounts,
    attempts_processes,
    attempts_sockets,
)
from tests.security.syscalls import ATTEMPTS, Attempt, libc
from tests.security.world import SECRET, SIBLING_SECRET_FD, World, new_base
from wasmdrop.sandbox.confine import Confinement

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

#: How long one attempt may take, and how long a process may outlive its parent, in seconds.
_ATTEMPT_SECONDS: Final = 20.0
_GRACE_SECONDS: Final = 0.5


def main(mode: str, names: Sequence[str]) -> None:
    """Make the attempts of these names, all if there are none; ``mode`` is confined or free."""
    # What whoever called this forgot to close is no finding.
    os.closerange(3, _DESCRIPTORS)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.umask(0)
    confinement = Confinement()
    confined = mode == "confined"
    results: dict[str, Any] = {}
    for attempt in ATTEMPTS.values():
        if (names and attempt.name not in names) or (attempt.never_free and not confined):
            continue
        with new_base() as base:
            results[attempt.name] = _in_a_world(
                attempt, Path(base), confinement if confined else None
            )
    json.dump({"missing": confinement.missing, "results": results}, sys.stdout)


def _in_a_world(attempt: Attempt, base: Path, confinement: Confinement | None) -> dict[str, Any]:
    """Fork a parent for one attempt; return what it tells and what becomes of its processes."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        with contextlib.suppress(BaseException):
            _parent(attempt, base, confinement, writer)
        os._exit(1)
    os.close(writer)
    ended, _, _ = select.select([reader], [], [], _ATTEMPT_SECONDS + 5)
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


def _parent(attempt: Attempt, base: Path, confinement: Confinement | None, writer: int) -> NoReturn:
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
            confinement.prepare_parent()
        world = World(base)
        world.file_bytes, world.data_bytes = _FILE_BYTES, _DATA_BYTES
        sibling = _fork_sibling(world, confinement)
        ours, pid = _fork_attempt(attempt, world, confinement)
        ctypes.memmove(world.memory, b"parent only!", 12)
        before = world.snapshot()
        _order(ours, world)
        said = _answer(ours)
        if said == "stay":
            _tell(writer, said, [])
            os.kill(os.getpid(), signal.SIGKILL)
        with contextlib.suppress(OSError):
            ours.send(b"x")
        status = _ended(pid)
        try:
            after = world.snapshot()
            changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        except OSError as error:
            changed = [f"the world ({error})"]
        os.kill(sibling, signal.SIGKILL)
        os.waitpid(sibling, 0)
        _tell(writer, said or f"status {status}", changed)
    except BaseException:  # noqa: BLE001 - the last frame of a process of its own
        _tell(writer, "fault: " + traceback.format_exc(), ["the harness"])
    os._exit(0)


def _tell(writer: int, said: str, changed: list[str]) -> None:
    os.write(writer, json.dumps({"said": said, "changed": changed}).encode())


def _fork_sibling(world: World, confinement: Confinement | None) -> int:
    """Fork an idle child of the same kind, with a secret open."""
    ours, theirs = socket.socketpair()
    parent_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        link = theirs.fileno()
        ours.close()
        if confinement is not None:
            link = confinement.leave_parent(parent_pid, link)
        else:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.dup2(os.memfd_create("secret"), SIBLING_SECRET_FD)
        os.pwrite(SIBLING_SECRET_FD, SECRET, 0)
        os.write(link, b"r")
        os.read(link, 1)
        os._exit(0)
    theirs.close()
    if ours.recv(1) != b"r":
        raise RuntimeError("the sibling did not come up")
    ours.detach()  # open as long as the parent lives
    world.sibling_pid = pid
    return pid


def _fork_attempt(
    attempt: Attempt, world: World, confinement: Confinement | None
) -> tuple[socket.socket, int]:
    """Fork the attempt's process as the forking server does it."""
    ours, theirs = socket.socketpair()
    parent_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        link_fd = theirs.detach()
        try:
            if confinement is not None:
                link_fd = confinement.leave_parent(parent_pid, link_fd)
            else:
                ours.close()
            _attempt(attempt, world, confinement, link_fd)
        finally:
            os._exit(70)
    theirs.close()
    return ours, pid


def _attempt(
    attempt: Attempt, world: World, confinement: Confinement | None, link_fd: int
) -> NoReturn:
    """Take the order, be confined, make the attempt, say what came of it."""
    link = socket.socket(fileno=link_fd)
    _data, descriptors, _flags, _address = socket.recv_fds(link, 16, 4)
    link.detach()
    world.link_fd, world.given = link_fd, descriptors
    if confinement is not None:
        confinement.enter(
            readable=descriptors[:1],
            cpu_seconds=_CPU_SECONDS,
            file_bytes=_FILE_BYTES,
            data_bytes=_DATA_BYTES,
            threads=True,
        )
        confinement.narrow()
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
    if not select.select([pidfd], [], [], 5)[0]:
        os.kill(pid, signal.SIGKILL)
    os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
