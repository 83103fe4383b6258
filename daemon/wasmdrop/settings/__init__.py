"""The settings: one table of names, defaults and help texts, and the values of one daemon.

Each setting is an environment variable, a command-line flag, and a key of the configuration file.
Flags win over the environment, and that wins over the file. An empty variable counts as not set
(``${NAME:-}`` in a compose file sets such), except for ``ARG_0``, ``ARG_1``, …. Guarantees that a
`Settings` is consistent: paths are absolute, numbers are in bounds, and the state directory is not
where others can write.
"""

from wasmdrop.settings.formats import scalar_or_text
from wasmdrop.settings.loading import load
from wasmdrop.settings.reloading import RELOADED, RELOADED_BY_WORKERS
from wasmdrop.settings.table import SETTINGS, Option
from wasmdrop.settings.values import (
    AfterMode,
    FleetFallback,
    FleetSecurity,
    GuestMode,
    Loaded,
    LogFormat,
    SandboxMode,
    Settings,
    Switch,
    WatchMode,
)

__all__ = [
    "RELOADED",
    "RELOADED_BY_WORKERS",
    "SETTINGS",
    "AfterMode",
    "FleetFallback",
    "FleetSecurity",
    "GuestMode",
    "Loaded",
    "LogFormat",
    "Option",
    "SandboxMode",
    "Settings",
    "Switch",
    "WatchMode",
    "load",
    "scalar_or_text",
]
