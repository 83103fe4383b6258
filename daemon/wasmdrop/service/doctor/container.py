"""Check the limits of the container or the service manager: memory, processes, descriptors."""

import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.service.doctor.finding import Finding, ok, problem, warning
from wasmdrop.settings import Settings

_AREA: Final = "container"

#: Mount points of control groups v2, alone or beside v1 (cgroups(7)).
_CGROUP_ROOTS: Final = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))

#: Processes and threads of the daemon with its fork server, and of each job: its process, the idle
#: one after it, and the threads that the runtime of WASI starts in addition to one per core.
_OWN_TASKS: Final = 64
_JOB_TASKS: Final = 4

#: Descriptors of the daemon (machine code in memory, journal, watches), and of each job.
_OWN_FILES: Final = 320
_JOB_FILES: Final = 8


def examine(settings: Settings) -> list[Finding]:
    """Check the limits of the daemon together with its jobs."""
    return [
        *_memory(settings),
        _tasks(settings),
        _files(settings),
        _temporary(),
    ]


def _memory(settings: Settings) -> list[Finding]:
    available, where = _available_bytes()
    available_mb = available // MEBIBYTE
    jobs_mb = settings.workers * settings.limits.memory_mb
    findings = []
    found = (
        f"{settings.workers} jobs of {settings.limits.memory_mb} MiB; {where} {available_mb} MiB"
    )
    if jobs_mb > available_mb:
        advice = "the kernel may kill the daemon: lower WASMDROP_WORKERS or WASMDROP_MEMORY_MB"
        findings.append(warning(_AREA, "memory of jobs", found, advice))
    else:
        findings.append(ok(_AREA, "memory of jobs", found))
    if settings.compile_memory_mb > available_mb:
        found = f"{settings.compile_memory_mb} MiB for one; {where} {available_mb} MiB"
        advice = "set WASMDROP_COMPILE_MEMORY_MB lower, so that compilers end by their own limit"
        findings.append(warning(_AREA, "memory of compilers", found, advice))
    return findings


def _available_bytes() -> tuple[int, str]:
    """Return the memory available in total, and the source of the limit as text."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    allowed = min(_cgroup_values("memory.max"), default=machine)
    if allowed < machine:
        return allowed, "the control group allows"
    return machine, "the machine has"


def _tasks(settings: Settings) -> Finding:
    check = "processes"
    cores = os.cpu_count() or 1
    needed = _OWN_TASKS + settings.workers * (_JOB_TASKS + cores)
    allowed = min(_cgroup_values("pids.max"), default=None)
    if allowed is None:
        return ok(_AREA, check, "the control group sets no limit")
    found = f"the control group allows {allowed}; {settings.workers} workers may need {needed}"
    if allowed < needed:
        advice = "raise its pids.max (docker: --pids-limit), or lower WASMDROP_WORKERS"
        return warning(_AREA, check, found, advice)
    return ok(_AREA, check, found)


def _files(settings: Settings) -> Finding:
    check = "open files"
    needed = _OWN_FILES + settings.workers * _JOB_FILES
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        found = f"{allowed} may be open; {settings.workers} workers may need {needed}"
        advice = "raise the limit (ulimit -n, LimitNOFILE=), or lower WASMDROP_WORKERS"
        return warning(_AREA, check, found, advice)
    return ok(_AREA, check, f"{allowed} may be open, {needed} are needed at most")


def _temporary() -> Finding:
    check = "temporary directory"
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        found = f"no temporary file can be made: {error.strerror}"
        advice = "mount a tmpfs on /tmp: `wasmdrop run` and `wasmdrop inspect` need it"
        return problem(_AREA, check, found, advice)
    return ok(_AREA, check, f"{tempfile.gettempdir()} is writable")


def _cgroup_values(name: str) -> Iterator[int]:
    """Yield the limits of this process's control group and of its ancestors."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    inside = next((line[3:] for line in lines if line.startswith("0::")), "/")
    for root in _CGROUP_ROOTS:
        group = root / inside.lstrip("/")
        # In another namespace, the path may not exist below this mount.
        for directory in (group, *group.parents):
            if not directory.is_relative_to(root):
                break
            try:
                yield int((directory / name).read_text())
            except (OSError, ValueError):
                continue  # no such file at the root; "max" without a limit
