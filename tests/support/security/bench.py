"""A fork server, a module cache and an executor for tests; the fork server may be another one."""

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
from wasmdrop.sandbox.native_program import find_native_program
from wasmdrop.sandbox.wire import EngineOptions
from wasmdrop.system.job_user import DEFAULT_JOB_USER

ROOT: Final = Path(__file__).parents[3]


class OtherForkServer(ForkServer):
    """A fork server that runs the ``main`` of another module."""

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
    """A fork server, a module cache and an executor on one event loop."""

    def __init__(
        self, runner: asyncio.Runner, directory: Path, module: str, zygote_idle: int = 0
    ) -> None:
        self.runner = runner
        self.directory = directory
        self.fork_server = runner.run(self._enter(module))
        self.cache = ModuleCache(directory, 1 << 30)
        self.directories = JobDirectoryFactory(directory, for_another_user=os.geteuid() == 0)
        self.compile_limits = CompileLimits(2, 512)
        self.executor = self.new_executor(zygote_idle)

    def new_executor(self, zygote_idle: int = 0) -> LocalExecutor:
        """Return another executor; without idle children it has no zygotes."""
        return LocalExecutor(
            *(self.fork_server, self.cache, self.directories, self.compile_limits),
            zygote_idle if find_native_program() else 0,
        )

    async def _enter(self, module: str) -> ForkServer:
        return await OtherForkServer(1, module).__aenter__()

    def compile(
        self,
        module: bytes,
        options: EngineOptions = EngineOptions(),  # noqa: B008 - is frozen
    ) -> CompiledModule:
        """Compile a module as if it had been dropped."""
        path = self.directory / "dropped"
        path.write_bytes(module)
        fd = os.open(path, os.O_RDONLY)
        try:
            sha256 = self.cache.ingest(fd)
        finally:
            os.close(fd)
        return self.runner.run(self.executor.compile(sha256, options))

    def settle(self) -> None:
        """Wait until only idle children are left."""

        async def until_idle() -> None:
            async with asyncio.timeout(10):
                server = self.fork_server
                while (  # noqa: ASYNC110 - the server signals nothing
                    server._ending or not 0 < len(server._alive) == len(server._idle)
                ):
                    await asyncio.sleep(0.002)

        self.runner.run(until_idle())

    def children(self) -> int:
        """Return the number of the fork server's children."""
        assert self.fork_server._process is not None
        pid = self.fork_server._process.pid
        return len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def descriptors() -> int:
    """Return the number of descriptors that this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def below(pid: int) -> set[int]:
    """Return all descendants of a process."""
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
