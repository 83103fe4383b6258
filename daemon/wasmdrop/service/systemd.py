"""Notify systemd of readiness, and of liveness for its watchdog (sd_notify(3))."""

import os
import socket
from typing import Final

import structlog

_log = structlog.get_logger()

#: Enough for the rest of a start, which begins when the wait is over.
_EXTENSION_SECONDS: Final = 600


def notify(state: str) -> None:
    """Send ``state`` to systemd if it started this process."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    # Non-blocking: a manager that does not read must not block the event loop.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as link:
        try:
            link.sendto(state.encode(), address)
        except OSError as error:
            _log.warning("notification-failed", error=str(error))


def extend_start() -> None:
    """Have systemd wait longer for a start that waits for something (``TimeoutStartSec=``)."""
    notify(f"EXTEND_TIMEOUT_USEC={_EXTENSION_SECONDS * 1_000_000}")


def watchdog_seconds() -> float | None:
    """Return the timeout of systemd's watchdog; None if there is none for this process.

    Reads the environment as sd_watchdog_enabled(3) does.
    """
    text = os.environ.get("WATCHDOG_USEC", "")
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        return None
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(text) / 1e6
