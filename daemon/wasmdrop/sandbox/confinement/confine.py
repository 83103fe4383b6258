"""Confine a child process before it touches any byte of the guest.

The stages of a child, in order:

:meth:`Confinement.prepare_fork_server` runs in the fork server, before any fork.
:meth:`Confinement.detach_from_fork_server` runs right after the fork, before a request exists. The
child gets its own session and user, and closes the descriptors of the fork server.
:meth:`Confinement.confine` runs when the request is known, before its descriptors are used. It
sets resource limits, then Landlock, and last the seccomp filter, because that forbids the calls
that set up the others. :meth:`Confinement.confine_after_loading` runs when the machine code is
loaded and no file is needed any more, before any of it runs.
"""

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from wasmdrop.sandbox.confinement import landlock
from wasmdrop.sandbox.confinement.seccomp import SeccompFilter
from wasmdrop.sandbox.confinement.syscalls import Role
from wasmdrop.system import libc
from wasmdrop.system.job_user import DEFAULT_JOB_USER, JobUser, is_mapped
from wasmdrop.system.processes import die_with_parent

#: Memory of the process itself besides the guest's memories: interpreter, engine, a 16 MiB frame
#: and its copies. Generous, because it only has to stop growth that nothing else limits.
PROCESS_BYTES: Final = 192 * 1024 * 1024

_PR_CAPBSET_DROP: Final = 24
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_LAST_CAPABILITY: Final = 63

#: CAP_SETGID, CAP_SETUID and CAP_KILL: needed to change the user of a process and still be able to
#: kill it (capabilities(7)).
_CHANGE_USER: Final = 1 << 6 | 1 << 7 | 1 << 5

#: Descriptors that a child may hold: those of its request, and a few for the threads of WASI.
_OPEN_FILES: Final = 64

_LINK_FD: Final = 3

#: Above any descriptor. RLIMIT_NOFILE is no bound: it may have been lowered after an open.
_HIGHEST_FD: Final = 1 << 30

#: Threads of all jobs together: in each job, WASI starts one per core and a few more, and for each
#: there may be two idle children. The kernel counts by user, which may include the children of
#: another daemon, and all other processes of that user if the daemon can't change the user. A job
#: that can't start a thread dies.
_CORES: Final = os.cpu_count() or 1
_THREADS: Final = 480
_THREADS_OF_A_JOB: Final = 2 * (_CORES + 1)
_OTHERS_THREADS: Final = 8192

_LIMITED: Final = (
    resource.RLIMIT_CPU,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_DATA,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_CORE,
    resource.RLIMIT_MEMLOCK,
    resource.RLIMIT_MSGQUEUE,
    resource.RLIMIT_NPROC,
)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


_CAPABILITY_VERSION_3: Final = 0x20080522


#: The infinite limit of the C library, which Python calls -1.
_ALL_BITS: Final = (1 << 64) - 1


class ZygoteConfinement(NamedTuple):
    """The confinement of a native zygote and of its children."""

    limits: tuple[tuple[int, int, int], ...]
    """The zygote's limits, which its children inherit: resource, soft and hard limit."""
    child_processes: int
    """A child's limit of processes and threads."""
    highest_cpu_seconds: int
    """The most that a child's limit of processor time may be."""
    rights: landlock.Rights
    filters: tuple[bytes, ...]
    """Of the zygote, of the zygote that has loaded its machine code, and of a child; empty if this
    kernel has no filters."""


