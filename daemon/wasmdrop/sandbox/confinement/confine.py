"""Confinement: what a child gives up before it touches a byte of the guest.

:meth:`Confinement.prepare_parent` comes in the forking server, before any fork.
:meth:`Confinement.leave_parent` comes right after the fork, ahead of need: session, user and
descriptors of the forking server are left behind. :meth:`Confinement.enter` comes when the order is
known and before its descriptors are used: limits, Landlock, and last the seccomp filter, which
forbids all the calls that set up the others. :meth:`Confinement.narrow` comes when the machine code
is loaded and no file is needed any more, before any of it runs.
"""

import ctypes
import os
import resource
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from wasmdrop.sandbox.confinement import landlock, seccomp
from wasmdrop.system.job_user import DEFAULT_JOB_USER, JobUser, is_mapped
from wasmdrop.system.processes import die_with

__all__ = ["PROCESS_BYTES", "STREAM_FDS", "Confinement"]

#: Room for the process itself beside the guest's memories: interpreter, engine, a 16 MiB frame
#: and its copies. Generous, as it only has to stop what has no other bound.
PROCESS_BYTES: Final = 192 * 1024 * 1024

_PR_CAPBSET_DROP: Final = 24
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_LAST_CAPABILITY: Final = 63

#: CAP_SETGID, CAP_SETUID and CAP_KILL, which is what it takes to change the user of a process and
#: still be able to end it (capabilities(7)).
_CHANGE_USER: Final = 1 << 6 | 1 << 7 | 1 << 5

#: Descriptors that a child may hold: its order's, and a few for the threads of WASI.
_OPEN_FILES: Final = 64

_LINK_FD: Final = 3

#: Standard output and error of a job whose process has had them since the fork.
STREAM_FDS: Final = (_LINK_FD + 1, _LINK_FD + 2)

#: Beyond any descriptor: a limit that was lowered says nothing of those that were open before.
_HIGHEST_FD: Final = 1 << 30

#: Threads of all jobs together: WASI takes one a core and a few more in each, and there may be a
#: job a core. The kernel counts by user, who may also be that of another daemon's children, idle
#: ones included; where the user can't be changed there are others' too.
_CORES: Final = os.cpu_count() or 1
_THREADS: Final = 480 + 2 * _CORES**2
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

_libc = ctypes.CDLL(None, use_errno=True)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


_CAPABILITY_VERSION_3: Final = 0x20080522


