"""The settings that a running process can change, and the change of them.

The one `Settings` object of the process is changed in place: those who use such a setting read it
there each time.
"""

from typing import Any, Final

import msgspec

from wasmdrop.settings.table import SETTINGS
from wasmdrop.settings.values import Settings

#: Settings that a daemon changes while it runs. All others need a restart.
RELOADED: Final = frozenset(
    {"timeout_sec", "memory_mb", "output_mb", "disk_mb", "fuel"}
    | {"entry", "args_json", "add_x", "add_y"}
    | {"attempts", "module_wait_sec", "max_queued", "drain_sec", "reserve_mb"}
    | {"let_go_sec", "undelivered_jobs", "undelivered_mb", "keep_days", "journal_mb"}
)

#: The same of a worker of a fleet.
RELOADED_BY_WORKERS: Final = frozenset({"drain_sec", "reserve_mb"})


def differences(old: Settings, new: Settings) -> dict[str, tuple[str, str]]:
    """Return the texts of the old and the new value of each setting that differs, by its name."""
    return {
        setting.name: (setting.text(before), setting.text(after))
        for setting in SETTINGS
        if (before := _value(old, setting.name)) != (after := _value(new, setting.name))
    }


def change(settings: Settings, new: Settings, names: frozenset[str]) -> None:
    """Give settings the values that they have in ``new``. Thread-safe."""
    limits = {name: _value(new, name) for name in names & set(settings.limits.__struct_fields__)}
    changes: dict[str, Any] = {"limits": msgspec.structs.replace(settings.limits, **limits)}
    for name in names - limits.keys():
        changes["env_args" if name == "args_json" else name] = _value(new, name)
    for field, value in changes.items():
        msgspec.structs.force_setattr(settings, field, value)  # frozen for everyone else


def _value(settings: Settings, name: str) -> Any:
    if name in settings.limits.__struct_fields__:
        return getattr(settings.limits, name)
    return getattr(settings, "env_args" if name == "args_json" else name)
