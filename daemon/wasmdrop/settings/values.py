"""The values of all settings of one daemon."""

from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from wasmdrop.protocol.limits import Limits
from wasmdrop.system.job_user import JobUser


class WatchMode(StrEnum):
    """How the daemon finds drops."""

    AUTO = "auto"
    """By events, and by polling on mounts that raise none."""
    EVENTS = "events"
    POLL = "poll"


class SandboxMode(StrEnum):
    """What the daemon does if the kernel can't confine jobs."""

    STRICT = "strict"
    """Refuse to start."""
    BEST_EFFORT = "best-effort"
    """Log the missing parts, and continue."""


class GuestMode(StrEnum):
    """What runs the jobs of a module that is called again."""

    AUTO = "auto"
    """The native program if it is installed, else Python."""
    NATIVE = "native"
    """The native program: refuse to start without it."""
    PYTHON = "python"


class FleetFallback(StrEnum):
    """Where jobs run while the fleet can't be reached."""

    LOCAL = "local"
    WAIT = "wait"


class FleetSecurity(StrEnum):
    """What a connection to a fleet must have."""

    STRICT = "strict"
    """TLS and a key, unless the server is on this host."""
    NONE = "none"


class Switch(StrEnum):
    """Whether something is in use."""

    ON = "on"
    OFF = "off"


class AfterMode(StrEnum):
    """What happens to an input when its job is done."""

    KEEP = "keep"
    ARCHIVE = "archive"
    """It moves to ``done/`` or ``failed/`` beside it."""
    REMOVE = "remove"


class LogFormat(StrEnum):
    """Format of log lines."""

    CONSOLE = "console"
    JSON = "json"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings. Names end in the unit; paths are absolute."""

    wasm_path: Path
    input_path: Path
    output_path: Path
    """Ends in ``.txt`` or ``.json``. All results of the root slot have its stem."""
    wasm_dir: Path
    shared_dir: Path
    state_dir: Path
    entry: str
    entry_is_set: bool
    """Whether ``ENTRY`` was set, possibly to its default."""
    env_args: tuple[Any, ...] | None
    """The arguments from ``ARGS_JSON`` or ``ARG_0``…; None if neither is set."""
    add_x: int
    add_y: int
    limits: Limits
    """Limits of each job. An input may ask for less, never for more."""
    workers: int
    compile_sec: float
    compile_memory_mb: int
    cache_mb: int
    max_input_mb: int
    max_module_mb: int
    watch: WatchMode
    rescan_sec: float
    poll_sec: float
    settle_sec: float
    module_wait_sec: float
    attempts: int
    max_queued: int
    directory_running: int | None
    """Jobs of one top directory that are under way at a time; None without a limit."""
    directory_queued: int | None
    """Jobs of one top directory that wait; None without a limit."""
    drain_sec: float
    reserve_mb: int
    let_go_sec: float
    undelivered_jobs: int
    undelivered_mb: int
    keep_days: float
    keep_results_days: float | None
    """None if results are never removed."""
    after: AfterMode
    on_finished: str | tuple[str, ...] | None
    """A URL, or the words of a command; None without a hook."""
    on_finished_secret_file: Path | None
    """The file of the secret that signs requests. Only its path: the secret is in no setting."""
    journal_mb: int
    sandbox: SandboxMode
    guest: GuestMode
    job_user: JobUser
    """The user that jobs run as if the daemon is root."""
    grants: dict[str, Path]
    """Directories that an input may ask to read, by name."""
    signing_key: Path | None
    """The file of the key that signs receipts. Only its path: the key is in no setting."""
    fleet: tuple[str, ...]
    """URLs of the servers of a fleet; empty without one."""
    fleet_fallback: FleetFallback
    fleet_name: str
    """The name of this daemon or worker in the fleet."""
    fleet_pool: str
    fleet_window: int
    """Jobs that this daemon has in the fleet at a time."""
    fleet_key: Path | None
    """The file of the nkey seed. Only its path: the key is in no setting."""
    fleet_ca: Path | None
    fleet_security: FleetSecurity
    http: str | None
    page: Switch
    page_token_file: Path | None
    """The file of the token that opens the page. Only its path: the token is in no setting."""
    log: LogFormat
    ready_suffix: str
    max_depth: int


class Loaded(msgspec.Struct, frozen=True):
    """Settings and their origins."""

    settings: Settings
    origins: dict[str, str]
    """By the name in `SETTINGS`: ``default``, ``flag --workers``, ``environment TIMEOUT_SEC``,
    ``file /etc/wasmdrop/config.toml``, ``systemd STATE_DIRECTORY``. A path that follows from
    another one has that one's origin."""
    config_file: Path | None
    """The configuration file that was read, absolute; None if none was."""
    config_origin: str
    """Whether a flag or variable names that file, in the words of ``origins``."""
