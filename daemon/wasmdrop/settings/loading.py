"""Loads all settings and checks that they are consistent.

They come from flags, the environment and the configuration file, in this order.
"""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from wasmdrop.protocol.errors import SettingsError
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.near_names import nearest
from wasmdrop.protocol.slot import MARKER_SUFFIX, OUTPUT_SUFFIX, RESULT_SUFFIXES
from wasmdrop.protocol.text import describe_value
from wasmdrop.settings import config_file
from wasmdrop.settings.formats import ARGUMENT, PATH, ValueFormat, printable
from wasmdrop.settings.table import PREFIX, REMOVED, SETTINGS
from wasmdrop.settings.values import Loaded, LogFormat, Settings

_SYSTEM_STATE: Final = Path("/var/lib")
_DEFAULT: Final = "default"

_ARGUMENT: Final = re.compile(r"ARG_(0|[1-9][0-9]{0,5})")

#: Variables that Kubernetes sets in every container of a namespace with a Service that is named
#: ``wasmdrop`` or ``wasmdrop-NAME``. They are no settings and must not stop the start.
_SERVICE_LINK: Final = re.compile(
    r"WASMDROP_([A-Z0-9_]+_)?(SERVICE_HOST=.*|SERVICE_PORT(_[A-Z0-9_]+)?=[0-9]+|PORT=[a-z]+://.*"
    r"|PORT_[0-9]+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?=.*)",
    re.DOTALL,
)

#: Characters that names in a fleet can't have.
_NO_NAME: Final = re.compile("[^A-Za-z0-9_-]")

#: Suffixes of a slot's results.
_SUFFIXES: Final = (*RESULT_SUFFIXES, MARKER_SUFFIX, OUTPUT_SUFFIX)


def load(
    environ: Mapping[str, str],
    flags: Mapping[str, str],
    state_name: str = "wasmdrop",
    *,
    config_name: str = "config.toml",
    runs_jobs: bool = True,
) -> Loaded:
    """Read every setting; ``flags`` are texts by the name of the setting.

    The flag ``config`` names the configuration file. ``state_name``: the name of the state
    directory, if no setting gives its path. ``config_name``: the name of the configuration file in
    the directories that are searched. ``runs_jobs``: the settings decide what runs and as whom, so
    refuse a file that other users can change.

    Raises `SettingsError` with one line: the variable, flag or key, what was expected, and the
    value.
    """
    _refuse_unknown(environ, flags)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    file = config_file.read(environ, flags.get("config"), config_name, is_trusted=runs_jobs)
    for setting in SETTINGS:
        values[setting.name] = setting.default
        if setting.name in flags:
            origins[setting.name] = f"flag {setting.flag}"
            values[setting.name] = _read(setting.format, setting.flag, flags[setting.name])
        elif text := environ.get(setting.variable):
            origins[setting.name] = f"environment {setting.variable}"
            values[setting.name] = _read(setting.format, setting.variable, text)
        elif setting.name in file.values:
            origins[setting.name] = f"file {printable(file.path)}"
            values[setting.name] = file.values[setting.name]
    _place_directories(values, origins)
    if "grants" not in origins:
        values["grants"] = {}
    _place_state(values, origins, environ, state_name)
    if not origins.get("args_json", "").startswith(("flag ", "environment ")):
        _number_arguments(values, origins, environ)
    values["env_args"] = values.pop("args_json")
    if "workers" not in origins:
        values["workers"] = len(os.sched_getaffinity(0))
    if "fleet_name" not in origins:
        values["fleet_name"] = _NO_NAME.sub("-", os.uname().nodename)[:64] or "host"
    if "log" not in origins:
        values["log"] = LogFormat.CONSOLE if _is_terminal(sys.stderr) else LogFormat.JSON
    limits = Limits(**{name: values.pop(name) for name in Limits.__struct_fields__})
    return Loaded(
        Settings(**values, limits=limits, entry_is_set="entry" in origins),
        {setting.name: origins.get(setting.name, _DEFAULT) for setting in SETTINGS},
        file.path,
        file.origin,
    )


def _read(value_format: ValueFormat, label: str, text: str) -> Any:
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
    variables = {setting.name: setting.variable for setting in SETTINGS}
    variables["config"] = config_file.VARIABLE
    for name in flags:
        if name not in variables:
            raise SettingsError(f"{name}: no flag of this name")
    for name, value in sorted(environ.items()):
        plain = name.removeprefix(PREFIX).lower()
        if name.startswith(PREFIX) and plain in REMOVED:
            reason = f"{REMOVED[plain]}; unset the variable"
            raise SettingsError(f"{printable(name)}: this setting was removed: {reason}")
        if (
            name.startswith(PREFIX)
            and name not in variables.values()
            and not _SERVICE_LINK.fullmatch(f"{name}={value}")
        ):
            near = nearest(plain, variables)
            hint = f"; did you mean {variables[near]}?" if near else ""
            raise SettingsError(f"{printable(name)}: no setting of this name{hint}")


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
                f"{name.upper()}: {printable(values[name])} would be overwritten by a result of"
                f" OUTPUT_PATH ({printable(output)})"
            )


def _place_state(
    values: dict[str, Any], origins: dict[str, str], environ: Mapping[str, str], state_name: str
) -> None:
    if "state_dir" not in origins:
        values["state_dir"], origins["state_dir"] = _default_state_dir(
            environ, _SYSTEM_STATE / state_name
        )
    state = values["state_dir"]
    for name in ("wasm_dir", "shared_dir"):
        directory = values[name]
        if _is_below(state, directory):
            raise SettingsError(
                f"WASMDROP_STATE_DIR: {printable(state)} is inside WASMDROP_{name.upper()}"
                f" ({printable(directory)}), where others can write; compiled code must be in a"
                " private directory"
            )

    for name, directory in values["grants"].items():
        if _is_below(state, directory) or _is_below(directory, state):
            raise SettingsError(
                f"WASMDROP_GRANTS: {name} ({printable(directory)}) and WASMDROP_STATE_DIR"
                f" ({printable(state)}) overlap; jobs must not read the journal"
            )


def _is_below(path: Path, directory: Path) -> bool:
    """Return whether ``path`` is ``directory`` or is inside it, also through links."""
    real = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(directory))
    return real or path.is_relative_to(directory)


def _default_state_dir(environ: Mapping[str, str], system: Path) -> tuple[Path, str]:
    """Return the default state directory and its origin."""
    if granted := environ.get("STATE_DIRECTORY", "").partition(":")[0]:
        return PATH.read(granted), "systemd STATE_DIRECTORY"
    can_be_made = os.geteuid() == 0 and not os.access(system, os.F_OK)
    if os.access(system.parent if can_be_made else system, os.W_OK | os.X_OK):
        return system, _DEFAULT
    # The XDG Base Directory Specification ignores relative paths.
    if (xdg := environ.get("XDG_STATE_HOME", "")).startswith("/"):
        return PATH.read(xdg) / system.name, "environment XDG_STATE_HOME"
    if home := environ.get("HOME"):
        return PATH.read(home) / ".local/state" / system.name, _DEFAULT
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
    values["args_json"] = tuple(
        _read(ARGUMENT, f"ARG_{number}", environ[f"ARG_{number}"]) for number in numbers
    )
    last = f" to ARG_{numbers[-1]}" if len(numbers) > 1 else ""
    origins["args_json"] = f"environment ARG_0{last}"


def _is_terminal(stream: Any) -> bool:
    return stream is not None and bool(stream.isatty())