class Confinement:
    """What this kernel can do, found out once in the forking server.

    ``job_user``: whom confined processes run as, if this one is root.
    """

    def __init__(self, job_user: JobUser = DEFAULT_JOB_USER) -> None:
        self._job_user = job_user
        self.missing: list[str] = []
        """The parts that this kernel, or the container, does not give; in words."""
        self.landlock_version = landlock.abi_version(_libc)
        if self.landlock_version == 0:
            self.missing.append(f"Landlock ({landlock.why_missing(_libc)})")
        self._filters: dict[seccomp.Stage, seccomp.Filter] = {}
        try:
            self._filters = {stage: seccomp.Filter(stage) for stage in seccomp.Stage}
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
                f"the user and group {job_user} of jobs (this user namespace has none of these"
                " numbers; set WASMDROP_JOB_USER to some that it has)"
            )

    def prepare_parent(self) -> None:
        """Give up, for the calling process and all children to come, what no program may regain.

        Once in the forking server, which executes none, instead of in every child.
        """
        if self.changes_user:
            _drop_capability_bounds()
        # What a child left behind is this process's to end.
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def leave_parent(self, parent_pid: int, link_fd: int) -> int:
        """Make the calling process nobody's but its parent's; return where ``link_fd`` is now.

        Right after the fork, ahead of any order: own session, another user, no capability, no
        descriptor but the null device as 0 to 2 and the link to the daemon.
        """
        os.setsid()
        os.dup2(link_fd, _LINK_FD)
        os.closerange(_LINK_FD + 1, _HIGHEST_FD)
        # What a guest that broke out writes to standard error must not reach the daemon's log.
        os.dup2(0, 2)
        if self.changes_user:
            _change_user(self._job_user)
        _drop_capabilities()
        # After the change of user, which clears it.
        die_with(parent_pid)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        return _LINK_FD

    def enter(
        self,
        *,
        readable: list[int],
        cpu_seconds: int | None,
        file_bytes: int,
        data_bytes: int,
        threads: bool,
        directory: int | None = None,
        grants: Sequence[int] = (),
    ) -> None:
        """Confine the calling process for good.

        ``readable``: descriptors of the files that may be opened for reading; ``directory``: of the
        one directory that is the job's own, if it has one, and ``grants`` those that it may read
        besides. ``cpu_seconds``, where it is given, is a second line behind
        the daemon's clock, for a daemon that was stopped itself. ``data_bytes`` bounds what is
        really writable: wasmtime reserves address space by the gigabyte, so a bound on that would
        refuse modules that are quite small. ``threads``: whether it may have any.
        """
        self._limit_time_and_threads(cpu_seconds, threads=threads)
        self._limit_space(file_bytes, data_bytes)
        if self.landlock_version:
            landlock.restrict(_libc, self.landlock_version, readable, directory, grants)
        if directory is None:
            self._load_filter(seccomp.Stage.ENTERED)
            return
        # What it makes must be its keeper's to remove, who may be another user.
        os.umask(0)
        # A file that grows too large shall be the end: the guest might hide the mere error.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        self._load_filter(seccomp.Stage.ENTERED_WITH_FILES)

    def enter_zygote(self, *, readable: list[int], file_bytes: int, data_bytes: int) -> None:
        """Confine the calling process for good, but for forking others like it.

        They inherit all this, and are given the rest by :meth:`leave_zygote`.
        """
        self._limit_space(file_bytes, data_bytes)
        self._limit_threads()
        if self.landlock_version:
            landlock.restrict(_libc, self.landlock_version, readable)
        self._load_filter(seccomp.Stage.ZYGOTE)

    def leave_zygote(self, parent_pid: int, link_fd: int, streams: Sequence[int] = ()) -> int:
        """As :meth:`leave_parent`, of a process that :meth:`enter_zygote` has confined.

        ``streams`` become :data:`STREAM_FDS`, which must be others of its descriptors before.
        """
        os.dup2(link_fd, _LINK_FD)
        for fd, number in zip(streams, STREAM_FDS, strict=False):
            os.dup2(fd, number)
        os.closerange(_LINK_FD + 1 + len(streams), _HIGHEST_FD)
        die_with(parent_pid)
        return _LINK_FD

    def enter_from_zygote(self, *, cpu_seconds: int, threads: bool) -> None:
        """Confine the calling process as :meth:`enter` and :meth:`narrow` do, for good.

        Adds what it does not have from its template.
        """
        self._limit_time_and_threads(cpu_seconds, threads=threads)
        self._load_filter(seccomp.Stage.INVOKED)

    def _limit_time_and_threads(self, cpu_seconds: int | None, *, threads: bool) -> None:
        if cpu_seconds is not None:
            self._limit(resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1)
        if threads:
            self._limit_threads()
        else:
            self._limit(resource.RLIMIT_NPROC, 0)

    def _limit_threads(self) -> None:
        others = 0 if self.changes_user else _OTHERS_THREADS
        self._limit(resource.RLIMIT_NPROC, _THREADS + others)

    def _limit_space(self, file_bytes: int, data_bytes: int) -> None:
        self._limit(resource.RLIMIT_FSIZE, file_bytes)
        self._limit(resource.RLIMIT_DATA, data_bytes)
        self._limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
        self._limit(resource.RLIMIT_CORE, 0)
        self._limit(resource.RLIMIT_MEMLOCK, 0)
        self._limit(resource.RLIMIT_MSGQUEUE, 0)

    def narrow(
        self, *, compiles: bool = False, has_directory: bool = False, has_grants: bool = False
    ) -> None:
        """Take what only the loading of machine code needs: opening files, unwritable memory.

        With ``compiles``, leave the latter: the compiler puts its own code there. With
        ``has_directory``, leave the former; ``has_grants``, take the setting of times.
        """
        if has_grants:
            self._load_filter(seccomp.Stage.RUNNING_WITH_GRANTS)
        elif has_directory:
            self._load_filter(seccomp.Stage.RUNNING_WITH_FILES)
        else:
            self._load_filter(seccomp.Stage.WITHOUT_PATHS if compiles else seccomp.Stage.RUNNING)

    def _limit(self, kind: int, soft: int, hard: int | None = None) -> None:
        """Set a limit, but never above the one that is in force."""
        ceiling = self._ceilings[kind]
        hard = soft if hard is None else hard
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(kind, (soft, hard))

    def _load_filter(self, stage: seccomp.Stage) -> None:
        if stage in self._filters:
            seccomp.load(self._filters[stage], _libc)


def _capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _drop_capability_bounds() -> None:
    for capability in range(_LAST_CAPABILITY + 1):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # the kernel knows no more of them, or this process may not


def _change_user(user: JobUser) -> None:
    os.setgroups([])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)


def _drop_capabilities() -> None:
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if _libc.capset(ctypes.byref(header), nothing) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
