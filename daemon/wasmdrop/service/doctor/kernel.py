"""Check that the kernel supports confinement, by confining a process and running a job."""

import os
import tempfile
import time
from pathlib import Path
from typing import Final

from wasmdrop.protocol.errors import RefusedError, SandboxError, StorageError
from wasmdrop.protocol.limits import MEBIBYTE, Limits
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import bounded_text
from wasmdrop.sandbox.confinement import landlock
from wasmdrop.sandbox.confinement.confine import Confinement
from wasmdrop.sandbox.confinement.seccomp import SeccompFilter
from wasmdrop.sandbox.confinement.syscalls import Role
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.compilation import CompileLimits
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.sandbox.host.fork_server import ForkServer
from wasmdrop.sandbox.host.job_directory import JobDirectoryFactory
from wasmdrop.sandbox.host.module_cache.cache import ModuleCache
from wasmdrop.sandbox.wire import EngineOptions
from wasmdrop.service.doctor import guest
from wasmdrop.service.doctor.finding import Finding, ok, problem, unless_best_effort, warning
from wasmdrop.settings import Settings
from wasmdrop.system.job_user import foreign_processes, is_mapped

#: What each version of Landlock's interface restricts in addition, and the Linux version with it
#: (landlock(7)).
_LANDLOCK_PARTS: Final = (
    (2, "5.19", "renaming between directories"),
    (3, "6.2", "truncating"),
    (4, "6.7", "the network"),
    (5, "6.10", "controlling devices"),
    (6, "6.12", "scoping of signals and abstract sockets"),
)

_SECCOMP_ACTIONS: Final = Path("/proc/sys/kernel/seccomp/actions_avail")

#: ``(module (func (export "add") (param i64 i64) (result i64)
#: local.get 0 local.get 1 i64.add))``
_ADD: Final = bytes.fromhex(
    "0061736d0100000001070160027e7e017e030201000707010361646400000a09010700200020017c0b"
)
_ADDENDS: Final = (5, 7)

_HARD_LINKS: Final = Path("/proc/sys/fs/protected_hardlinks")
_HARD_LINKS_ADVICE: Final = (
    "sysctl fs.protected_hardlinks=1, if the owners of slots do not trust each other"
)

#: The module of the check takes milliseconds to compile.
_COMPILE_LIMITS: Final = CompileLimits(seconds=10.0, memory_mb=512)


async def examine(settings: Settings) -> list[Finding]:
    """Check the kernel and the container for what confinement needs."""
    return [
        _landlock(settings),
        _seccomp(settings),
        _hard_links(),
        _user(settings),
        *await _sandbox(settings),
    ]


def _landlock(settings: Settings) -> Finding:
    abi = landlock.abi_version()
    if abi == 0:
        found, _, advice = landlock.why_missing().partition(": ")
        return unless_best_effort(settings, "Landlock", found, advice)
    lacking = [f"{what} (Linux {linux})" for since, linux, what in _LANDLOCK_PARTS if abi < since]
    if lacking:
        return warning(
            "kernel",
            "Landlock",
            f"version {abi} of its interface; it does not restrict {', '.join(lacking)}",
            "a newer kernel adds these; until then the seccomp filter alone stands in the way",
        )
    return ok("kernel", "Landlock", f"version {abi} of its interface, all that is used")


def _seccomp(settings: Settings) -> Finding:
    advice = "use a kernel with CONFIG_SECCOMP_FILTER, on x86-64 or 64-bit ARM"
    try:
        SeccompFilter(Role.CHILD)
        actions = _SECCOMP_ACTIONS.read_text().split()
    except OSError as error:
        found = f"there is no filter for this kernel or machine: {error.strerror}"
        return unless_best_effort(settings, "seccomp", found, advice)
    if "kill_process" not in actions:
        found = "this kernel's filters can't kill a whole process"
        return unless_best_effort(settings, "seccomp", found, "use Linux 4.14 or later")
    return ok("kernel", "seccomp", "filters of system calls that kill")


