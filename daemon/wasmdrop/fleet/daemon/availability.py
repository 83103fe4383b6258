"""Whether the fleet's servers take jobs, as far as this daemon can tell.

They are away if there is no connection, or if no job was acknowledged, for
:data:`AWAY_SECONDS`. In the second case one job at a time tries whether they are back. They are
away, too, as long as they lack what this daemon needs.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from wasmdrop.fleet.daemon.metrics import FleetMetrics
from wasmdrop.fleet.transport.connection import FleetConnection

_log = structlog.get_logger()

#: How long the fleet may be silent before jobs run elsewhere, in seconds: longer than the election
#: of a new leader, which takes up to eight.
AWAY_SECONDS: Final = 10.0


class Availability:
    """Watches the connection and the publications; used from one event loop.

    ``clock``: monotonic, in seconds.
    """

    def __init__(
        self,
        connection: FleetConnection,
        metrics: FleetMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._metrics = metrics
        self._clock = clock
        self._failing_since: float | None = None
        self._succeeded_at = 0.0
        self._try_at = 0.0
        self._turn: asyncio.Future[None] | None = None
        self.is_away = False
        self.lack = ""
        """What the fleet lacks for this daemon, in one line; then it is away, too."""
        self.on_away: Callable[[], None] = lambda: None
        """Called when the servers are found to be away."""

    def note_success(self) -> None:
        """Note that the servers acknowledged a job."""
        self._succeeded_at = self._clock()
        self._failing_since = None
        if self.is_away:
            self.check()

    def note_failure(self, since: float) -> None:
        """Note that the servers did not acknowledge a job, which was sent at ``since``."""
        if self._connection.is_connected and self._failing_since is None:
            self._failing_since = max(since, self._succeeded_at)
        self.check()

    def may_try(self) -> bool:
        """Return whether to publish a job. While the servers are away, one job at a time tries."""
        if not self.is_away:
            return True
        if self.lack or not self._connection.is_connected or self._clock() < self._try_at:
            return False
        self._try_at = self._clock() + AWAY_SECONDS
        return True

    @property
    def why_away(self) -> str:
        """Why jobs wait while the servers are away, for people."""
        reason = "its servers take no jobs"
        if not self._connection.is_connected:
            reason = f"no server is reached: {self._connection.problem}"
        return f"waits for the fleet: {self.lack or reason}"

    async def turn(self) -> None:
        """Wait until it makes sense to ask again: at the next check with a connection."""
        if self._turn is None:
            self._turn = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._turn)

    def check(self) -> None:
        """Judge anew; called every second."""
        connection, was_away = self._connection, self.is_away
        self._metrics.is_connected = connection.is_connected
        if not connection.is_connected:
            self._failing_since = None
            away_seconds = connection.away_seconds
        elif self._failing_since is not None:
            away_seconds = self._clock() - self._failing_since
        else:
            away_seconds = 0.0
        self.is_away = bool(self.lack) or away_seconds >= AWAY_SECONDS
        self._metrics.is_away = self.is_away
        if self.is_away and not was_away:
            _log.warning("fleet-away", seconds=round(away_seconds, 1), reason=self.why_away)
            self._try_at = self._clock() + AWAY_SECONDS
            self.on_away()
        elif was_away and not self.is_away:
            _log.info("fleet-back")
        if (connection.is_connected or self.is_away != was_away) and self._turn is not None:
            self._turn.set_result(None)
            self._turn = None
