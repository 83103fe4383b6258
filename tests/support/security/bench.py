"""A pool, a store and an executor over a forking server that is not the real one."""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from wasmdrop.sandbox.host.compilation import CompileLimits
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.sandbox.host.fork_server import ForkServer
from wasmdrop.sandbox.host.job_directory import JobDirectoryFactory
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule, ModuleCache
from wasmdrop.sandbox.wire import EngineOptions
from wasmdrop.system.job_user import DEFAULT_JOB_USER

__all__ = ["Bench", "below", "descriptors"]

ROOT: Final = Path(__file__).parents[3]


class _Pool(ForkServer):
    """A pool whose forking server is the ``main`` of another module."""

    def __init__(self, idle: int, module: str) -> None:
        super().__init__(idle)
        self._module = module

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        user = DEFAULT_JOB_USER
        with theirs:
            program = (
                f"import sys; sys.path[:] = {[str(ROOT), *sys.path]!r}; "
                f"from {self._module} import main; main({theirs.fileno()}, {user.uid}, {user.gid})"
            )
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", program],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={},
                cwd="/",
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._connect(ours)


class Bench:
    """A pool, a store and an executor, on a loop that lasts."""

    def __init__(
        self, runner: asyncio.Runner, directory: Path, module: str, zygote_idle: int = 0
    ) -> None:
        self.runner = runner
        self.directory = directory
        self.pool = runner.run(self._enter(module))
        self.store = ModuleCache(directory, 1 << 30)
        self.directories = JobDirectoryFactory(directory, for_another_user=os.geteuid() == 0)
        self.compile_limits = CompileLimits(2, 512)
        self.executor = LocalExecutor(
            self.pool, self.store, self.directories, self.compile_limits, zygote_idle
        )

    async def _enter(self, module: str) -> ForkServer:
        return await _Pool(1, module).__aenter__()

    def compile(
        self,
        module: bytes,
        options: EngineOptions = EngineOptions(),  # noqa: B008 - is frozen
    ) -> CompiledModule:
        """Have a module compiled as if it had been dropped."""
        path = self.directory / "dropped"
        path.write_bytes(module)
        fd = os.open(path, os.O_RDONLY)
        try:
            sha256 = self.store.ingest(fd)
        finally:
            os.close(fd)
        return self.runner.run(self.executor.compile(sha256, options))

    def settle(self) -> None:
        """Wait until no child is left but idle ones."""

        async def until_idle() -> None:
            async with asyncio.timeout(10):
                pool = self.pool
                while (  # noqa: ASYNC110 - the pool tells nobody
                    pool._lingering or pool._exiting or not 0 < len(pool._alive) == len(pool._idle)
                ):
                    await asyncio.sleep(0.002)

        self.runner.run(until_idle())

    def children(self) -> int:
        """Return how many children the forking server has."""
        assert self.pool._process is not None
        pid = self.pool._process.pid
        return len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def descriptors() -> int:
    """Return how many descriptors this process holds."""
    return len(list(Path("/proc/self/fd").iterdir()))


def below(pid: int) -> set[int]:
    """Return all processes below one."""
    found: set[int] = set()
    pending = [pid]
    while pending:
        try:
            tasks = list(Path(f"/proc/{pending.pop()}/task").iterdir())
            children = [
                int(one) for task in tasks for one in (task / "children").read_text().split()
            ]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found.update(children)
        pending += children
    return found
