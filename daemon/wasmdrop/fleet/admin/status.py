"""What a fleet does now: its queues, workers, daemons and streams."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from wasmdrop.fleet.messages import (
    DaemonHeartbeat,
    InvalidMessageError,
    WorkerHeartbeat,
    decode,
)
from wasmdrop.fleet.names import (
    daemon_heartbeat_subject,
    heartbeat_subject,
    job_stream,
    outcome_stream,
)
from wasmdrop.fleet.transport.connection import FleetConnection

_JOBS: Final = job_stream("")
_OUTCOMES: Final = outcome_stream("")


class Queue(msgspec.Struct, frozen=True):
    """The jobs of a pool in one class."""

    pool: str
    engine: str
    queued: int
    """Not leased."""
    leased: int
    requests: int
    """Workers that wait for a job."""


class Outcomes(msgspec.Struct, frozen=True):
    """The answers for a daemon."""

    daemon: str
    queued: int
    leased: int


class StreamUse(msgspec.Struct, frozen=True):
    """How full a stream is."""

    stream: str
    messages: int
    used_bytes: int
    max_bytes: int
    replicas: int


class FleetStatus(msgspec.Struct, frozen=True):
    """What a fleet does, in JSON as `wasmdrop fleet status --json` prints it."""

    server: str
    server_version: str
    queues: list[Queue]
    outcomes: list[Outcomes]
    streams: list[StreamUse]
    workers: list[WorkerHeartbeat]
    """Those that were heard from."""
    daemons: list[DaemonHeartbeat]
    """Those that were heard from: for a daemon's key, only itself."""


async def read_status(connection: FleetConnection, seconds: float) -> FleetStatus:
    """Listen to heartbeats for some seconds, then ask for the streams.

    Raises ``FleetUnavailableError``.
    """
    workers: dict[str, WorkerHeartbeat] = {}
    daemons: dict[str, DaemonHeartbeat] = {}

    def hear_worker(_subject: str, data: bytes) -> None:
        with contextlib.suppress(InvalidMessageError):
            worker = decode(data, WorkerHeartbeat)
            workers[worker.worker] = worker

    def hear_daemon(_subject: str, data: bytes) -> None:
        with contextlib.suppress(InvalidMessageError):
            daemon = decode(data, DaemonHeartbeat)
            daemons[daemon.identity] = daemon

    await connection.subscribe(heartbeat_subject("*", "*"), hear_worker)
    await connection.subscribe(daemon_heartbeat_subject("*"), hear_daemon)
    await asyncio.sleep(seconds)
    queues, outcomes, streams = [], [], []
    async for stream in _listed(connection, "STREAM.LIST", "streams"):
        config, state = stream["config"], stream["state"]
        name = config["name"]
        streams.append(
            StreamUse(
                name,
                state["messages"],
                state["bytes"],
                config["max_bytes"],
                config["num_replicas"],
            )
        )
        if not name.startswith(_JOBS) and not name.startswith(_OUTCOMES):
            continue
        async for consumer in _listed(connection, f"CONSUMER.LIST.{name}", "consumers"):
            counts = (consumer["num_pending"], consumer["num_ack_pending"])
            if name.startswith(_OUTCOMES):
                outcomes.append(Outcomes(name.removeprefix(_OUTCOMES), *counts))
            else:
                pool = name.removeprefix(_JOBS)
                queues.append(Queue(pool, consumer["name"], *counts, consumer["num_waiting"]))
    return FleetStatus(
        connection.server_url,
        connection.server_version,
        queues,
        outcomes,
        streams,
        sorted(workers.values(), key=lambda one: (one.pool, one.worker)),
        sorted(daemons.values(), key=lambda one: one.daemon),
    )


async def _listed(
    connection: FleetConnection, function: str, key: str
) -> AsyncIterator[dict[str, Any]]:
    """Yield the items that a function of JetStream lists, page by page."""
    seen = 0
    while True:
        answer = await connection.api(function, {"offset": seen})
        page = answer.get(key) or []
        for one in page:
            yield one
        seen += len(page)
        if not page or seen >= int(answer.get("total", 0)):
            return
