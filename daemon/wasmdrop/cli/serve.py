"""``wasmdrop serve``: the daemon."""

import argparse
import asyncio
import faulthandler
import os
import sys

from wasmdrop import settings
from wasmdrop.cli.setting_flags import add_flags, given_flags
from wasmdrop.service import log
from wasmdrop.service.daemon import serve

__all__ = ["add_arguments", "run"]

#: How long a thread may hold the interpreter while another one wants it, in seconds. Python's own
#: 5 ms is longer than a whole job.
_SWITCH_SECONDS = 0.0005


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of all settings."""
    add_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Run the daemon until it is told to stop."""
    loaded = settings.load(os.environ, given_flags(options))
    log.configure(loaded.settings.log)
    faulthandler.enable()  # should the interpreter itself crash, the log says where
    sys.setswitchinterval(_SWITCH_SECONDS)
    asyncio.run(serve(loaded.settings))
    return 0