class Confinement:
    """The confinement that this kernel supports, detected once in the fork server.

    ``job_user``: the user of confined processes, if the fork server is root. ``jobs``: that may run
    at a time.
    """

    def __init__(self, job_user: JobUser = DEFAULT_JOB_USER, jobs: int = _CORES) -> None:
        self._job_user = job_user
        self._jobs = max(jobs, _CORES)
        self.missing: list[str] = []
        """The parts that this kernel or the container does not support, described for people."""
        self.landlock_version = landlock.abi_version()
        if self.landlock_version == 0:
            self.missing.append(f"Landlock ({landlock.why_missing()})")
        self._filters: dict[Role, SeccompFilter] = {}
        try:
            self._filters = {role: SeccompFilter(role) for role in Role}
        except OSError as error:
            self.missing.append(f"seccomp ({error.strerror})")
        self._ceilings = {kind: resource.getrlimit(kind)[1] for kind in _LIMITED}
        self.changes_user = os.geteuid() == 0 and _capabilities() & _CHANGE_USER == _CHANGE_USER
        if os.geteuid() == 0 and not self.changes_user:
            self.missing.append(
                "an unprivileged user (run as another user than root, or with CAP_SETUID,"
                " CAP_SETGID and CAP_KILL)"
            )
        if self.changes_user and not is_mapped(job_user):
            self.changes_user = False
            self.missing.append(
                f"the user and group {job_user} of jobs (this user namespace has no such numbers;"
                " set WASMDROP_JOB_USER to numbers that it has)"
            )

    def prepare_fork_server(self) -> None:
        """Drop privileges for the calling process and all its future children.

        Called once in the fork server instead of in every child.
        """
        if self.changes_user:
            _drop_capability_bounds()
        # Orphans of a child become children of this process, which kills them.
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def detach_from_fork_server(
        self, parent_pid: int, link_fd: int, kept: Sequence[int] = ()
    ) -> int:
        """Detach the calling process from its parent; return the new number of ``link_fd``.

        Afterwards it has its own session, another user, no capabilities, and no descriptors except
        the null device as 0 to 2, the link to the daemon, and after that ``kept``. It dies with its
        parent.
        """
        os.setsid()
        first_free = _LINK_FD + 1 + len(kept)
        # Above the new numbers: none of them may be the present one of another descriptor.
        moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, first_free) for fd in (link_fd, *kept)]
        for number, fd in enumerate(moved, _LINK_FD):
            os.dup2(fd, number)
        os.closerange(first_free, _HIGHEST_FD)
        # A guest that broke out of wasmtime must not be able to write to the daemon's log.
        os.dup2(0, 2)
        if self.changes_user:
            _change_user(self._job_user)
        _drop_capabilities()
        # A change of user would clear it.
        die_with_parent(parent_pid)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1)
        return _LINK_FD

    def confine(
        self,
        *,
        readable: list[int],
        cpu_seconds: int,
        file_bytes: int,
        data_bytes: int,
        threads: bool,
        directory: int | None = None,
        grants: Sequence[int] = (),
    ) -> None:
        """Confine the calling process permanently.

        ``readable``: descriptors of the files that may be opened for reading. ``directory``: a
        descriptor of the job's own directory, if it has one; ``grants``: descriptors of further
        directories that it may read. ``threads``: whether the process may start threads.

        ``cpu_seconds`` backs up the daemon's clock, in case the daemon itself is stopped.
        ``data_bytes`` limits writable memory only, because wasmtime reserves gigabytes of address
        space even for small modules.
        """
        self._limit_time_and_threads(cpu_seconds, threads=threads)
        self._limit_space(file_bytes, data_bytes)
        if self.landlock_version:
            landlock.restrict(self.landlock_version, readable, directory, grants)
        if directory is None:
            self._load_filter(Role.CHILD)
            return
        # The daemon, which may be another user, must be able to remove the job's files.
        os.umask(0)
        # A file that grows too large must end the process: the guest could hide an error.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        self._load_filter(Role.CHILD_WITH_DIRECTORY)

    def describe_zygote(
        self,
        *,
        file_bytes: int,
        data_bytes: int,
        threads: bool,
        has_directory: bool,
        has_grants: bool,
    ) -> "ZygoteConfinement":
        """Return the confinement of a native zygote and its children, as data.

        The parameters are those of :meth:`confine` and of :meth:`confine_after_loading`.
        """
        processes = self._highest_processes()
        limits = [*self._space_limits(file_bytes, data_bytes), (resource.RLIMIT_NPROC, processes)]
        if has_directory:
            child = (
                Role.ZYGOTE_CHILD_WITH_GRANTS if has_grants else Role.ZYGOTE_CHILD_WITH_DIRECTORY
            )
            roles = (Role.ZYGOTE_WITH_DIRECTORIES, Role.RUNNING_WITH_DIRECTORY, child)
        else:
            roles = (Role.ZYGOTE, Role.RUNNING, Role.ZYGOTE_CHILD)
        ceiling = self._ceilings[resource.RLIMIT_CPU]
        return ZygoteConfinement(
            limits=tuple((kind, *self._bounded(kind, value, value)) for kind, value in limits),
            child_processes=self._bounded(resource.RLIMIT_NPROC, processes, processes)[0]
            if threads
            else 0,
            highest_cpu_seconds=ceiling & _ALL_BITS,
            rights=landlock.rights_of(self.landlock_version),
            filters=tuple(
                self._filters[role].code if role in self._filters else b"" for role in roles
            ),
        )

    def _limit_time_and_threads(self, cpu_seconds: int, *, threads: bool) -> None:
        self._limit(resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1)
        if threads:
            self._limit_threads()
        else:
            self._limit(resource.RLIMIT_NPROC, 0)

    def _limit_threads(self) -> None:
        self._limit(resource.RLIMIT_NPROC, self._highest_processes())

    def _highest_processes(self) -> int:
        threads = _THREADS + self._jobs * _THREADS_OF_A_JOB
        return threads + (0 if self.changes_user else _OTHERS_THREADS)

    def _limit_space(self, file_bytes: int, data_bytes: int) -> None:
        for kind, value in self._space_limits(file_bytes, data_bytes):
            self._limit(kind, value)

    @staticmethod
    def _space_limits(file_bytes: int, data_bytes: int) -> list[tuple[int, int]]:
        return [
            (resource.RLIMIT_FSIZE, file_bytes),
            (resource.RLIMIT_DATA, data_bytes),
            (resource.RLIMIT_NOFILE, _OPEN_FILES),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_MEMLOCK, 0),
            (resource.RLIMIT_MSGQUEUE, 0),
        ]

    def confine_after_loading(
        self, *, compiles: bool = False, has_directory: bool = False, has_grants: bool = False
    ) -> None:
        """Forbid the calls that only loading machine code needs.

        These open files and make memory unwritable. A process that ``compiles`` may still make
        memory unwritable, because its compiler generates code. A job that ``has_directory`` may
        still open files; if it also ``has_grants``, it may not set file times.
        """
        if has_grants:
            self._load_filter(Role.RUNNING_WITH_GRANTS)
        elif has_directory:
            self._load_filter(Role.RUNNING_WITH_DIRECTORY)
        else:
            self._load_filter(Role.COMPILING if compiles else Role.RUNNING)

    def _limit(self, kind: int, soft: int, hard: int | None = None) -> None:
        """Set a limit, but never above the current hard limit."""
        resource.setrlimit(kind, self._bounded(kind, soft, soft if hard is None else hard))

    def _bounded(self, kind: int, soft: int, hard: int) -> tuple[int, int]:
        ceiling = self._ceilings[kind]
        if ceiling == resource.RLIM_INFINITY:
            return soft, hard
        return min(soft, ceiling), min(hard, ceiling)

    def _load_filter(self, role: Role) -> None:
        if role in self._filters:
            self._filters[role].load()


def _capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _drop_capability_bounds() -> None:
    with contextlib.suppress(OSError):  # no such capability in this kernel, or no permission
        for capability in range(_LAST_CAPABILITY + 1):
            libc.prctl(_PR_CAPBSET_DROP, capability)


def _change_user(user: JobUser) -> None:
    os.setgroups([])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)


def _drop_capabilities() -> None:
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    libc.capset(header, nothing)
