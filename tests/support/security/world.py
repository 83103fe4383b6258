"""The world around one attempt: files, sockets, memory and processes that it may change.

It belongs to the parent, the process that acts as the fork server; the parent of that acts as the
daemon. No file mode protects anything in it, so that a failure is caused by the confinement. Two
snapshots show the changes of an attempt.
"""

import contextlib
import ctypes
import os
import resource
import socket
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.support.security.syscalls import libc

SECRET: Final = b"a secret of another"

#: Memory of the process that acts as the daemon. It has this address in all of them.
DAEMON_MEMORY: Final = ctypes.create_string_buffer(SECRET)

#: The sibling's descriptor of a memory file that contains the secret.
SIBLING_SECRET_FD: Final = 20

_CLONE_NEWNS: Final = 0x00020000
_MS_REC_PRIVATE: Final = 0x4000 | 0x40000
_OPEN_FILES: Final = 128
_LIMITS: Final = 16


class World:
    """All targets of the attempts."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.parent_pid = os.getpid()
        self.daemon_pid = os.getppid()
        self.sibling_pid = 0
        self.link: socket.socket
        """The attempt's own end of the link to the parent."""
        self.given: list[int] = []
        """Descriptors that the attempt received: machine code and two streams."""
        self.file_bytes = 0
        self.data_bytes = 0
        self.host_name = os.fsencode(os.uname().nodename)
        self.own_code = base / "own.cwasm"
        self.secret = base / "secret"
        self.signing_key = base / "signing-key.pem"
        self.kept = base / "kept"
        self.made = base / "made"
        self.mount = base / "mount"
        self.memory = ctypes.create_string_buffer(b"before the fork", 32)
        self._furnish()
        # Open in the parent only, and passed to no other process.
        self.held_fd = os.open(self.base / "held", os.O_RDWR)
        self.has_mount = self._own_mounts()
        self._listeners: list[socket.socket] = []
        self.port = self._listen(socket.AF_INET, ("127.0.0.1", 0))[1]
        self.port6 = 0
        with contextlib.suppress(OSError):
            self.port6 = self._listen(socket.AF_INET6, ("::1", 0))[1]
        self.socket_path = str(base / "socket")
        self._listen(socket.AF_UNIX, self.socket_path)
        Path(self.socket_path).chmod(0o666)
        self.datagram_path = str(base / "datagrams")
        self._datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._datagrams.bind(self.datagram_path)
        Path(self.datagram_path).chmod(0o666)
        self.abstract = f"\0wasmdrop-test-{self.parent_pid}"
        self._listen(socket.AF_UNIX, self.abstract)
        self.terminal = ""
        self._pty = -1
        with contextlib.suppress(OSError):
            self._open_terminal()

    @property
    def link_fd(self) -> int:
        """The descriptor of the attempt's own end of the link."""
        return self.link.fileno()

    def _furnish(self) -> None:
        names = ("held", "other.cwasm", "signing-key.pem")
        for path in (self.own_code, self.secret, self.kept, *(self.base / name for name in names)):
            path.write_bytes(SECRET)
            path.chmod(0o666)
        (self.base / "other.cwasm").chmod(0o444)
        for directory in (self.mount, self.base / "empty", self.base / "state"):
            directory.mkdir()
            directory.chmod(0o777)
        (self.base / "state" / "journal.db").write_bytes(SECRET)
        # A soft limit below the hard one, so that an attempt can raise it.
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(_OPEN_FILES, hard), hard))

    def _own_mounts(self) -> bool:
        """Use a mount namespace, so that no attempt changes the host's mounts; needs privileges."""
        if libc.unshare(_CLONE_NEWNS) != 0:
            return False
        if libc.mount(None, b"/", None, _MS_REC_PRIVATE, None) != 0:
            return False
        done: int = libc.mount(b"none", os.fsencode(self.mount), b"tmpfs", 0, b"size=1m,mode=777")
        if done == 0:
            (self.mount / "old").mkdir()
        return done == 0

    def _listen(self, family: int, address: Any) -> Any:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.bind(address)
        listener.listen()
        listener.setblocking(False)
        self._listeners.append(listener)
        return listener.getsockname()

    def _open_terminal(self) -> None:
        self._pty, terminal = os.openpty()
        self.terminal = os.ttyname(terminal)
        Path(self.terminal).chmod(0o666)
        os.set_blocking(terminal, False)
        self._terminal_fd = terminal

    def snapshot(self) -> dict[str, Any]:
        """Return the state of everything that an attempt could change, by name."""
        seen: dict[str, Any] = {
            "the parent's memory": self.memory.raw,
            "the parent's limits": [resource.getrlimit(kind) for kind in range(_LIMITS)],
            "the parent's processors": os.sched_getaffinity(self.parent_pid),
            "the parent's priority": os.getpriority(os.PRIO_PROCESS, self.parent_pid),
            "the parent's scheduling": os.sched_getscheduler(self.parent_pid),
            "the mounts": self._mounts(),
            "the host's name": os.uname().nodename,
            "connections": self._connections(),
            "the terminal's input": self._typed(),
        }
        stat = Path(f"/proc/{self.sibling_pid}/stat").read_text()
        seen["the sibling's life"] = stat.rpartition(")")[2].split()[0] in "RSD"
        seen["the sibling's priority"] = os.getpriority(os.PRIO_PROCESS, self.sibling_pid)
        for path in sorted(self.base.rglob("*")):
            seen[str(path.relative_to(self.base))] = _look(path)
        return seen

    def _mounts(self) -> list[str]:
        """Return the mounts, except those of other tests.

        If another test removes its mount point, the kernel unmounts it in this namespace, too.
        """
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        others = f"{tempfile.gettempdir()}/"
        points = [line.split()[4] for line in lines]
        return [
            line
            for line, point in zip(lines, points, strict=True)
            if point.startswith(str(self.base)) or not point.startswith(others)
        ]

    def _connections(self) -> int:
        count = 0
        for listener in self._listeners:
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()
                count += 1
        return count

    def _typed(self) -> bytes:
        if self._pty < 0:
            return b""
        try:
            return os.read(self._terminal_fd, 64)
        except BlockingIOError:
            return b""


def _look(path: Path) -> tuple[Any, ...]:
    status = path.lstat()
    content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    marks = tuple(os.listxattr(path, follow_symlinks=False))
    return (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content, marks)


def new_base() -> tempfile.TemporaryDirectory[str]:
    """Create a world-accessible directory, whose parents are world-accessible, too."""
    directory = tempfile.TemporaryDirectory(prefix="wasmdrop-escape-", ignore_cleanup_errors=True)
    Path(directory.name).chmod(0o777)
    return directory
