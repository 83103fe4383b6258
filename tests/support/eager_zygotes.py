"""A daemon whose jobs run in zygotes from the first call on, with a record of each.

Usage: ``python eager_zygotes.py RECORD``. A daemon starts a zygote at the second call of a module
and does not wait for it, so a test could not know what ran its job. This one starts the zygote at
the first call and waits. For each job that a zygote may run, it appends a line to the file RECORD:
the digest of the module, and the name of the process that forked the job's; a dash if the job runs
without a zygote.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any, Final

from wasmdrop.cli.main import main
from wasmdrop.sandbox.host import executor
from wasmdrop.sandbox.host.child_process import ChildProcess
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule
from wasmdrop.sandbox.host.zygote_pool import ZygotePool

#: Calls after which a module has a zygote or never gets one: the first remembers it, the second
#: starts the zygote, the third uses it. Several modules may wait for their turn to start.
_CALLS: Final = 10


class _EagerPool(ZygotePool):
    """A pool that starts a zygote at the first call."""

    record: Path

    async def acquire(self, module: CompiledModule, *rest: Any) -> Any:
        """Return a child of the module's zygote, as soon as there is one."""
        found = await super().acquire(module, *rest)
        for _ in range(_CALLS):
            if found is not None:
                break
            if self._starting:
                await asyncio.wait(self._starting.values())
            found = await super().acquire(module, *rest)
        self._note(module, None if found is None else found[0])
        return found

    def _note(self, module: CompiledModule, child: ChildProcess | None) -> None:
        try:
            name = "-" if child is None else _parent_of(child.pid)
        except FileNotFoundError:
            name = "killed"
        with self.record.open("a", encoding="ascii") as file:
            file.write(f"{module.sha256} {name}\n")


def _parent_of(pid: int) -> str:
    """Return the name of the process that forked a process, without its first word."""
    parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    return Path(f"/proc/{parent}/comm").read_text().split()[-1]


if __name__ == "__main__":
    _EagerPool.record = Path(sys.argv[1])
    vars(executor)["ZygotePool"] = _EagerPool
    sys.exit(main(["serve"]))
