"""Tell the fleet every few seconds that this worker lives, and how much it does."""

import asyncio
import time
from typing import Final

from wasmdrop.fleet.messages import WorkerHeartbeat, encode
from wasmdrop.fleet.names import SERVED_PROTOCOLS, engine_class, heartbeat_subject
from wasmdrop.fleet.transport.connection import FleetConnection
from wasmdrop.fleet.worker.counters import WorkerCounters
from wasmdrop.protocol.runtime_versions import own_versions

_PERIOD_SECONDS: Final = 5.0


async def send_heartbeats(
    connection: FleetConnection, worker: str, pool: str, slots: int, counters: WorkerCounters
) -> None:
    """Send heartbeats until cancelled."""
    subject = heartbeat_subject(pool, worker)
    runtime = own_versions()
    started_at_ns = time.time_ns()
    while True:
        heartbeat = WorkerHeartbeat(
            worker=worker,
            pool=pool,
            engine=engine_class(runtime),
            runtime=runtime,
            protocols=SERVED_PROTOCOLS,
            slots=slots,
            running=counters.running,
            done=counters.answered,
            started_at_ns=started_at_ns,
        )
        await connection.publish(subject, encode(heartbeat))
        await asyncio.sleep(_PERIOD_SECONDS)
