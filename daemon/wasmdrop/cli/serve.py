"""``wasmdrop serve``: run the daemon."""

import argparse
import asyncio
import os
from functools import partial

from wasmdrop import settings
from wasmdrop.cli.service_process import prepare
from wasmdrop.cli.setting_flags import add_flags, given_flags
from wasmdrop.service.daemon import serve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of all settings."""
    add_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Run the daemon until a signal stops it."""
    load = partial(settings.load, dict(os.environ), given_flags(options))
    loaded = load()
    prepare(loaded.settings)
    asyncio.run(serve(loaded.settings, load))
    return 0
