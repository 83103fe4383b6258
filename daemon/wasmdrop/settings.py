"""The settings: one table of names, defaults and help texts, and the values of one daemon.

Each setting is an environment variable and a command-line flag. Flags win over the environment. An
empty variable counts as not set (``${NAME:-}`` in a compose file sets such), except for ``ARG_0``,
``ARG_1``, …. Guarantees that a `Settings` is consistent: paths are absolute, numbers are in bounds,
and the state directory is not where others can write.
"""

import difflib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec

from wasmdrop.protocol import strict_json
from wasmdrop.protocol.errors import RefusedError, SettingsError
from wasmdrop.protocol.limits import GRANT_NAME, Limits
from wasmdrop.protocol.slot import MARKER_SUFFIX, OUTPUT_SUFFIX, RESULT_SUFFIXES
from wasmdrop.protocol.text import describe_value, escaped
from wasmdrop.system.job_user import DEFAULT_JOB_USER, JobUser, read_job_user

__all__ = [
    "SETTINGS",
    "Isolation",
    "Loaded",
    "LogFormat",
    "SandboxMode",
    "Setting",
    "Settings",
    "WatchMode",
    "load",
    "scalar_or_text",
]

#: A week. poll(2), which counts milliseconds, allows no more than 24 days.
_MAX_SECONDS: Final = 604_800
_MAX_DAYS: Final = 36_500
#: A tebibyte, in MiB.
_MAX_MB: Final = 1024 * 1024
_MAX_PORT: Final = 65_535

_SYSTEM_STATE_DIR: Final = Path("/var/lib/wasmdrop")
_DEFAULT: Final = "default"
_PREFIX: Final = "WASMDROP_"

#: Settings whose variables are older than the prefix.
_UNPREFIXED: Final = frozenset(
    {"wasm_path", "input_path", "output_path", "entry", "args_json", "add_x", "add_y"}
    | {"timeout_sec"}
)

#: A job that asks for all grants must stay below its limit of open files.
_MAX_GRANTS: Final = 16

_ARGUMENT: Final = re.compile(r"ARG_(0|[1-9][0-9]{0,5})")

#: Variables that Kubernetes sets in every container of a namespace with a Service that is named
#: ``wasmdrop`` or ``wasmdrop-NAME``. They are no settings and must not stop the start.
_SERVICE_LINK: Final = re.compile(
    r"WASMDROP_([A-Z0-9_]+_)?(SERVICE_HOST=.*|SERVICE_PORT(_[A-Z0-9_]+)?=[0-9]+|PORT=[a-z]+://.*"
    r"|PORT_[0-9]+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?=.*)",
    re.DOTALL,
)

#: Suffixes of a slot's results.
_SUFFIXES: Final = (*RESULT_SUFFIXES, MARKER_SUFFIX, OUTPUT_SUFFIX)


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
    """Log what is missing, and continue."""


class Isolation(StrEnum):
    """What separates one job from the next."""

    PROCESS = "process"
    """The kernel: each job has a new process."""
    INSTANCE = "instance"
    """wasmtime: jobs of one module share a process, each in a new instance."""


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
    drain_sec: float
    reserve_mb: int
    let_go_sec: float
    undelivered_jobs: int
    undelivered_mb: int
    keep_days: float
    journal_mb: int
    sandbox: SandboxMode
    isolation: Isolation
    job_user: JobUser
    """The user that jobs run as if the daemon is root."""
    grants: dict[str, Path]
    """Directories that an input may ask to read, by name."""
    http: str | None
    log: LogFormat
    ready_suffix: str
    max_depth: int


class Loaded(msgspec.Struct, frozen=True):
    """Settings and their origins."""

    settings: Settings
    origins: dict[str, str]
    """By the name in `SETTINGS`: ``default``, ``flag --workers``, ``environment TIMEOUT_SEC``,
    ``systemd STATE_DIRECTORY``. A path that follows from another one has that one's origin."""


class _ValueFormat(msgspec.Struct, frozen=True):
    """How a value is read from text. ``read`` raises ``ValueError``, possibly with a reason."""

    metavar: str
    expected: str
    read: Callable[[str], Any]


