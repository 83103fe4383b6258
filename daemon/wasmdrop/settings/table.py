"""The table of settings: name, format, default and help text of each."""

import json
from typing import Any, Final

import msgspec

from wasmdrop.settings.formats import (
    ADDRESS,
    ARGUMENTS,
    DAYS,
    DAYS_ABOVE_ZERO,
    FLEET_NAME,
    FLEET_SERVERS,
    FUEL,
    GRANTS,
    HOOK,
    INT64,
    JOB_USER,
    MB,
    NAME,
    PATH,
    RESULT_PATH,
    SECONDS,
    SECONDS_OR_ZERO,
    SUFFIX,
    WHOLE_MB,
    ValueFormat,
    choice,
    integer,
    none_or,
    printable,
)
from wasmdrop.settings.values import (
    AfterMode,
    FleetFallback,
    FleetSecurity,
    GuestMode,
    LogFormat,
    SandboxMode,
    Switch,
    WatchMode,
)
from wasmdrop.system.job_user import DEFAULT_JOB_USER

PREFIX: Final = "WASMDROP_"

#: Settings of earlier versions, and what holds instead.
REMOVED: Final = {"isolation": "each job has a process of its own"}

#: Settings whose variables are older than the prefix.
_UNPREFIXED: Final = frozenset(
    {"wasm_path", "input_path", "output_path", "entry", "args_json", "add_x", "add_y"}
    | {"timeout_sec"}
)


class Option(msgspec.Struct, frozen=True):
    """One row of the table of settings."""

    name: str
    format: ValueFormat
    default: Any
    """None if there is none, or if it depends on other things: ``help`` then states it."""
    help: str

    @property
    def variable(self) -> str:
        """The environment variable."""
        name = self.name.upper()
        return name if self.name in _UNPREFIXED else PREFIX + name

    @property
    def meaning(self) -> str:
        """The help text with the default."""
        default = self.text(self.default) if self.default not in {None, ""} else ""
        return f"{self.help} (default: {default})" if default else self.help

    @property
    def flag(self) -> str:
        """The command-line flag."""
        return "--" + self.name.replace("_", "-")

    def text(self, value: Any) -> str:
        """Return a value of this setting in one line, as a person would write it."""
        if self.format is FLEET_SERVERS:
            return ",".join(value) or "off"
        if value is None:
            return "off" if self.name == "http" else "none"
        if isinstance(value, dict):
            return ",".join(f"{name}={printable(path)}" for name, path in value.items()) or "none"
        if isinstance(value, tuple):
            return json.dumps(value)
        if isinstance(value, float):
            return f"{value:g}"
        return printable(value)


