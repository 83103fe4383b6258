"""What a daemon with a fleet does beside its jobs: few tasks, however many jobs there are."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from wasmdrop.fleet.admin.setup import missing_for_daemon
from wasmdrop.fleet.daemon.output_sweep import OutputSweep
from wasmdrop.fleet.daemon.reconciler import PERIOD_SECONDS, Reconciler
from wasmdrop.fleet.daemon.remote_executor import RemoteExecutor
from wasmdrop.fleet.daemon.remote_job import Fleet
from wasmdrop.fleet.errors import FleetUnavailableError
from wasmdrop.fleet.messages import DaemonHeartbeat, InvalidMessageError, decode, encode
from wasmdrop.fleet.names import (
    daemon_heartbeat_subject,
    job_stream,
    outcome_consumer,
    outcome_stream,
    started_subject,
)
from wasmdrop.protocol.runtime_versions import own_versions
from wasmdrop.system.heartbeat import Heartbeat

_log = structlog.get_logger()

#: Requests for an answer that wait at the server: each takes one answer per round trip.
_PULLS: Final = 16

#: How long a request waits for an answer, in seconds.
_PULL_SECONDS: Final = 10.0

_CHECK_SECONDS: Final = 1.0
_HEARTBEAT_SECONDS: Final = 5.0
_SETUP_SECONDS: Final = 15.0

#: Pause after a failure, in seconds.
_PAUSE_SECONDS: Final = 1.0


class Loops:
    """The tasks of one daemon; they run from :meth:`start` to :meth:`stop`."""

    def __init__(
        self, fleet: Fleet, executor: RemoteExecutor, reconciler: Reconciler, window: int
    ) -> None:
        self._fleet = fleet
        self._executor = executor
        self._reconciler = reconciler
        self._window = window
        self._output_sweep = OutputSweep(fleet.connection, fleet.daemon, fleet.publications)
        self._identity = secrets.token_hex(8)
        self._missing: list[str] = []
        self._has_checked_rights = False
        self._twins: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self.heartbeat: Final = Heartbeat()
        """Of the task that takes answers."""

    def ping(self) -> None:
        """Do nothing: the task that takes answers beats by itself."""

    async def start(self) -> None:
        """Begin to check the connection: jobs may come."""
        fleet = self._fleet
        await fleet.connection.subscribe(
            started_subject(fleet.daemon), lambda _subject, data: fleet.answers.take_started(data)
        )
        await fleet.connection.subscribe(
            daemon_heartbeat_subject(fleet.daemon), lambda _subject, data: self._take_twin(data)
        )
        self._repeat(self._check, _CHECK_SECONDS)
        self._repeat(self._look_at_setup, _SETUP_SECONDS)
        self._repeat(self._send_heartbeat, _HEARTBEAT_SECONDS)
        for work in (
            fleet.cleanup.keep_acknowledging,
            fleet.cleanup.keep_purging,
            fleet.revocations.keep_sending,
        ):
            self._tasks.append(asyncio.create_task(work()))

    def receive(self) -> None:
        """Begin to take answers: all open jobs are known."""
        for _ in range(_PULLS):
            self._repeat(self._take_answer, 0.0)
        self._repeat(self._reconciler.compare, PERIOD_SECONDS)
        self._repeat(self._sweep_outputs, _SETUP_SECONDS)

    async def stop(self) -> None:
        """End all tasks; send the remaining acknowledgements."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._fleet.cleanup.flush()

    def _repeat(self, step: Callable[[], Awaitable[None]], seconds: float) -> None:
        self._tasks.append(asyncio.create_task(_repeat(step, seconds)))

    async def _take_answer(self) -> None:
        fleet = self._fleet
        self.heartbeat.beat()
        lease = await fleet.connection.fetch(
            outcome_stream(fleet.daemon), outcome_consumer(fleet.daemon), _PULL_SECONDS
        )
        if lease is not None:
            fleet.answers.take(lease)

    async def _check(self) -> None:
        self._fleet.availability.check()

    async def _look_at_setup(self) -> None:
        fleet = self._fleet
        await fleet.connection.wait_connected(_SETUP_SECONDS)
        missing = await missing_for_daemon(fleet.connection, fleet.pool, fleet.daemon)
        fleet.availability.lack = missing[0] if missing else ""
        if not self._has_checked_rights:
            self._has_checked_rights = True
            await fleet.revocations.check_right()
        executor, stream = self._executor, job_stream(fleet.pool)
        engine = executor.own_engine
        executor.has_own_engine = await fleet.connection.has_consumer(stream, engine)
        if not executor.has_own_engine:
            where = "run on this host" if fleet.runs_here else "wait"
            missing.append(
                f"pool {fleet.pool} has no class {engine}, so deterministic jobs {where}; run"
                " `wasmdrop fleet init` with this wasmtime (--wasmtime VERSION)"
            )
        if missing != self._missing:
            for reason in missing:
                _log.error("fleet-incomplete", reason=reason)
            self._missing = missing

    async def _sweep_outputs(self) -> None:
        await self._fleet.connection.wait_connected(_SETUP_SECONDS)
        await self._output_sweep.look()

    async def _send_heartbeat(self) -> None:
        fleet, metrics = self._fleet, self._fleet.metrics
        message = DaemonHeartbeat(
            *(fleet.daemon, self._identity, own_versions(), self._window),
            *(metrics.unanswered, metrics.waiting),
        )
        await fleet.connection.publish(daemon_heartbeat_subject(fleet.daemon), encode(message))

    def _take_twin(self, data: bytes) -> None:
        try:
            heard = decode(data, DaemonHeartbeat)
        except InvalidMessageError:
            return
        if heard.identity != self._identity:
            self._fleet.revocations.pause()
        if heard.identity != self._identity and heard.identity not in self._twins:
            self._twins = {heard.identity}  # so that it is logged once
            _log.error(
                "fleet-name-taken",
                name=self._fleet.daemon,
                reason="another daemon has this name, and each takes the other's answers; set"
                " WASMDROP_FLEET_NAME",
            )


async def _repeat(step: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Repeat a step until cancelled; a fault in one must not end the others."""
    while True:
        pause_seconds = seconds
        try:
            await step()
        except FleetUnavailableError:
            pause_seconds = max(seconds, _PAUSE_SECONDS)  # the connection logs why
        except Exception:  # noqa: BLE001 - it is logged, and the next step may succeed
            _log.exception("fleet-step-failed")
            pause_seconds = max(seconds, _PAUSE_SECONDS)
        if pause_seconds:
            await asyncio.sleep(pause_seconds)