class Setting(msgspec.Struct, frozen=True):
    """One row of the table of settings."""

    name: str
    format: _ValueFormat
    default: Any
    """None if there is none, or if it depends on other things: ``help`` then states it."""
    help: str

    @property
    def variable(self) -> str:
        """The environment variable."""
        name = self.name.upper()
        return name if self.name in _UNPREFIXED else _PREFIX + name

    @property
    def flag(self) -> str:
        """The command-line flag."""
        return "--" + self.name.replace("_", "-")

    def text(self, value: Any) -> str:
        """Return a value of this setting in one line, as a person would write it."""
        if value is None:
            return "off" if self.name == "http" else "none"
        if isinstance(value, dict):
            return ",".join(f"{name}={_printable(path)}" for name, path in value.items()) or "none"
        if isinstance(value, tuple):
            return json.dumps(value)
        if isinstance(value, float):
            return f"{value:g}"
        return _printable(value)


# --- Formats of values


def _integer(low: int, high: int) -> _ValueFormat:
    def read(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,20}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return _ValueFormat("N", f"an integer from {low} to {high}", read)


def _positive(metavar: str, what: str, most: int, *, or_zero: bool = False) -> _ValueFormat:
    def read(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,20}(\.[0-9]{1,20})?", text):
            raise ValueError
        value = float(text)
        if value > most or (value == 0 and not or_zero):
            raise ValueError
        return value

    least = "0 or more" if or_zero else "more than 0"
    return _ValueFormat(metavar, f"{what}, {least} and at most {most}", read)


def _choice(options: type[StrEnum]) -> _ValueFormat:
    names = [option.value for option in options]

    def read(text: str) -> StrEnum:
        if text not in names:
            raise ValueError
        return options(text)

    return _ValueFormat("|".join(names), " or ".join(names), read)


def _read_path(text: str) -> Path:
    if not text:
        raise ValueError
    return Path(os.path.abspath(text))  # noqa: PTH100 - Path.resolve would follow links


def _read_result_path(text: str) -> Path:
    path = _read_path(text)
    if path.suffix not in {".txt", ".json"}:
        raise ValueError
    return path


def _read_fuel(text: str) -> int | None:
    return None if text == "none" else int(_UNITS.read(text))


def _read_address(text: str) -> str | None:
    if text == "off":
        return None
    found = re.fullmatch(r"(?:\[[0-9A-Fa-f:.]+\]|[^\[\]:/\s]*):([0-9]{1,5})", text)
    if found is None or int(found[1]) > _MAX_PORT:
        raise ValueError
    return text


def _read_grants(text: str) -> dict[str, Path]:
    grants: dict[str, Path] = {}
    if text == "none":
        return grants
    for part in text.split(","):
        name, equals, path = part.partition("=")
        if not equals or not re.fullmatch(GRANT_NAME, name):
            raise ValueError(f"in {describe_value(part)}")
        if name in grants:
            raise ValueError(f"{name} is repeated")
        grants[name] = _read_path(path)
    if len(grants) > _MAX_GRANTS:
        raise ValueError(f"at most {_MAX_GRANTS}")
    return grants


def _read_suffix(text: str) -> str:
    if "/" in text:
        raise ValueError
    return text


def _read_arguments(text: str) -> tuple[Any, ...]:
    try:
        value = strict_json.parse(text.encode())
    except RefusedError as error:
        raise ValueError(error.message) from None
    if isinstance(value, list):
        return tuple(value)
    raise ValueError


def scalar_or_text(text: str) -> Any:
    """Return the JSON scalar that ``text`` is, else ``text`` itself."""
    try:
        value = strict_json.parse(os.fsencode(text))
    except RefusedError:
        return text
    return text if isinstance(value, list | dict) else value


_UNITS: Final = _integer(1, 2**64 - 1)
_SECONDS: Final = _positive("SECONDS", "a number of seconds", _MAX_SECONDS)
_WHOLE_MB: Final = _integer(1, _MAX_MB)
_MB: Final = _positive("MIB", "a number of MiB", _MAX_MB)
_PATH: Final = _ValueFormat("PATH", "a path", _read_path)
_INT64: Final = _integer(-(2**63), 2**64 - 1)