#: Every setting, in the order in which they are shown.
SETTINGS: Final = (
    Option("wasm_path", PATH, None, "the default module (default: WASM_DIR/module.wasm)"),
    Option("input_path", PATH, None, "input of the root slot (default: SHARED_DIR/input.json)"),
    Option(
        "output_path",
        RESULT_PATH,
        None,
        "results of the root slot have its stem (default: SHARED_DIR/result.txt)",
    ),
    Option("wasm_dir", PATH, None, "directory for modules (default: that of WASM_PATH)"),
    Option("shared_dir", PATH, None, "directory for inputs (default: that of OUTPUT_PATH)"),
    Option(
        "state_dir", PATH, None, "journal and module cache (default: systemd's, /var/lib or XDG's)"
    ),
    Option("entry", NAME, "run", "function to call if the input names none"),
    Option(
        "args_json", ARGUMENTS, None, "arguments if the input has none (default: ARG_0, ARG_1, ...)"
    ),
    Option("add_x", INT64, 5, "first argument of add(i64,i64)"),
    Option("add_y", INT64, 7, "second argument of add(i64,i64)"),
    Option("timeout_sec", SECONDS, 20.0, "limit of a job: wall-clock time"),
    Option("memory_mb", WHOLE_MB, 256, "limit of a job: memories and tables, in MiB"),
    Option("output_mb", MB, 8.0, "limit of a job: output, or results, in MiB"),
    Option("disk_mb", WHOLE_MB, 64, "limit of a job: files in its directory, in MiB"),
    Option("fuel", FUEL, None, "limit of a job: units of wasmtime's fuel (default: none)"),
    Option(
        "workers", integer(1, 1024), None, "jobs that run at a time (default: the usable cores)"
    ),
    Option("compile_sec", SECONDS, 60.0, "limit of a compilation: wall-clock time"),
    Option("compile_memory_mb", WHOLE_MB, 2048, "limit of a compilation: memory, in MiB"),
    Option("cache_mb", WHOLE_MB, 1024, "limit of the module cache, in MiB"),
    Option("max_input_mb", integer(1, 1024), 16, "largest input that is read, in MiB"),
    Option("max_module_mb", integer(1, 4096), 256, "largest module that is read, in MiB"),
    Option("watch", choice(WatchMode), WatchMode.AUTO, "how drops are found"),
    Option("rescan_sec", SECONDS, 60.0, "time between scans for drops without events"),
    Option("poll_sec", SECONDS, 1.0, "time between scans if no events arrive"),
    Option("settle_sec", SECONDS, 0.5, "time that an invalid file must stay unchanged"),
    Option("module_wait_sec", SECONDS, 10.0, "how long a job waits for its module"),
    Option("attempts", integer(1, 100), 3, "attempts per job, after crashes and internal errors"),
    Option("max_queued", integer(1, 10_000_000), 100_000, "limit of the queue, in jobs"),
    Option(
        "directory_running",
        none_or(integer(1, 65_536)),
        None,
        "limit of the jobs of one top directory that are under way (default: none)",
    ),
    Option(
        "directory_queued",
        none_or(integer(1, 10_000_000)),
        None,
        "limit of the jobs of one top directory that wait (default: none)",
    ),
    Option("drain_sec", SECONDS_OR_ZERO, 30.0, "shutdown grace period for running jobs"),
    Option(
        "reserve_mb",
        integer(0, 1 << 20),
        16,
        "free space reserved for results, in MiB; below it intake pauses",
    ),
    Option("let_go_sec", SECONDS, 86400.0, "how long results are kept for a missing slot"),
    Option(
        "undelivered_jobs", integer(1, 10_000_000), 10_000, "limit of undelivered results, in jobs"
    ),
    Option("undelivered_mb", WHOLE_MB, 1024, "limit of undelivered results, in MiB"),
    Option("keep_days", DAYS, 7.0, "retention of finished jobs in the journal"),
    Option(
        "keep_results_days",
        none_or(DAYS_ABOVE_ZERO),
        None,
        "retention of finished slots: inputs and results (default: for ever)",
    ),
    Option("after", choice(AfterMode), AfterMode.KEEP, "what happens to inputs that are done"),
    Option(
        "on_finished",
        HOOK,
        None,
        "URL or command that receives the marker of each finished job (default: none)",
    ),
    Option(
        "on_finished_secret_file",
        PATH,
        None,
        "secret that signs requests to a URL of WASMDROP_ON_FINISHED (default: unsigned)",
    ),
    Option(
        "journal_mb",
        WHOLE_MB,
        1024,
        "limit of the journal, in MiB; the oldest finished jobs are pruned",
    ),
    Option("grants", GRANTS, "none", "directories that inputs may ask to read"),
    Option(
        "sandbox", choice(SandboxMode), SandboxMode.STRICT, "what to do if jobs can't be confined"
    ),
    Option(
        "guest",
        choice(GuestMode),
        GuestMode.AUTO,
        "what runs the jobs of modules that are called again",
    ),
    Option("job_user", JOB_USER, DEFAULT_JOB_USER, "user that jobs run as if the daemon is root"),
    Option(
        "signing_key",
        PATH,
        None,
        "private key in PEM that signs receipts of deterministic jobs (default: no receipts)",
    ),
    Option("fleet", FLEET_SERVERS, (), "servers of a fleet that runs the jobs"),
    Option(
        "fleet_fallback",
        choice(FleetFallback),
        FleetFallback.LOCAL,
        "where jobs run while the fleet can't be reached: local is this host",
    ),
    Option(
        "fleet_name",
        FLEET_NAME,
        None,
        "name of this daemon or worker in the fleet (default: the host's)",
    ),
    Option("fleet_pool", FLEET_NAME, "default", "pool of workers"),
    Option(
        "fleet_window", integer(1, 65_536), 256, "jobs that this daemon has in the fleet at a time"
    ),
    Option(
        "fleet_key", PATH, None, "nkey seed that identifies this host to the fleet (default: none)"
    ),
    Option(
        "fleet_ca",
        PATH,
        None,
        "certificates that the fleet's servers are checked with (default: the host's)",
    ),
    Option(
        "fleet_security",
        choice(FleetSecurity),
        FleetSecurity.STRICT,
        "whether other hosts' servers need TLS and a key",
    ),
    Option("http", ADDRESS, None, "address of health, metrics and the page (default: off)"),
    Option("page", choice(Switch), Switch.OFF, "control page, at the address of WASMDROP_HTTP"),
    Option(
        "page_token_file",
        PATH,
        None,
        "token that opens the control page; needed unless the address is this host's own",
    ),
    Option(
        "log", choice(LogFormat), None, "log format (default: console on a terminal, else json)"
    ),
    Option(
        "ready_suffix",
        SUFFIX,
        "",
        "an input is taken only if a file INPUT+SUFFIX exists (default: none)",
    ),
    Option("max_depth", integer(0, 64), 8, "limit of directory levels below the shared directory"),
)
