"""Explain why a server can't be used: what was wrong, and what to do."""

import os
import re
from typing import Final

from wasmdrop.fleet.errors import FleetOutdatedError, FleetRefusedError, FleetUnavailableError
from wasmdrop.fleet.messages import HEADER_BYTES, MAX_MESSAGE_BYTES
from wasmdrop.fleet.names import REVOCATIONS
from wasmdrop.fleet.transport.access import Access
from wasmdrop.protocol.text import one_line

#: Older servers lose or duplicate messages, or have known holes.
MIN_VERSION: Final = (2, 14, 3)

_VERSION: Final = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})\.([0-9]{1,6})")

#: Size of messages that a server must allow, with their headers.
_MIN_PAYLOAD: Final = MAX_MESSAGE_BYTES + HEADER_BYTES

_UNAUTHORIZED: Final = "authorization violation"

#: The client gives the server's texts in lower case.
_DENIED: Final = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')

_VERBS: Final = {"publish": "publish", "subscription": "subscribe to"}

#: OpenSSL's codes for a certificate that has another host name or another address.
_WRONG_NAME: Final = frozenset({62, 64})


def check_server(url: str, version: str, max_payload: int) -> None:
    """Raise ``FleetRefusedError`` for a server that is too old, or allows only short messages."""
    numbers = _VERSION.match(version)
    if numbers is None or tuple(map(int, numbers.groups())) < MIN_VERSION:
        expected = ".".join(str(number) for number in MIN_VERSION)
        raise FleetRefusedError(
            f"{url} has version {one_line(version, 40)}; expected {expected} or later"
        )
    if max_payload < _MIN_PAYLOAD:
        raise FleetRefusedError(
            f"{url} allows messages of {max_payload} bytes; expected max_payload of at least"
            f" {_MIN_PAYLOAD}, as by default"
        )


def without_tls(url: str) -> FleetRefusedError:
    """Return the error for a server that offers no TLS."""
    return FleetRefusedError(
        f"{url} does not offer TLS; set it up there, or set WASMDROP_FLEET_SECURITY=none if"
        " everything in its network is trusted"
    )


def connect_failure(
    url: str, access: Access, error: Exception, reason: str
) -> FleetUnavailableError:
    """Return the error for a connection that failed with ``error``, for ``reason``."""
    if _UNAUTHORIZED in reason.lower():
        known = "does not know this key" if access.seed else "asks for a key"
        return FleetRefusedError(
            f"{url} {known}; `wasmdrop fleet config` makes keys and the server's configuration,"
            " and WASMDROP_FLEET_KEY names one"
        )
    verify_message = getattr(error, "verify_message", "").rstrip(".")
    if not verify_message:
        return FleetUnavailableError(f"{url} can't be reached: {reason}")
    if getattr(error, "verify_code", 0) in _WRONG_NAME:
        return FleetRefusedError(
            f"{url} has a certificate for another name ({verify_message}); use a name that the"
            " certificate has in WASMDROP_FLEET, or give the server a certificate for this one"
        )
    return FleetRefusedError(
        f"{url} has a certificate that is not trusted ({verify_message}); name its authority in"
        " WASMDROP_FLEET_CA"
    )


def denied_right(text: str) -> tuple[str, FleetRefusedError] | None:
    """Return the subject of a right that the server denies, in lower case, and the error.

    ``text`` is that of the server. Return None if it is about something else.
    """
    denied = _DENIED.search(text)
    if denied is None:
        return None
    right = f"{_VERBS[denied[1]]} {denied[2]}"
    if denied[2].startswith(f"{REVOCATIONS}."):
        return denied[2], FleetOutdatedError(
            f"the server does not allow this key to {right}, so cancelled jobs run on at their"
            " workers until they end or time out; run `wasmdrop fleet config` of this version"
            " again with the same arguments, and restart the server with its output"
        )
    return denied[2], FleetRefusedError(
        f"the server does not allow this key to {right}; each daemon,"
        " each pool and the administrator has its own key: correct WASMDROP_FLEET_KEY, or the"
        " name of the daemon or pool"
    )


def reason_of(error: Exception) -> str:
    """Return the reason of a failed exchange in one line."""
    if isinstance(error, TimeoutError) and not error.errno:
        return "no answer in time"
    if isinstance(error, ConnectionError) and error.errno:
        return os.strerror(error.errno)  # asyncio's text has the address once more
    if isinstance(error, OSError) and (error.errno or 0) < 0:
        return str(error.strerror)  # of the resolver
    return one_line(str(error).removeprefix("nats: ") or type(error).__name__, 300)