#: Every setting, in the order in which they are shown.
SETTINGS: Final = (
    Setting("wasm_path", _PATH, None, "the default module (default: WASM_DIR/module.wasm)"),
    Setting("input_path", _PATH, None, "input of the root slot (default: SHARED_DIR/input.json)"),
    Setting(
        "output_path",
        _ValueFormat("PATH", "a path that ends in .txt or .json", _read_result_path),
        None,
        "results of the root slot have its stem (default: SHARED_DIR/result.txt)",
    ),
    Setting("wasm_dir", _PATH, None, "directory for modules (default: that of WASM_PATH)"),
    Setting("shared_dir", _PATH, None, "directory for inputs (default: that of OUTPUT_PATH)"),
    Setting(
        "state_dir", _PATH, None, "journal and module cache (default: systemd's, /var/lib or XDG's)"
    ),
    Setting(
        "entry",
        _ValueFormat("NAME", "a name", str),
        "run",
        "function to call if the input names none",
    ),
    Setting(
        "args_json",
        _ValueFormat("JSON", "a JSON array", _read_arguments),
        None,
        "arguments if the input has none (default: ARG_0, ARG_1, ...)",
    ),
    Setting("add_x", _INT64, 5, "first argument of add(i64,i64)"),
    Setting("add_y", _INT64, 7, "second argument of add(i64,i64)"),
    Setting("timeout_sec", _SECONDS, 20.0, "limit of a job: wall-clock time"),
    Setting("memory_mb", _WHOLE_MB, 256, "limit of a job: memories and tables, in MiB"),
    Setting("output_mb", _MB, 8.0, "limit of a job: output, or results, in MiB"),
    Setting("disk_mb", _WHOLE_MB, 64, "limit of a job: files in its directory, in MiB"),
    Setting(
        "fuel",
        _ValueFormat("N", f"none or {_UNITS.expected}", _read_fuel),
        None,
        "limit of a job: units of wasmtime's fuel (default: none)",
    ),
    Setting(
        "workers", _integer(1, 1024), None, "jobs that run at a time (default: the usable cores)"
    ),
    Setting("compile_sec", _SECONDS, 60.0, "limit of a compilation: wall-clock time"),
    Setting("compile_memory_mb", _WHOLE_MB, 2048, "limit of a compilation: memory, in MiB"),
    Setting("cache_mb", _WHOLE_MB, 1024, "limit of the module cache, in MiB"),
    Setting("max_input_mb", _integer(1, 1024), 16, "largest input that is read, in MiB"),
    Setting("max_module_mb", _integer(1, 4096), 256, "largest module that is read, in MiB"),
    Setting("watch", _choice(WatchMode), WatchMode.AUTO, "how drops are found"),
    Setting("rescan_sec", _SECONDS, 60.0, "time between scans for drops without events"),
    Setting("poll_sec", _SECONDS, 1.0, "time between scans if no events arrive"),
    Setting("settle_sec", _SECONDS, 0.5, "time that an invalid file must stay unchanged"),
    Setting("module_wait_sec", _SECONDS, 10.0, "how long a job waits for its module"),
    Setting("attempts", _integer(1, 100), 3, "attempts per job, after crashes and internal errors"),
    Setting("max_queued", _integer(1, 10_000_000), 100_000, "limit of the queue, in jobs"),
    Setting(
        "drain_sec",
        _positive("SECONDS", "a number of seconds", _MAX_SECONDS, or_zero=True),
        30.0,
        "shutdown grace period for running jobs",
    ),
    Setting(
        "reserve_mb",
        _integer(0, 1 << 20),
        16,
        "free space reserved for results, in MiB; below it intake pauses",
    ),
    Setting("let_go_sec", _SECONDS, 86400.0, "how long results are kept for a missing slot"),
    Setting(
        "undelivered_jobs", _integer(1, 10_000_000), 10_000, "limit of undelivered results, in jobs"
    ),
    Setting("undelivered_mb", _WHOLE_MB, 1024, "limit of undelivered results, in MiB"),
    Setting(
        "keep_days",
        _positive("DAYS", "a number of days", _MAX_DAYS, or_zero=True),
        7.0,
        "retention of finished jobs in the journal",
    ),
    Setting(
        "journal_mb",
        _WHOLE_MB,
        1024,
        "limit of the journal, in MiB; the oldest finished jobs are pruned",
    ),
    Setting(
        "grants",
        _ValueFormat("NAME=DIR,...", "none or a comma-separated list of NAME=DIR", _read_grants),
        "none",
        "directories that inputs may ask to read",
    ),
    Setting(
        "sandbox", _choice(SandboxMode), SandboxMode.STRICT, "what to do if jobs can't be confined"
    ),
    Setting(
        "isolation",
        _choice(Isolation),
        Isolation.PROCESS,
        "process: one per job; instance: many jobs of a trusted module share one",
    ),
    Setting(
        "job_user",
        _ValueFormat("USER", "a user name or UID[:GID]", read_job_user),
        DEFAULT_JOB_USER,
        "user that jobs run as if the daemon is root",
    ),
    Setting(
        "http",
        _ValueFormat("HOST:PORT", "off or HOST:PORT", _read_address),
        None,
        "address of health and metrics (default: off)",
    ),
    Setting(
        "log", _choice(LogFormat), None, "log format (default: console on a terminal, else json)"
    ),
    Setting(
        "ready_suffix",
        _ValueFormat("SUFFIX", "a suffix without '/'", _read_suffix),
        "",
        "an input is taken only if a file INPUT+SUFFIX exists (default: none)",
    ),
    Setting(
        "max_depth", _integer(0, 64), 8, "limit of directory levels below the shared directory"
    ),
)


