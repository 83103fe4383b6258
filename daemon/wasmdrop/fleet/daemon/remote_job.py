"""What an attempt in the fleet needs: the daemon's side of the fleet, and the job itself."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from wasmdrop.fleet.bodies.modules import ModuleUploads
from wasmdrop.fleet.daemon.answer_room import AnswerRoom
from wasmdrop.fleet.daemon.answers import Answers
from wasmdrop.fleet.daemon.availability import Availability
from wasmdrop.fleet.daemon.cleanup import Cleanup
from wasmdrop.fleet.daemon.metrics import FleetMetrics
from wasmdrop.fleet.daemon.publications import Publications
from wasmdrop.fleet.daemon.revocations import Revocations
from wasmdrop.fleet.daemon.tickets import Tickets
from wasmdrop.fleet.transport.connection import FleetConnection
from wasmdrop.protocol.limits import Limits
from wasmdrop.sandbox.host.attempt import Attempt
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule


class Fleet(msgspec.Struct, frozen=True):
    """What all runs of a daemon share."""

    connection: FleetConnection
    pool: str
    daemon: str
    tickets: Tickets
    publications: Publications
    answers: Answers
    uploads: ModuleUploads
    cleanup: Cleanup
    revocations: Revocations
    availability: Availability
    metrics: FleetMetrics
    local: LocalExecutor
    runs_here: bool
    """Whether jobs run on this machine while the servers are away."""
    slack_seconds: float
    """How long a worker that began a job may take to answer, beyond the job's time limit."""
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    room: AnswerRoom = msgspec.field(default_factory=AnswerRoom)


class RemoteJob(msgspec.Struct, frozen=True):
    """What an attempt runs, and how."""

    attempt: Attempt
    engine: str
    """The class of its workers."""
    attempts: int
    """How many more times the job may be run, this one included."""
    explain: Callable[[str], None]
    """Called with the reason why the job waits."""
    module: CompiledModule
    call: Call
    limits: Limits
