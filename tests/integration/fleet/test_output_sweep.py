"""The sweep of chunks of output that belong to no job, on a real server."""

import asyncio
from pathlib import Path
from typing import Final

import msgspec
import pytest

from tests.support.fleet.ready import SIZES, connected, ready_server
from wasmdrop.fleet.daemon import output_sweep
from wasmdrop.fleet.daemon.output_sweep import OutputSweep
from wasmdrop.fleet.daemon.publications import Publications, PublishedJob
from wasmdrop.fleet.messages import CHUNK_BYTES
from wasmdrop.fleet.names import ANY_ENGINE, output_chunk_subject, output_stream
from wasmdrop.fleet.transport.connection import FleetConnection, Stored

DAEMON: Final = "daemon"
OWN: Final = output_chunk_subject(DAEMON, "a" * 32, "u", 0)
NEXT: Final = output_chunk_subject(DAEMON, "b" * 32, "u", 0)
OUTPUTS_MB: Final = 4


def known() -> Publications:
    """Return publications with one ticket."""
    found = Publications()
    job = PublishedJob("job", 1, ANY_ENGINE, lambda _reason: None)
    found.add(job)
    found.add_ticket(job, "a" * 32)
    return found


async def fill(connection: FleetConnection) -> None:
    """Store chunks of one own job, and then of strangers until there is no room."""
    await connection.store(OWN, b"own")
    for number in range(100):
        subject = output_chunk_subject(DAEMON, f"{number:032x}", "u", 0)
        if await connection.store(subject, bytes(CHUNK_BYTES)) is Stored.FULL:
            return
    pytest.fail("the stream has no limit")


@pytest.mark.parametrize("most_listed", [50_000, 3])
def test_full_stream_of_outputs_loses_chunks_of_unknown_tickets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_listed: int
) -> None:
    """Those of the daemon's own jobs stay, unless there are too many to look at."""
    monkeypatch.setattr(output_sweep, "_MOST_LISTED", most_listed)
    sizes = msgspec.structs.replace(SIZES, outputs=OUTPUTS_MB)

    async def run() -> None:
        async with connected(server) as connection:
            await fill(connection)
            sweep = OutputSweep(connection, DAEMON, known())
            await sweep.look()
            await sweep.look()
            kept = b"own" if most_listed > OUTPUTS_MB * 4 else None
            assert await connection.get(output_stream(DAEMON), OWN) == kept
            assert await connection.store(NEXT, bytes(CHUNK_BYTES)) is Stored.STORED
            await sweep.look()
            await sweep.look()
            chunk = await connection.get(output_stream(DAEMON), NEXT)
            assert chunk is not None  # there is room enough

    with ready_server(tmp_path, sizes=sizes) as server:
        asyncio.run(run())


def test_output_of_a_job_that_is_resumed_after_the_first_look_stays(tmp_path: Path) -> None:
    """A daemon that was restarted may not have published it again yet."""
    sizes = msgspec.structs.replace(SIZES, outputs=OUTPUTS_MB)

    async def run() -> None:
        async with connected(server) as connection:
            await fill(connection)
            publications = Publications()
            sweep = OutputSweep(connection, DAEMON, publications)
            await sweep.look()
            job = PublishedJob("job", 1, ANY_ENGINE, lambda _reason: None)
            publications.add(job)
            publications.add_ticket(job, "a" * 32)
            await sweep.look()
            assert await connection.get(output_stream(DAEMON), OWN) == b"own"

    with ready_server(tmp_path, sizes=sizes) as server:
        asyncio.run(run())
