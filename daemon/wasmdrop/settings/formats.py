"""Formats of settings: how their values are read from text, and from values of a TOML file."""

import json
import os
import re
import shlex
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import msgspec

from wasmdrop.protocol import strict_json
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.limits import GRANT_NAME
from wasmdrop.protocol.text import describe_value, escaped
from wasmdrop.system.job_user import read_job_user

#: A week. poll(2), which counts milliseconds, allows no more than 24 days.
_MAX_SECONDS: Final = 604_800
_MAX_DAYS: Final = 36_500
#: A tebibyte, in MiB.
_MAX_MB: Final = 1024 * 1024
_MAX_PORT: Final = 65_535

#: The URL of a NATS server; keys and passwords in it would show in logs.
_FLEET_SERVER: Final = re.compile(
    r"(?:nats|tls)://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?/?"
)

#: A job that asks for all grants must stay below its limit of open files.
_MAX_GRANTS: Final = 16


#: Readers of values by their type.
_Readers: TypeAlias = Mapping[type, Callable[[Any], Any]]


def _anywhere(value: Any, _base: Path) -> Any:
    return value


class ValueFormat(msgspec.Struct, frozen=True):
    """How a value is read. ``read`` raises ``ValueError``, possibly with a reason."""

    metavar: str
    expected: str
    read: Callable[[str], Any]
    native: _Readers = {}
    """Readers of values of TOML by their type. A string is read as text by every format."""
    placed: Callable[[Any, Path], Any] = _anywhere
    """Returns a value of TOML with paths that are relative to a directory made absolute."""

    def read_toml(self, value: Any, base: Path) -> Any:
        """Read a value of a TOML file in the directory ``base``; raise ``ValueError``."""
        placed = self.placed(value, base)
        if isinstance(placed, str):
            if "\0" in placed:  # can't be in a variable or flag
                raise ValueError("it has a NUL character")
            return self.read(placed)
        reader = self.native.get(type(placed))  # a boolean is no integer
        if reader is None:
            raise ValueError
        return reader(placed)


def integer(low: int, high: int) -> ValueFormat:
    """Return the format of integers in a range."""

    def read(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,20}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    native: _Readers = {int: lambda value: read(str(value))}
    return ValueFormat("N", f"an integer from {low} to {high}", read, native)


def positive(metavar: str, what: str, most: int, *, or_zero: bool = False) -> ValueFormat:
    """Return the format of decimal numbers up to ``most``."""

    def read(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,20}(\.[0-9]{1,20})?", text):
            raise ValueError
        value = float(text)
        if value > most or (value == 0 and not or_zero):
            raise ValueError
        return value

    least = "0 or more" if or_zero else "more than 0"
    native: _Readers = {
        int: lambda value: read(str(value)),
        float: lambda value: read(_decimal(value)),
    }
    return ValueFormat(metavar, f"{what}, {least} and at most {most}", read, native)


def _decimal(value: float) -> str:
    text = repr(value)
    return f"{value:.20f}" if "e" in text else text


def choice(options: type[StrEnum]) -> ValueFormat:
    """Return the format of the values of an enumeration."""
    names = [option.value for option in options]

    def read(text: str) -> StrEnum:
        if text not in names:
            raise ValueError
        return options(text)

    expected = f"{', '.join(names[:-1])} or {names[-1]}"
    native: _Readers = {bool: lambda value: read("on" if value else "off")}
    return ValueFormat("|".join(names), expected, read, native if "on" in names else {})


def _read_path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError
    return Path(os.path.abspath(text))  # noqa: PTH100 - Path.resolve would follow links


def _place_path(value: Any, base: Path) -> Any:
    if not isinstance(value, str) or not value:
        return value
    if value == "~" or value.startswith("~/"):
        raise ValueError("~ has no meaning here; write the path of the directory")
    return os.path.join(base, value)  # noqa: PTH118 - a path keeps its bytes


def _read_result_path(text: str) -> Path:
    path = _read_path(text)
    if path.suffix not in {".txt", ".json"}:
        raise ValueError
    return path


def none_or(value_format: ValueFormat) -> ValueFormat:
    """Return the format of values that may be missing."""

    def read(text: str) -> Any:
        return None if text == "none" else value_format.read(text)

    expected = f"none or {value_format.expected}"
    return ValueFormat(
        value_format.metavar, expected, read, value_format.native, value_format.placed
    )


def _read_hook(text: str) -> str | tuple[str, ...] | None:
    if text == "none":
        return None
    if "://" in text.partition(" ")[0]:
        url = urlsplit(text)
        if url.scheme not in {"http", "https"} or not url.hostname or not text.isprintable():
            raise ValueError
        if url.username is not None or url.password is not None:
            raise ValueError("a user name or password would show in logs")
        if url.port == 0 or url.fragment or " " in text:
            raise ValueError
        return text
    return _read_words(shlex.split(text))


def _read_words(words: list[Any]) -> tuple[str, ...]:
    if not all(isinstance(word, str) and "\0" not in word for word in words):
        raise ValueError("each word is a string without NUL")
    if not words or not words[0].startswith("/"):
        raise ValueError
    return tuple(words)


