"""The configuration file: finds it, reads it, and checks its values.

It is a TOML file whose keys are the names of settings. One file is read: the one of ``--config``,
else of ``WASMDROP_CONFIG``, else the user's, else the host's.
"""

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from wasmdrop.protocol.errors import SettingsError
from wasmdrop.protocol.near_names import did_you_mean
from wasmdrop.protocol.text import describe_value, one_line
from wasmdrop.settings.formats import printable
from wasmdrop.settings.table import PREFIX, REMOVED, SETTINGS
from wasmdrop.system.descriptors import NotRegularError, open_regular
from wasmdrop.system.trusted_path import UntrustedError, walk, why_others_can_write

#: Names the file, as the flag ``--config`` does.
VARIABLE: Final = "WASMDROP_CONFIG"

#: The value of flag and variable that has no file read.
NO_FILE: Final = "none"

#: The directory of the host's file.
SYSTEM_DIRECTORY: Final = Path("/etc/wasmdrop")

_MAX_BYTES: Final = 1 << 20


class _Checks(msgspec.Struct, frozen=True):
    """Which files are refused."""

    is_trusted: bool
    in_pod: bool
    """Directories of volumes may be writable, as those of each ConfigMap are: nothing in the pod
    can write through a read-only mount."""


class ConfigFile(msgspec.Struct, frozen=True):
    """The file that was read, and the settings in it."""

    path: Path | None
    """None if no file was read."""
    values: dict[str, Any]
    origin: str
    """``default``, ``flag --config`` or ``environment WASMDROP_CONFIG``: what named it."""


def read(
    environ: Mapping[str, str], flag: str | None, name: str, *, is_trusted: bool
) -> ConfigFile:
    """Find and read the file, if there is one.

    ``name``: the name of the file in the directories that are searched. ``is_trusted``: refuse a
    file that other users than root and this one can change or replace.

    Raises `SettingsError` with one line if a file is named and missing, or if the one that was
    found can't be read or has a wrong value.
    """
    checks = _Checks(is_trusted, in_pod="KUBERNETES_SERVICE_HOST" in environ)
    label, origin, given = "--config", "flag --config", flag
    if flag is None:
        label, origin, given = VARIABLE, f"environment {VARIABLE}", environ.get(VARIABLE)
    if given == NO_FILE:
        return ConfigFile(None, {}, origin)
    if flag == "":
        raise SettingsError('--config: expected none or the path of a file, got ""')
    if given:
        path = Path(os.path.abspath(given))  # noqa: PTH100 - Path.resolve would follow links
        return ConfigFile(path, _load(path, checks, f"{label}: "), origin)
    for path in places(environ, name):
        if _is_there(path):
            return ConfigFile(path, _load(path, checks), "default")
    return ConfigFile(None, {}, "default")


def places(environ: Mapping[str, str], name: str) -> list[Path]:
    """Return the paths that are searched for a file; the first one that exists is read."""
    found = []
    # The XDG Base Directory Specification ignores relative paths.
    if (xdg := environ.get("XDG_CONFIG_HOME", "")).startswith("/"):
        found.append(Path(xdg, "wasmdrop", name))
    elif (home := environ.get("HOME", "")).startswith("/"):
        found.append(Path(home, ".config/wasmdrop", name))
    return [*found, SYSTEM_DIRECTORY / name]


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except PermissionError:
        # A service or a job of another user may have the HOME of root. But a file of the host that
        # this user can't reach has settings that it would run without.
        return path.parent == SYSTEM_DIRECTORY
    except OSError:
        return False
    return True


def _load(path: Path, checks: _Checks, label: str = "") -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - most daemons have no file

    shown = printable(path)
    try:
        data = _read_bytes(path, checks)
    except FileNotFoundError:
        raise SettingsError(f"{label}{shown}: there is no such file") from None
    except UntrustedError as error:
        raise SettingsError(f"{shown}: {error}; {error.advice}") from None
    except NotRegularError as error:
        raise SettingsError(f"{shown}: expected a file, found {error.strerror}") from None
    except OSError as error:
        who = f" by user {os.geteuid()}" if error.errno == errno.EACCES else ""
        hint = "" if label else "; --config none reads no file"
        raise SettingsError(f"{shown}: can't be read{who}: {error.strerror}{hint}") from None
    if len(data) > _MAX_BYTES:
        raise SettingsError(f"{shown}: expected a file of at most 1 MiB")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{shown}, line {line}: expected UTF-8") from None
    if text.startswith("\ufeff"):
        raise SettingsError(f"{shown}, line 1: expected UTF-8 without a byte order mark")
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = one_line(str(error))
        raise SettingsError(f"{shown}: expected a TOML document: {reason}") from None
    return _values(path, text, table)


def _read_bytes(path: Path, checks: _Checks) -> bytes:
    """Return at most one byte more than a file may have."""
    real, is_trusted = str(path), checks.is_trusted
    if is_trusted:
        way = walk(real, "it", allows_private_groups=True, allows_volumes=checks.in_pod)
        real = way[-1].path
    # What is no regular file is not opened: it could block.
    path_fd = os.open(real, os.O_PATH | os.O_CLOEXEC | (os.O_NOFOLLOW if is_trusted else 0))
    try:
        fd, status = open_regular(path_fd)
    finally:
        os.close(path_fd)
    with os.fdopen(fd, "rb") as file:
        if is_trusted and (reason := why_others_can_write(fd, status)):
            raise UntrustedError(
                f"{reason}, and it decides which commands run as whom", "chmod go-w the file"
            )
        return file.read(_MAX_BYTES + 1)


def _values(path: Path, text: str, table: dict[str, Any]) -> dict[str, Any]:
    known = {setting.name: setting for setting in SETTINGS}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise SettingsError(f"{_place(path, text, key)}: {_why_unknown(key, known)}")
        form = known[key].format
        try:
            values[key] = form.read_toml(value, path.parent)
        except ValueError as error:
            more = f" ({error})" if type(error) is ValueError and error.args else ""
            raise SettingsError(
                f"{_place(path, text, key)}: expected {form.expected}, got {_shown(value)}{more}"
            ) from None
    return values


def _why_unknown(key: str, known: Mapping[str, object]) -> str:
    if key in REMOVED:
        return f"this setting was removed: {REMOVED[key]}; remove the line"
    plain = key.lower().replace("-", "_").removeprefix(PREFIX.lower())
    if re.fullmatch(r"arg_[0-9]+", plain):
        plain = "args_json"
    return f"no setting of this name{did_you_mean(plain, known)}"


def _place(path: Path, text: str, key: str) -> str:
    """Return the file, the line if it can be told, and the key, for a message."""
    shown = f"{printable(path)}, line {line}" if (line := _line_of(text, key)) else printable(path)
    return f"{shown}: {one_line(key, 80)}"


def _line_of(text: str, key: str) -> int | None:
    """Return the line that begins the value of a key of the document."""
    import tomllib  # noqa: PLC0415 - only for a message

    lines = text.split("\n")
    begins = re.compile(rf"""\s*\[{{0,2}}\s*["']?{re.escape(key)}["']?\s*[=.\]]""")
    for number, line in enumerate(lines):
        if begins.match(line):
            try:
                before = tomllib.loads("\n".join(lines[:number]))
            except ValueError:
                continue  # inside a string or an array of several lines
            return number + 1 if key not in before else None
    return None


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, bool):
        return "true" if value else "false"
    is_known = isinstance(value, str | int | float | list)
    return describe_value(value) if is_known else one_line(str(value), 80)
