"""Open this machine's sandbox: fork server, module cache and executor."""

import contextlib
import os
from collections.abc import AsyncIterator

import structlog

from wasmdrop.protocol.errors import SettingsError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.sandbox.host.compilation import CompileLimits
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.sandbox.host.fork_server import ForkServer
from wasmdrop.sandbox.host.job_directory import JobDirectoryFactory
from wasmdrop.sandbox.host.module_cache.cache import ModuleCache
from wasmdrop.sandbox.host.native_start import why_unusable
from wasmdrop.service.guest import HOW_TO_INSTALL, usable_native_program
from wasmdrop.service.signing_key import require_confinement
from wasmdrop.settings import GuestMode, SandboxMode, Settings

_log = structlog.get_logger()


@contextlib.asynccontextmanager
async def open_local_sandbox(
    settings: Settings, idle: int, zygote_idle: int = 0
) -> AsyncIterator[tuple[LocalExecutor, ModuleCache]]:
    """Give the executor and its module cache, which is in the state directory.

    Processes started ahead of need: ``idle`` for any job, ``zygote_idle`` for each module that is
    called again and again. Raises ``SettingsError`` if the sandbox is incomplete and must not be,
    or if the native program is missing and must not be.
    """
    has_native_program = usable_native_program(settings.guest) is not None
    if settings.guest is GuestMode.NATIVE and not has_native_program:
        raise SettingsError(
            "WASMDROP_GUEST: native, but wasmdrop was installed without the native program:"
            f" {HOW_TO_INSTALL}, or set auto or python"
        )
    cache = ModuleCache(settings.state_dir, settings.cache_mb * MEBIBYTE)
    limits = CompileLimits(settings.compile_sec, settings.compile_memory_mb)
    directories = JobDirectoryFactory(settings.state_dir, for_another_user=os.geteuid() == 0)
    async with ForkServer(idle, settings.job_user, jobs=settings.workers) as fork_server:
        missing = fork_server.missing
        if missing and settings.sandbox is SandboxMode.STRICT:
            raise SettingsError(
                f"jobs can't be confined here; missing: {missing}."
                " WASMDROP_SANDBOX=best-effort goes on without"
            )
        if missing:
            require_confinement(settings, missing)
            _log.warning("sandbox-incomplete", missing=missing)
        reason = await why_unusable(fork_server) if has_native_program and zygote_idle else ""
        if reason and settings.guest is GuestMode.NATIVE:
            raise SettingsError(
                f"WASMDROP_GUEST: native, but the native program does not work here: {reason};"
                " set auto or python"
            )
        if reason:
            _log.warning("native-program-unusable", reason=reason)
        executor = LocalExecutor(
            fork_server,
            cache,
            directories,
            limits,
            zygote_idle if has_native_program and not reason else 0,
            settings.workers,
        )
        try:
            yield executor, cache
        finally:
            executor.close()