def _read_address(text: str) -> str | None:
    if text == "off":
        return None
    found = re.fullmatch(r"(?:\[[0-9A-Fa-f:.]+\]|[^\[\]:/\s]*):([0-9]{1,5})", text)
    if found is None or int(found[1]) > _MAX_PORT:
        raise ValueError
    return text


def _read_fleet_servers(text: str) -> tuple[str, ...]:
    return () if text == "off" else _read_server_list(text.split(","))


def _read_server_list(servers: list[Any]) -> tuple[str, ...]:
    for one in servers:
        found = _FLEET_SERVER.fullmatch(one) if isinstance(one, str) else None
        if found is None or int(found[1] or 1) not in range(1, _MAX_PORT + 1):
            if len(servers) == 1:
                raise ValueError
            raise ValueError(f"in {describe_value(one)}")
    return tuple(servers)


def _read_fleet_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise ValueError
    return text


def _read_grants(text: str) -> dict[str, Path]:
    grants: dict[str, str] = {}
    for part in [] if text == "none" else text.split(","):
        name, equals, path = part.partition("=")
        if not equals or not re.fullmatch(GRANT_NAME, name):
            raise ValueError(f"in {describe_value(part)}")
        if name in grants:
            raise ValueError(f"{name} is repeated")
        grants[name] = path
    return _read_grant_table(grants)


def _read_grant_table(table: dict[str, Any]) -> dict[str, Path]:
    for name, path in table.items():
        if not re.fullmatch(GRANT_NAME, name):
            raise ValueError(f"in {describe_value(name)}")
        if not isinstance(path, str) or not path:
            raise ValueError(f"{name} needs the path of a directory")
    if len(table) > _MAX_GRANTS:
        raise ValueError(f"at most {_MAX_GRANTS}")
    return {name: _read_path(path) for name, path in table.items()}


def _place_grants(value: Any, base: Path) -> Any:
    if isinstance(value, dict):
        return {name: _place_path(path, base) for name, path in value.items()}
    if not isinstance(value, str) or value == "none":
        return value
    parts = [part.partition("=") for part in value.split(",")]
    return ",".join(name + equals + _place_path(path, base) for name, equals, path in parts)


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


def _read_argument_list(values: list[Any]) -> tuple[Any, ...]:
    try:
        return _read_arguments(json.dumps(values))
    except TypeError:
        raise ValueError("dates and times are no JSON") from None


def scalar_or_text(text: str) -> Any:
    """Return the JSON scalar that ``text`` is, else ``text`` itself."""
    try:
        value = strict_json.parse(os.fsencode(text))
    except RefusedError:
        return text
    return text if isinstance(value, list | dict) else value


_UNITS: Final = integer(1, 2**64 - 1)
SECONDS: Final = positive("SECONDS", "a number of seconds", _MAX_SECONDS)
WHOLE_MB: Final = integer(1, _MAX_MB)
MB: Final = positive("MIB", "a number of MiB", _MAX_MB)
PATH: Final = ValueFormat("PATH", "a path", _read_path, placed=_place_path)
RESULT_PATH: Final = ValueFormat(
    "PATH", "a path that ends in .txt or .json", _read_result_path, placed=_place_path
)
NAME: Final = ValueFormat("NAME", "a name", str)
ARGUMENTS: Final = ValueFormat("JSON", "a JSON array", _read_arguments, {list: _read_argument_list})
ARGUMENT: Final = ValueFormat("VALUE", "a JSON scalar or text", scalar_or_text)
FUEL: Final = none_or(_UNITS)
GRANTS: Final = ValueFormat(
    "NAME=DIR,...",
    "none or a comma-separated list of NAME=DIR",
    _read_grants,
    {dict: _read_grant_table},
    _place_grants,
)
JOB_USER: Final = ValueFormat(
    "USER", "a user name or UID[:GID]", read_job_user, {int: lambda uid: read_job_user(str(uid))}
)
FLEET_SERVERS: Final = ValueFormat(
    "URL,...",
    "off or a comma-separated list of nats://HOST:PORT or tls://HOST:PORT",
    _read_fleet_servers,
    {list: _read_server_list},
)
FLEET_NAME: Final = ValueFormat("NAME", "up to 64 letters, digits, '-' or '_'", _read_fleet_name)
ADDRESS: Final = ValueFormat("HOST:PORT", "off or HOST:PORT", _read_address)
SUFFIX: Final = ValueFormat("SUFFIX", "a suffix without '/'", _read_suffix)
SECONDS_OR_ZERO: Final = positive("SECONDS", "a number of seconds", _MAX_SECONDS, or_zero=True)
HOOK: Final = ValueFormat(
    "URL|COMMAND",
    "none, an http:// or https:// URL, or a command that begins with an absolute path",
    _read_hook,
    {list: _read_words},
)
DAYS: Final = positive("DAYS", "a number of days", _MAX_DAYS, or_zero=True)
DAYS_ABOVE_ZERO: Final = positive("DAYS", "a number of days", _MAX_DAYS)
INT64: Final = integer(-(2**63), 2**64 - 1)


def printable(value: object) -> str:
    """Return ``value`` in one line, with bytes that are not UTF-8 escaped."""
    return escaped(str(value))
