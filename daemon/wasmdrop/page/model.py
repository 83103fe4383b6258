"""The JSON of the page: the answers of ``/api/v1/overview`` and ``/api/v1/history``.

All sizes are bounded here or where the values are made: lists by ``MAX_JOBS``, ``MAX_MODULES`` and
``MAX_WORKERS``, names by ``NAME_LIMIT`` and messages by ``REASON_LIMIT`` characters. Names and
messages come from strangers; unprintable characters in them are escaped, so that they are valid
UTF-8. Times are in UTC as in the marker, durations in seconds, sizes in bytes. Later versions may
add fields.
"""

from typing import Final

import msgspec

#: Jobs in each list.
MAX_JOBS: Final = 50

#: Modules in each list.
MAX_MODULES: Final = 200

#: Workers of the fleet.
MAX_WORKERS: Final = 100

#: Characters of a name: a slot, a module, a directory.
NAME_LIMIT: Final = 300

#: Characters of the message of a job and of a reason.
REASON_LIMIT: Final = 500


class DaemonInfo(msgspec.Struct, frozen=True):
    """The daemon itself."""

    version: str
    wasmtime_version: str
    host: str
    """Name of the host or container."""
    guest: str
    """``native`` or ``python``: runs the jobs of modules that are called again."""
    started_at: str
    uptime_seconds: float
    workers: int
    """Jobs that may run at a time."""
    shared_dir: str
    wasm_dir: str


class Health(msgspec.Struct, frozen=True):
    """The same as ``/healthz`` and ``/readyz``, without the check of the directories."""

    is_alive: bool
    """Whether all parts answer."""
    is_ready: bool
    """Whether a drop made now is taken and its job can run."""
    reasons: tuple[str, ...] = ()
    """Why it is not alive or not ready."""
    silent_seconds: dict[str, float] = {}
    """Time since the last heartbeat of each part, by its name."""


class JobCounts(msgspec.Struct, frozen=True):
    """Numbers of jobs. Those by code and state have only the codes and states that occur."""

    queued: int
    """Accepted jobs that do not run yet."""
    running: int
    delivering: int
    undelivered: int
    """Jobs whose results could not be delivered yet."""
    undelivered_bytes: int
    oldest_seconds: float
    """Age of the oldest open job; 0 without one."""
    max_queued: int
    """Limit of the queue."""
    ended: dict[str, int]
    """Jobs that ended since the daemon started, by code."""
    by_state: dict[str, int]
    """Open jobs by state."""


class OpenJob(msgspec.Struct, frozen=True):
    """A job that runs or waits."""

    job: str
    """Its id."""
    slot: str
    state: str
    """``queued``, ``waiting`` (for its module), ``compiling``, ``running`` or ``executed``."""
    dropped_at: str
    open_seconds: float
    """Time since the drop."""
    running_seconds: float | None
    """Time since the start of the attempt; None if the job does not run."""
    attempt: int
    """Attempts begun so far."""
    module: str | None
    """Its module; None if it is not known yet."""
    id: str | None
    """The producer's id for the job."""
    is_remote: bool
    """Whether it runs in the fleet."""
    is_cancelled: bool
    """Whether its cancellation was requested and its end is yet to come."""
    why: str
    """Why it waits; may be empty."""


class EndedJob(msgspec.Struct, frozen=True):
    """A job that has an outcome. Its results may still be on their way."""

    job: str
    slot: str
    status: str
    """``succeeded`` or ``failed``."""
    code: str
    message: str
    module: str | None
    id: str | None
    attempt: int
    worker: str | None
    """The worker of the fleet that ran it."""
    dropped_at: str
    finished_at: str
    total_seconds: float
    """From the drop to the outcome."""
    run_seconds: float | None
    """In its process; None if it never ran."""


class CodeFailures(msgspec.Struct, frozen=True):
    """The failed jobs of one code, the latest one in particular."""

    code: str
    count: int
    job: str
    slot: str
    message: str
    finished_at: str


class ModuleFailures(msgspec.Struct, frozen=True):
    """The failed jobs of one module, the latest one in particular."""

    module: str | None
    """None: jobs that failed before their module was known."""
    sha256: str | None
    count: int
    codes: dict[str, int]
    job: str
    slot: str
    message: str
    finished_at: str


