"""``wasmdrop config``: print every setting, its value and its origin."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from wasmdrop import settings
from wasmdrop.cli.setting_flags import add_flags, given_flags
from wasmdrop.protocol.limits import Limits
from wasmdrop.service.guest import guest_in_use
from wasmdrop.settings import SETTINGS, Loaded, Option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of all settings, to show their effect."""
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")
    add_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Print the settings."""
    loaded = settings.load(os.environ, given_flags(options))
    if options.as_json:
        sys.stdout.write(as_json(loaded) + "\n")
        return 0
    table = Table("setting", "value", "from", box=None, pad_edge=False)
    for name, value, origin in rows(loaded):
        table.add_row(name, value, origin)
    # Piped into a file or grep, a row must stay one line.
    console = Console(width=None if sys.stdout.isatty() else 200, soft_wrap=not sys.stdout.isatty())
    console.print(table)
    return 0


def rows(loaded: Loaded) -> list[tuple[str, str, str]]:
    """Return variable, value and origin of every setting, for a person to read."""
    return [
        (setting.variable, _text(setting, value), loaded.origins[setting.name])
        for setting, value in _values(loaded)
    ]


def as_json(loaded: Loaded) -> str:
    """Return one JSON object: by variable, an object of ``value`` and ``origin``.

    That of ``WASMDROP_GUEST`` has also the guest ``in_use``.
    """
    body = {
        setting.variable: {"value": value, "origin": loaded.origins[setting.name]}
        for setting, value in _values(loaded)
    }
    body["WASMDROP_GUEST"]["in_use"] = guest_in_use(loaded.settings.guest)
    return json.dumps(body, default=str, indent=2)


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
