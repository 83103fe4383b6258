"""Prepare the process of a daemon or a worker."""

import faulthandler
import sys
from typing import Final

from wasmdrop.service import log
from wasmdrop.settings import Settings
from wasmdrop.system.process_title import set_process_name

#: How long a thread may hold the interpreter while another one waits, in seconds. Python's default,
#: 5 ms, is longer than a small job takes.
_SWITCH_SECONDS: Final = 0.0005


def prepare(settings: Settings) -> None:
    """Configure the log and the interpreter."""
    log.configure(settings.log)
    faulthandler.enable()  # if the interpreter crashes, the log says where
    set_process_name(b"wasmdrop")  # not python3, if it is run as a module
    sys.setswitchinterval(_SWITCH_SECONDS)
