"""Counts the runs of a daemon's jobs: ``python -m tests.support.fleet.observer DAEMON FILE``.

Appends the ticket of each run that a worker begins to the file. Has the settings of the daemon.
Messages that are sent while the observer has no server are not seen.
"""

import asyncio
import os
import sys
from pathlib import Path

from wasmdrop.fleet.messages import Started, decode
from wasmdrop.fleet.names import started_subject
from wasmdrop.fleet.transport.access import read_access
from wasmdrop.fleet.transport.connection import connect
from wasmdrop.settings import load


async def observe(daemon: str, path: Path) -> None:
    """Append the ticket of each run that begins, until cancelled."""
    with path.open("a", encoding="ascii") as file:

        def note(_subject: str, data: bytes) -> None:
            file.write(f"{decode(data, Started).ticket}\n")
            file.flush()

        access = read_access(load(os.environ, {}).settings, "observer")
        async with connect(access) as connection:
            await connection.subscribe(started_subject(daemon), note)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(observe(sys.argv[1], Path(sys.argv[2])))
