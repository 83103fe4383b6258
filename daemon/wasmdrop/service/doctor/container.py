"""What a container, or a service manager, takes away: memory, processes, descriptors."""

import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.service.doctor.finding import Finding, ok, problem, warning
from wasmdrop.settings import Settings

__all__ = ["examine"]

_AREA: Final = "container"

#: Where control groups are mounted, alone or beside those of the first version (cgroups(7)).
_CGROUP_ROOTS: Final = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))

#: Processes and threads of the daemon itself, its forking server among them, and of each job: its
#: process, the idle one after it, and as many threads as WASI's runtime starts beside the cores.
_OWN_TASKS: Final = 64
_JOB_TASKS: Final = 4

#: Descriptors: machine code at hand, journal and watches; then each job's.
_OWN_FILES: Final = 320
_JOB_FILES: Final = 8


def examine(settings: Settings) -> list[Finding]:
    """Examine what bounds the daemon and its jobs together."""
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
    """Return the memory that there is for everything, and in words who says so."""
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
    """Give the limits of this process's control group and of those above it."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    inside = next((line[3:] for line in lines if line.startswith("0::")), "/")
    for root in _CGROUP_ROOTS:
        group = root / inside.lstrip("/")
        # In a namespace of its own, the path may lead to nowhere that is mounted here.
        for directory in (group, *group.parents):
            if not directory.is_relative_to(root):
                break
            try:
                yield int((directory / name).read_text())
            except (OSError, ValueError):
                continue  # no such file at the root, and "max" where there is no limit
