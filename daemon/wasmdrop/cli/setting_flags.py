"""The flags of the settings, for the commands that take them all."""

import argparse
from collections.abc import Collection

from wasmdrop.settings import SETTINGS


def add_config_flag(parser: argparse._ActionsContainer, name: str = "config.toml") -> None:
    """Add the flag that names the configuration file."""
    parser.add_argument(
        "--config",
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="configuration file; none: read no file (default: from WASMDROP_CONFIG, else"
        f" wasmdrop/{name} in $XDG_CONFIG_HOME or ~/.config, else"
        f" /etc/wasmdrop/{name})",
    )


def config_flag(options: argparse.Namespace) -> dict[str, str]:
    """Return the flag that names the configuration file, if it was given."""
    return {"config": options.config} if "config" in options else {}


def add_flags(
    parser: argparse.ArgumentParser,
    names: Collection[str] | None = None,
    config_name: str = "config.toml",
) -> None:
    """Add ``--config``, and a flag for every setting or for those with these ``names``."""
    group = parser.add_argument_group("settings")
    add_config_flag(group, config_name)
    for setting in SETTINGS:
        if names is not None and setting.name not in names:
            continue
        group.add_argument(
            setting.flag,
            dest=setting.name,
            default=argparse.SUPPRESS,
            metavar=setting.format.metavar,
            help=f"{setting.meaning} [{setting.variable}]",
        )


def given_flags(options: argparse.Namespace) -> dict[str, str]:
    """Return the flags that were given, by the name of the setting, and ``config``."""
    given = vars(options)
    flags = {setting.name: given[setting.name] for setting in SETTINGS if setting.name in given}
    return config_flag(options) | flags
