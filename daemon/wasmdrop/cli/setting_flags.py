"""The flags of the settings, for the commands that take them all."""

import argparse
from collections.abc import Collection

from wasmdrop.settings import SETTINGS


def add_flags(parser: argparse.ArgumentParser, names: Collection[str] | None = None) -> None:
    """Add a flag for every setting, or for those with these ``names``."""
    group = parser.add_argument_group("settings")
    for setting in SETTINGS:
        if names is not None and setting.name not in names:
            continue
        default = setting.text(setting.default) if setting.default not in {None, ""} else ""
        meaning = f"{setting.help} (default: {default})" if default else setting.help
        group.add_argument(
            setting.flag,
            dest=setting.name,
            default=argparse.SUPPRESS,
            metavar=setting.format.metavar,
            help=f"{meaning} [{setting.variable}]",
        )


def given_flags(options: argparse.Namespace) -> dict[str, str]:
    """Return the flags that were given, by the name of the setting."""
    given = vars(options)
    return {setting.name: given[setting.name] for setting in SETTINGS if setting.name in given}
