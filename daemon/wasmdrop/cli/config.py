"""``wasmdrop config``: print every setting, its value and its origin."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wasmdrop import settings
from wasmdrop.cli.setting_flags import add_flags, given_flags
from wasmdrop.cli.wide_table import print_table
from wasmdrop.protocol.errors import SettingsError
from wasmdrop.protocol.limits import Limits
from wasmdrop.service.guest import guest_in_use
from wasmdrop.settings import SETTINGS, Loaded, Option, config_file
from wasmdrop.settings.config_file import NO_FILE, VARIABLE
from wasmdrop.settings.example_file import example_file
from wasmdrop.settings.formats import GRANTS, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of all settings, to show their effect."""
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")
    output.add_argument(
        "--example",
        action="store_true",
        help="print a configuration file with every setting commented out, except for flags",
    )
    add_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Print the settings."""
    flags = given_flags(options)
    if options.example:
        sys.stdout.write(example_file(_texts(flags)))
        return 0
    loaded = settings.load(os.environ, flags)
    if options.as_json:
        sys.stdout.write(as_json(loaded) + "\n")
        return 0
    print_table(("setting", "value", "from"), rows(loaded))
    return 0


def rows(loaded: Loaded) -> list[tuple[str, str, str]]:
    """Return variable, value and origin of every setting, for a person to read."""
    file, origin = "none", loaded.config_origin
    if loaded.config_file is not None:
        file = printable(loaded.config_file)
    elif origin == "default":
        origin = f"searched: {', '.join(map(printable, _places()))}"
    return [
        (VARIABLE, file, origin),
        *(
            (setting.variable, _text(setting, value), loaded.origins[setting.name])
            for setting, value in _values(loaded)
        ),
    ]


def as_json(loaded: Loaded) -> str:
    """Return one JSON object: by variable, an object of ``value`` and ``origin``.

    That of ``WASMDROP_CONFIG`` has also the paths that are ``searched``, and that of
    ``WASMDROP_GUEST`` the guest ``in_use``.
    """
    body: dict[str, dict[str, Any]] = {
        VARIABLE: {
            "value": loaded.config_file,
            "origin": loaded.config_origin,
            "searched": _places(),
        }
    }
    for setting, value in _values(loaded):
        body[setting.variable] = {"value": value, "origin": loaded.origins[setting.name]}
    body["WASMDROP_GUEST"]["in_use"] = guest_in_use(loaded.settings.guest)
    return json.dumps(body, default=str, indent=2)


def _places() -> list[Path]:
    return config_file.places(os.environ, "config.toml")


def _texts(flags: dict[str, str]) -> dict[str, str]:
    """Return settings for a file that may be elsewhere: with absolute paths."""
    given = {"state_dir": os.devnull, **flags, "config": NO_FILE}
    texts = {}
    for setting, value in _values(settings.load({}, given)):
        if setting.name in flags:
            if setting.format is GRANTS:
                text = ",".join(f"{name}={path}" for name, path in value.items()) or "none"
            else:
                text = str(value) if isinstance(value, Path) else flags[setting.name]
            if not text.isprintable():
                raise SettingsError(f"{setting.flag}: expected printable characters of UTF-8")
            texts[setting.name] = text
    return texts


def _text(setting: Option, value: Any) -> str:
    text = setting.text(value)
    return f"{text} (in use: {guest_in_use(value)})" if setting.name == "guest" else text


def _values(loaded: Loaded) -> Iterator[tuple[Option, Any]]:
    for setting in SETTINGS:
        if setting.name == "args_json":
            yield setting, loaded.settings.env_args
        else:
            is_limit = setting.name in Limits.__struct_fields__
            holder = loaded.settings.limits if is_limit else loaded.settings
            yield setting, getattr(holder, setting.name)