# --- Loading


def load(environ: Mapping[str, str], flags: Mapping[str, str]) -> Loaded:
    """Read every setting; ``flags`` are texts by the name of the setting.

    Raises `SettingsError` with one line: the variable or flag, what was expected, and the value.
    """
    _refuse_unknown(environ, flags)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for setting in SETTINGS:
        values[setting.name] = setting.default
        if setting.name in flags:
            origins[setting.name] = f"flag {setting.flag}"
            values[setting.name] = _read(setting.format, setting.flag, flags[setting.name])
        elif text := environ.get(setting.variable):
            origins[setting.name] = f"environment {setting.variable}"
            values[setting.name] = _read(setting.format, setting.variable, text)
    _place_directories(values, origins)
    if "grants" not in origins:
        values["grants"] = {}
    _place_state(values, origins, environ)
    if "args_json" not in origins:
        _number_arguments(values, origins, environ)
    values["env_args"] = values.pop("args_json")
    if "workers" not in origins:
        values["workers"] = len(os.sched_getaffinity(0))
    if "log" not in origins:
        values["log"] = LogFormat.CONSOLE if _is_terminal(sys.stderr) else LogFormat.JSON
    limits = Limits(**{name: values.pop(name) for name in Limits.__struct_fields__})
    return Loaded(
        Settings(**values, limits=limits, entry_is_set="entry" in origins),
        {setting.name: origins.get(setting.name, _DEFAULT) for setting in SETTINGS},
    )


def _read(value_format: _ValueFormat, label: str, text: str) -> Any:
    try:
        if value_format.metavar != "PATH":
            text.encode()  # a path may have any bytes; all else must fit into JSON
        return value_format.read(text)
    except ValueError as error:
        more = f" ({error})" if type(error) is ValueError and error.args else ""
        given = describe_value(text)
        raise SettingsError(
            f"{label}: expected {value_format.expected}, got {given}{more}"
        ) from None


def _refuse_unknown(environ: Mapping[str, str], flags: Mapping[str, str]) -> None:
    known = {setting.name: setting for setting in SETTINGS}
    for name in flags:
        if name not in known:
            raise SettingsError(f"{name}: no flag of this name")
    variables = {setting.variable for setting in SETTINGS}
    for name, value in sorted(environ.items()):
        if (
            name.startswith(_PREFIX)
            and name not in variables
            and not _SERVICE_LINK.fullmatch(f"{name}={value}")
        ):
            near = difflib.get_close_matches(name.removeprefix(_PREFIX).lower(), known, 1)
            hint = f"; did you mean {known[near[0]].variable}?" if near else ""
            raise SettingsError(f"{_printable(name)}: no setting of this name{hint}")


