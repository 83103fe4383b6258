"""The workers whose heartbeats this daemon receives, and a view of its fleet for the control page.

A worker can send any facts about itself, under any name of its pool. So texts are bounded, and
nothing depends on the facts. The pool is true, because the server checks the subject.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from wasmdrop.fleet.messages import InvalidMessageError, WorkerHeartbeat, decode
from wasmdrop.protocol.text import one_line

#: How long a worker is known after its last heartbeat, in seconds: it sends one every five.
_KNOWN_SECONDS: Final = 30.0

#: Most workers that are known at a time; others are ignored until one of these is silent.
_MOST_KNOWN: Final = 1000

_MOST_CHARACTERS: Final = 64


class KnownWorker(msgspec.Struct, frozen=True):
    """A worker, as it describes itself; only the pool is checked."""

    name: str
    pool: str
    slots: int
    running: int
    done: int
    """Jobs answered since its start."""
    up_seconds: float
    """Time since its start, by two clocks; never negative."""
    seen_seconds: float
    """Time since its last heartbeat."""
    wasmdrop: str
    wasmtime: str
    platform: str


class FleetView(msgspec.Struct, frozen=True):
    """The state of a fleet, as its daemon sees it."""

    name: str
    """The name of this daemon in the fleet."""
    pool: str
    is_connected: bool
    is_away: bool
    """Whether the fleet has not answered for so long that jobs run elsewhere or wait."""
    problem: str
    """Why there is no connection, or the fault of the fleet, in one line; or empty."""
    window: int
    """Jobs that may be in the fleet at a time."""
    unanswered: int
    """Jobs that are in the fleet and not answered."""
    waiting: int
    """Jobs that wait for room in the window, or for the fleet."""
    fallback_runs: int
    """Jobs that ran here because the fleet could not take them, or did not answer."""
    workers: tuple[KnownWorker, ...]
    """By pool and name; of all pools that this daemon hears of."""


class _Heard(msgspec.Struct, frozen=True):
    heartbeat: WorkerHeartbeat
    at: float


class KnownWorkers:
    """Remembers heartbeats; used from one event loop.

    ``clock``: monotonic, in seconds. ``wall_ns``: the time of day, in nanoseconds.
    """

    def __init__(self, clock: Callable[[], float], wall_ns: Callable[[], int]) -> None:
        self._clock = clock
        self._wall_ns = wall_ns
        self._heard: dict[tuple[str, str], _Heard] = {}

    def take(self, subject: str, data: bytes) -> None:
        """Take a heartbeat; see :func:`~wasmdrop.fleet.names.heartbeat_subject`."""
        try:
            heartbeat = decode(data, WorkerHeartbeat)
        except InvalidMessageError:
            return
        pool = subject.split(".")[-2]
        key = pool, heartbeat.worker
        if key not in self._heard and len(self._heard) >= _MOST_KNOWN:
            self._forget_silent()
            if len(self._heard) >= _MOST_KNOWN:
                return
        runtime = heartbeat.runtime
        bounded = msgspec.structs.replace(
            heartbeat,
            pool=one_line(pool, _MOST_CHARACTERS),
            protocols=(),
            runtime=msgspec.structs.replace(
                runtime,
                wasmdrop=one_line(runtime.wasmdrop, _MOST_CHARACTERS),
                wasmtime=one_line(runtime.wasmtime, _MOST_CHARACTERS),
                platform=one_line(runtime.platform, _MOST_CHARACTERS),
            ),
        )
        self._heard[key] = _Heard(bounded, self._clock())

    def now(self) -> tuple[KnownWorker, ...]:
        """Return the workers that sent a heartbeat lately, by pool and name."""
        self._forget_silent()
        now, wall_ns = self._clock(), self._wall_ns()
        return tuple(
            _worker(one.heartbeat, now - one.at, wall_ns)
            for _key, one in sorted(self._heard.items(), key=lambda item: item[0])
        )

    def _forget_silent(self) -> None:
        since = self._clock() - _KNOWN_SECONDS
        for key in [key for key, one in self._heard.items() if one.at < since]:
            del self._heard[key]


def _worker(heartbeat: WorkerHeartbeat, seen_seconds: float, wall_ns: int) -> KnownWorker:
    runtime = heartbeat.runtime
    return KnownWorker(
        name=heartbeat.worker,
        pool=heartbeat.pool,
        slots=heartbeat.slots,
        running=heartbeat.running,
        done=heartbeat.done,
        up_seconds=max(0.0, (wall_ns - heartbeat.started_at_ns) / 1e9),
        seen_seconds=seen_seconds,
        wasmdrop=runtime.wasmdrop,
        wasmtime=runtime.wasmtime,
        platform=runtime.platform,
    )
