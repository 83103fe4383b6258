"""``wasmdrop serve``: run the daemon."""

import argparse
import asyncio
import faulthandler
import os
import sys

from wasmdrop import settings
from wasmdrop.cli.setting_flags import add_flags, given_flags
from wasmdrop.service import log
from wasmdrop.service.daemon import serve

#: How long a thread may hold the interpreter while another one waits, in seconds. Python's default,
#: 5 ms, is longer than a small job takes.
_SWITCH_SECONDS = 0.0005


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of all settings."""
    add_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Run the daemon until a signal stops it."""
    loaded = settings.load(os.environ, given_flags(options))
    log.configure(loaded.settings.log)
    faulthandler.enable()  # if the interpreter crashes, the log says where
    sys.setswitchinterval(_SWITCH_SECONDS)
    asyncio.run(serve(loaded.settings))
    return 0
