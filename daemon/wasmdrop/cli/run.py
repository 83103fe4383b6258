"""``wasmdrop run``: run the one job that the environment describes, as in a Kubernetes Job.

Writes the same files as the daemon and keeps no state except compiled modules.
"""

import argparse
import asyncio
import json
import os
import sys

from wasmdrop import settings
from wasmdrop.cli.exit_status import exit_status_of
from wasmdrop.cli.setting_flags import add_flags, given_flags
from wasmdrop.protocol.outcome import Code
from wasmdrop.service import log
from wasmdrop.service.run_once import run_once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of all settings."""
    add_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Run the job of ``INPUT_PATH`` or, if that does not exist, of the environment."""
    loaded = settings.load(os.environ, given_flags(options))
    log.configure(loaded.settings.log, "warning")
    package = asyncio.run(run_once(loaded.settings))
    ending = loaded.settings.output_path.suffix
    sys.stdout.write(package.files[ending].decode())
    return exit_status_of(Code(json.loads(package.marker)["code"]))