def _place_directories(values: dict[str, Any], origins: dict[str, str]) -> None:
    """Derive directories from files, and files from directories."""
    for directory, default, files in (
        ("wasm_dir", "/mnt/wasm", {"wasm_path": "module.wasm"}),
        ("shared_dir", "/mnt/shared", {"output_path": "result.txt", "input_path": "input.json"}),
    ):
        leader = next(iter(files))
        if directory not in origins:
            values[directory] = Path(default)
            if leader in origins:
                values[directory] = values[leader].parent
                origins[directory] = origins[leader]
        for name, base in files.items():
            if name not in origins:
                values[name] = values[directory] / base
                origins[name] = origins.get(directory, _DEFAULT)
    output = values["output_path"]
    results = {output.with_suffix(suffix) for suffix in _SUFFIXES}
    for name in ("input_path", "wasm_path"):
        if values[name] in results:
            raise SettingsError(
                f"{name.upper()}: {_printable(values[name])} would be overwritten by a result of"
                f" OUTPUT_PATH ({_printable(output)})"
            )


def _place_state(
    values: dict[str, Any], origins: dict[str, str], environ: Mapping[str, str]
) -> None:
    if "state_dir" not in origins:
        values["state_dir"], origins["state_dir"] = _default_state_dir(environ, _SYSTEM_STATE_DIR)
    state = values["state_dir"]
    for name in ("wasm_dir", "shared_dir"):
        directory = values[name]
        if _is_below(state, directory):
            raise SettingsError(
                f"WASMDROP_STATE_DIR: {_printable(state)} is inside WASMDROP_{name.upper()}"
                f" ({_printable(directory)}), where others can write; compiled code must be in a"
                " private directory"
            )

    for name, directory in values["grants"].items():
        if _is_below(state, directory) or _is_below(directory, state):
            raise SettingsError(
                f"WASMDROP_GRANTS: {name} ({_printable(directory)}) and WASMDROP_STATE_DIR"
                f" ({_printable(state)}) overlap; jobs must not read the journal"
            )


def _is_below(path: Path, directory: Path) -> bool:
    """Return whether ``path`` is ``directory`` or is inside it, also through links."""
    real = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(directory))
    return real or path.is_relative_to(directory)


def _default_state_dir(environ: Mapping[str, str], system: Path) -> tuple[Path, str]:
    """Return the default state directory and its origin."""
    if granted := environ.get("STATE_DIRECTORY", "").partition(":")[0]:
        return _read_path(granted), "systemd STATE_DIRECTORY"
    can_be_made = os.geteuid() == 0 and not os.access(system, os.F_OK)
    if os.access(system.parent if can_be_made else system, os.W_OK | os.X_OK):
        return system, _DEFAULT
    # The XDG Base Directory Specification ignores relative paths.
    if (xdg := environ.get("XDG_STATE_HOME", "")).startswith("/"):
        return _read_path(xdg) / "wasmdrop", "environment XDG_STATE_HOME"
    if home := environ.get("HOME"):
        return _read_path(home) / ".local/state/wasmdrop", _DEFAULT
    raise SettingsError(
        f"WASMDROP_STATE_DIR: expected a path, because {system} is not writable and HOME is not set"
    )


def _number_arguments(
    values: dict[str, Any], origins: dict[str, str], environ: Mapping[str, str]
) -> None:
    numbers = sorted(int(found[1]) for name in environ if (found := _ARGUMENT.fullmatch(name)))
    if not numbers:
        return
    for expected, number in enumerate(numbers):
        if number != expected:
            raise SettingsError(f"ARG_{expected}: expected a value, because ARG_{number} is set")
    value_format = _ValueFormat("VALUE", "a JSON scalar or text", scalar_or_text)
    values["args_json"] = tuple(
        _read(value_format, f"ARG_{number}", environ[f"ARG_{number}"]) for number in numbers
    )
    last = f" to ARG_{numbers[-1]}" if len(numbers) > 1 else ""
    origins["args_json"] = f"environment ARG_0{last}"


def _is_terminal(stream: Any) -> bool:
    return stream is not None and bool(stream.isatty())


def _printable(value: object) -> str:
    """Return ``value`` in one line, with bytes that are not UTF-8 escaped."""
    return escaped(str(value))
