"""``wasmdrop work``: run the jobs of a fleet on this host."""

import argparse
import asyncio
import os
from functools import partial
from typing import Final

from wasmdrop import settings
from wasmdrop.cli.service_process import prepare
from wasmdrop.cli.setting_flags import add_flags, given_flags
from wasmdrop.system.extras import FLEET

#: The settings of a worker. Daemons find the jobs and set their limits.
WORKER_SETTINGS: Final = (
    *("fleet", "fleet_name", "fleet_pool", "fleet_key", "fleet_ca", "fleet_security"),
    *("state_dir", "workers", "drain_sec", "reserve_mb"),
    *("compile_sec", "compile_memory_mb", "cache_mb", "max_module_mb", "max_input_mb"),
    *("sandbox", "guest", "job_user", "http", "log"),
)

#: Beside the state directory of a daemon on the same host.
STATE_NAME: Final = "wasmdrop-worker"

#: Beside the configuration file of a daemon on the same host.
CONFIG_NAME: Final = "worker.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the settings that a worker has."""
    add_flags(parser, WORKER_SETTINGS, CONFIG_NAME)


def run(options: argparse.Namespace) -> int:
    """Run jobs until a signal stops the worker."""
    flags = given_flags(options)
    load = partial(settings.load, dict(os.environ), flags, STATE_NAME, config_name=CONFIG_NAME)
    loaded = load()
    prepare(loaded.settings)
    with FLEET.required("wasmdrop work"):
        from wasmdrop.service.work import work  # noqa: PLC0415 - needs packages of an extra
    asyncio.run(work(loaded.settings, load))
    return 0