def _hard_links() -> Finding:
    """Check whether users can create hard links to files that they can't read."""
    check = "hard links"
    try:
        value = _HARD_LINKS.read_text().strip()
    except OSError as error:
        return warning("kernel", check, f"{_HARD_LINKS}: {error.strerror}", _HARD_LINKS_ADVICE)
    if value == "0":
        found = "users may link files that they can't read into their slots"
        return warning("kernel", check, found, _HARD_LINKS_ADVICE)
    return ok("kernel", check, "users may link only files that they may write to")


def _user(settings: Settings) -> Finding:
    check = "user of jobs"
    if os.geteuid() != 0:
        return ok("kernel", check, f"not root: jobs run as user {os.geteuid()}, unprivileged")
    user = settings.job_user
    if not is_mapped(user):
        return unless_best_effort(
            settings,
            check,
            f"this user namespace has no user or group {user}",
            "set WASMDROP_JOB_USER to numbers that it has, and that nothing else runs as",
        )
    if Confinement(user).changes_user:
        others = foreign_processes(user, besides_jobs=True)
        if others:
            return warning(
                "kernel",
                check,
                f"{others} processes that are no jobs run as user {user.uid}, too",
                "they and jobs that escape can signal each other: set WASMDROP_JOB_USER to a user"
                " of its own",
            )
        return ok("kernel", check, f"root, and able to make jobs another user's ({user})")
    return unless_best_effort(
        settings,
        check,
        "root without the capabilities to change the user of jobs",
        "run the daemon as another user, or give it CAP_SETUID, CAP_SETGID and CAP_KILL",
    )


async def _sandbox(settings: Settings) -> list[Finding]:
    check = "confinement"
    try:
        async with ForkServer(idle=1, job_user=settings.job_user) as fork_server:
            confined = ok("kernel", check, "a process was confined: Landlock, seccomp and limits")
            if fork_server.missing:
                confined = unless_best_effort(
                    settings,
                    check,
                    f"jobs can't be confined whole; missing: {fork_server.missing}",
                    "a container may forbid what the kernel has: allow it landlock and seccomp;"
                    " WASMDROP_SANDBOX=best-effort goes on without",
                )
            return [
                confined,
                *await guest.try_program(settings, fork_server),
                await _job(fork_server),
            ]
    except (OSError, SandboxError) as error:
        advice = "see the errors of the fork server above; processes or memory may be short"
        return [problem("kernel", check, f"no child could be started: {error}", advice)]


async def _job(fork_server: ForkServer) -> Finding:
    """Compile a tiny module and run it, in confined children."""
    check = "a job, end to end"
    advice = "see the lines above for what the kernel or the container lacks"
    try:
        with tempfile.TemporaryDirectory(prefix="wasmdrop-") as temporary:
            started = time.perf_counter()
            cache = ModuleCache(Path(temporary), MEBIBYTE)
            directories = JobDirectoryFactory(Path(temporary), for_another_user=os.geteuid() == 0)
            executor = LocalExecutor(fork_server, cache, directories, _COMPILE_LIMITS)
            with tempfile.TemporaryFile(dir=temporary) as file:
                file.write(_ADD)
                file.flush()
                sha256 = cache.ingest(file.fileno())
            module = await executor.compile(sha256, EngineOptions())
            call = Call("add", module.summary.functions["add"], _ADDENDS)
            outcome = await executor.run(module, call, Limits())
            seconds = time.perf_counter() - started
    except (OSError, LookupError, RefusedError, SandboxError, StorageError) as error:
        return problem("kernel", check, bounded_text(f"it failed: {error}"), advice)
    if outcome.code is not Code.OK or outcome.results != (sum(_ADDENDS),):
        found = f"it ended as {outcome.code}: {outcome.message or outcome.results}"
        return problem("kernel", check, bounded_text(found), advice)
    return ok("kernel", check, f"compiled and run in {seconds * 1000:.0f} ms, its result right")
