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


class OutputSweep:
    """Removes chunks of unknown tickets; used from one event loop."""

    def __init__(
        self, connection: FleetConnection, daemon: str, publications: Publications
    ) -> None:
        self._connection = connection
        self._daemon = daemon
        self._publications = publications
        self._suspects: set[str] = set()
        """Tickets that were unknown at the last look."""

    async def look(self) -> None:
        """Remove chunks if they might fill the stream. Raises ``FleetUnavailableError``.

        A ticket must be unknown at two looks in a row: after a restart the daemon publishes its
        open jobs again one after the other, and their outputs may be in the stream already.
        """
        connection, daemon = self._connection, self._daemon
        stream = output_stream(daemon)
        info = await connection.api(f"STREAM.INFO.{stream}")
        state = info["state"]
        if state["bytes"] <= _MOST_USED * info["config"]["max_bytes"]:
            self._suspects = set()
            return
        if state.get("num_subjects", 0) > _MOST_LISTED:
            await connection.purge(stream, all_outputs(daemon))
            _log.warning("fleet-output-removed", stream=stream, tickets=None)
            return
        subjects = await connection.subjects(stream, all_outputs(daemon))
        tickets = {subject.split(".")[_TICKET] for subject in subjects}
        unknown = {one for one in tickets if self._publications.of_ticket(one) is None}
        removed = unknown & self._suspects
        for ticket in removed:
            await connection.purge(stream, output_chunks_filter(daemon, ticket))
        if removed:
            _log.warning("fleet-output-removed", stream=stream, tickets=len(removed))
        self._suspects = unknown - removed
