"""Reloads the settings at SIGHUP, and changes those that a running process can."""

import asyncio
import contextlib
import errno
import time
from collections.abc import Callable
from typing import Final, TypeAlias

import structlog

from wasmdrop.protocol.errors import SettingsError
from wasmdrop.service.systemd import notify
from wasmdrop.settings import Loaded, Settings
from wasmdrop.settings.reloading import change, differences
from wasmdrop.system.mount_threads import MountThreads

_log = structlog.get_logger()

#: Loads the settings as at the start. Raises ``SettingsError``; blocks.
Load: TypeAlias = "Callable[[], Loaded]"

#: How long the files and folders of the settings may take to answer, in seconds.
_LOAD_SECONDS: Final = 10.0

_SILENCE: Final = "a file or folder of the settings does not answer: its storage hangs"


async def keep_reloading(
    wanted: asyncio.Event,
    settings: Settings,
    load: Load,
    reloaded: frozenset[str],
    use: Callable[[], None],
    read_secrets: Callable[[], Callable[[], None]] = lambda: lambda: None,
) -> None:
    """Reload ``settings`` whenever that is ``wanted``, until cancelled.

    Only the settings in ``reloaded`` change; ``use`` then gives them to those that have a copy.
    ``read_secrets`` reads the files of secrets again and returns how to use them; it raises
    ``SettingsError``, and blocks. If anything is wrong, nothing changes.
    """
    # On threads that do not keep the process from its end if a mount hangs.
    with contextlib.closing(MountThreads()) as threads:
        while True:
            await wanted.wait()
            wanted.clear()
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                loaded = await threads.run("/", load, wait_seconds=_LOAD_SECONDS)
                use_secrets = await threads.run("/", read_secrets, wait_seconds=_LOAD_SECONDS)
                _reload(settings, loaded, reloaded)
                use_secrets()
                use()
            except SettingsError as error:
                _log.error("reload-refused", error=str(error))
            except Exception as error:  # noqa: BLE001 - a fault here must not end jobs
                if isinstance(error, OSError) and error.errno == errno.ETIMEDOUT:
                    _log.error("reload-refused", error=_SILENCE)
                else:
                    _log.exception("reload-failed")
            notify("READY=1")


def _reload(settings: Settings, loaded: Loaded, reloaded: frozenset[str]) -> None:
    different = differences(settings, loaded.settings)
    names = reloaded & different.keys()
    change(settings, loaded.settings, names)
    _log.info(
        "settings-reloaded",
        file=loaded.config_file and str(loaded.config_file),
        before={name: before for name, (before, _) in different.items() if name in names},
        after={name: after for name, (_, after) in different.items() if name in names},
    )
    if rest := sorted(different.keys() - names):
        _log.warning("settings-need-restart", settings=rest)
