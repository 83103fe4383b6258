"""Remove chunks of output that belong to no job of this daemon, before they fill its stream.

A worker that was taken over can store chunks under any ticket. Chunks of a ticket that does not
exist would stay until they expire, and take the room of other workers.
"""

from typing import Final

import structlog

from wasmdrop.fleet.daemon.publications import Publications
from wasmdrop.fleet.names import all_outputs, output_chunks_filter, output_stream
from wasmdrop.fleet.transport.connection import FleetConnection

_log = structlog.get_logger()

#: Part of a stream that may be in use before it is looked at.
_MOST_USED: Final = 0.5

#: Chunks that are listed. A stream with more is emptied: jobs whose output is gone run again.
_MOST_LISTED: Final = 50_000

#: Place of the ticket in the subject of a chunk.
_TICKET: Final = 3


async def sweep_outputs(
    connection: FleetConnection, daemon: str, publications: Publications
) -> None:
    """Remove chunks of unknown tickets if they might fill the stream.

    Raises ``FleetUnavailableError``.
    """
    stream = output_stream(daemon)
    info = await connection.api(f"STREAM.INFO.{stream}")
    state = info["state"]
    if state["bytes"] <= _MOST_USED * info["config"]["max_bytes"]:
        return
    if state.get("num_subjects", 0) > _MOST_LISTED:
        await connection.purge(stream, all_outputs(daemon))
        _log.warning("fleet-output-removed", stream=stream, tickets=None)
        return
    subjects = await connection.subjects(stream, all_outputs(daemon))
    tickets = {subject.split(".")[_TICKET] for subject in subjects}
    unknown = [ticket for ticket in tickets if publications.of_ticket(ticket) is None]
    for ticket in unknown:
        await connection.purge(stream, output_chunks_filter(daemon, ticket))
    if unknown:
        _log.warning("fleet-output-removed", stream=stream, tickets=len(unknown))