class Module(msgspec.Struct, frozen=True):
    """A module, by its digest."""

    sha256: str
    module: str
    """The path of the last job's module."""
    size_bytes: int
    calls: int
    failures: int
    compile_seconds: float | None
    """Time that a job waited for its compilation; None if it was compiled before."""
    median_run_seconds: float | None
    """Of its last runs; None without one."""
    last_called_at: str


class Volume(msgspec.Struct, frozen=True):
    """The volume of a directory."""

    name: str
    """``shared`` or ``state``."""
    path: str
    free_bytes: int
    size_bytes: int
    reserve_bytes: int
    """Below it the daemon takes no drops."""


class Storage(msgspec.Struct, frozen=True):
    """Storage in use."""

    volumes: tuple[Volume, ...]
    journal_bytes: int
    journal_max_bytes: int
    cache_bytes: int
    """Modules and their machine code."""
    cache_max_bytes: int


class FleetWorker(msgspec.Struct, frozen=True):
    """A worker of the fleet."""

    name: str
    pool: str
    running: int
    slots: int
    done: int
    """Jobs answered since its start."""
    up_seconds: float
    seen_seconds: float
    """Time since the daemon heard of it."""
    wasmdrop: str
    wasmtime: str
    platform: str


class Fleet(msgspec.Struct, frozen=True):
    """The fleet, if there is one."""

    pool: str
    is_connected: bool
    is_away: bool
    """Whether it does not answer for so long that jobs run elsewhere or wait."""
    problem: str
    """Why there is no connection, or the fault of the fleet; or empty."""
    window: int
    """Jobs that may be in the fleet at a time."""
    unanswered: int
    """Jobs that are in the fleet and not answered."""
    waiting: int
    """Jobs that are ready and wait for room, or for the fleet."""
    fallback_runs: int
    """Jobs that ran on the daemon's host instead."""
    known_workers: int = 0
    """Workers that the daemon hears of; the list may have fewer."""
    workers: tuple[FleetWorker, ...] = ()


class Hooks(msgspec.Struct, frozen=True):
    """The completion hooks, if they are on."""

    pending: int
    oldest_seconds: float
    delivered: int
    failed: int
    """Failed attempts."""
    given_up: int


class Limits(msgspec.Struct, frozen=True):
    """The limits per top directory, if there are any."""

    directory_running: int | None
    directory_queued: int | None
    held_directories: int
    """Top directories with jobs that wait because too many others are under way."""
    full_directories: int
    """Top directories that have as many waiting jobs as they may have."""


class Overview(msgspec.Struct, frozen=True):
    """``GET /api/v1/overview``: the state of the daemon, at most a second old."""

    made_at: str
    daemon: DaemonInfo
    health: Health
    jobs: JobCounts
    running: tuple[OpenJob, ...]
    """The oldest ones first."""
    queued: tuple[OpenJob, ...]
    """The oldest ones first."""
    ended: tuple[EndedJob, ...]
    """The latest one first."""
    failures_by_code: tuple[CodeFailures, ...]
    """The most frequent one first. Since the daemon started, and of its last jobs before."""
    failures_by_module: tuple[ModuleFailures, ...]
    """The same, by module."""
    modules: tuple[Module, ...]
    """By their last calls, the latest first."""
    storage: Storage
    login: bool
    """Whether the page needs a token, and so has a login and a logout."""
    fleet: Fleet | None = None
    hooks: Hooks | None = None
    limits: Limits | None = None


class History(msgspec.Struct, frozen=True):
    """``GET /api/v1/history``: samples of the last hour, in columns; all have the same length.

    ``?after=TIME`` has only those after a time of an earlier answer.
    """

    made_at: str
    period_seconds: float
    """Time between two samples. A longer gap means that the daemon did not run or was stuck."""
    times: tuple[int, ...]
    """End of each period, in seconds since 1970-01-01 UTC; the oldest first."""
    succeeded: tuple[float, ...]
    """Delivered jobs a second that succeeded."""
    failed: tuple[float, ...]
    """Delivered jobs a second that failed."""
    p50_seconds: tuple[float | None, ...]
    """Median of the time from the drop to the marker; None if no job was delivered."""
    p95_seconds: tuple[float | None, ...]
    """The 95th percentile of the same."""
    queued: tuple[int, ...]
    """Jobs that waited at the end of the period."""
    running: tuple[int, ...]
    """Jobs that ran at the end of the period."""
