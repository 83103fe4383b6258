"""Access to the page: for programs of this host, or with a token.

Without a token, requests must name a loopback host: a page on the internet whose name was made to
resolve to 127.0.0.1 (DNS rebinding) sends its own name. With a token, the request must have it, or
the cookie of a session that was opened with it. A cookie is sent to the host that set it alone, and
not with requests that other sites cause (``SameSite=Strict``).
"""

import hashlib
import hmac
import ipaddress
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs, urlsplit

from wasmdrop.web.message import HttpRequest

#: How long a login lasts, in seconds, and how many there may be; the oldest ends first.
_SESSION_SECONDS: Final = 12 * 3600
_SESSIONS: Final = 256

_COOKIE: Final = "wasmdrop_session"

#: The header of requests that change something. A browser sends it to another site only if that
#: site allows it, which this one never does.
CHANGE_HEADER: Final = "x-wasmdrop"

_PORT: Final = re.compile(r":[0-9]*$")


class Access:
    """Decides on requests. ``token``: None if the page is for this host alone.

    ``port`` is that of the page: browsers send a cookie to all ports of a host, so that its name
    tells daemons apart. ``clock``: a monotonic clock in seconds. Used from one
    thread, except :meth:`use_token_of`.
    """

    def __init__(
        self, token: str | None, port: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._token = None if token is None else _digest(token)
        self._cookie = f"{_COOKIE}_{port}"
        self._clock = clock
        self._sessions: OrderedDict[bytes, float] = OrderedDict()
        """When each ends, by the digest of its cookie; the oldest first."""

    def use_token_of(self, other: "Access") -> None:
        """Take over another token, if both have one; all sessions end. Called from any thread."""
        token = other._token  # noqa: SLF001 - of the same class
        if self._token is not None and token not in {None, self._token}:
            self._token = token
            self._sessions = OrderedDict()

    @property
    def has_login(self) -> bool:
        """Whether the page needs a token."""
        return self._token is not None

    def is_for_here(self, request: HttpRequest) -> bool:
        """Whether the request names a host that the page may be opened by."""
        return self.has_login or _is_loopback(request.header("host"))

    def knows(self, request: HttpRequest) -> bool:
        """Whether the request has the token or a session, if that is needed."""
        if self._token is None:
            return True
        scheme, _, given = request.header("authorization").partition(" ")
        if scheme.lower() == "bearer":
            return self._is_token(given.strip())
        end = self._sessions.get(_digest(self._session_of(request)))
        return end is not None and self._clock() < end

    def is_own(self, request: HttpRequest) -> bool:
        """Whether no other site caused the request, as far as the browser says."""
        site = request.header("sec-fetch-site")
        return site in {"", "same-origin", "none"}

    def may_change(self, request: HttpRequest) -> bool:
        """Whether the request may change something: the page or a program sent it."""
        if not request.header(CHANGE_HEADER):
            return False
        # Browsers send the first one from secure origins alone. A proxy may change Host, so the
        # second one counts without the first one only.
        site = request.header("sec-fetch-site")
        if site:
            return site == "same-origin"
        origin = request.header("origin")
        return not origin or urlsplit(origin).netloc == request.header("host")

    def login(self, request: HttpRequest) -> str | None:
        """Open a session by the token in a form; return the cookie, None if the token is wrong."""
        try:
            fields = parse_qs(request.body.decode("ascii"), max_num_fields=8)
        except ValueError:
            return None
        if self._token is None or not self._is_token(fields.get("token", [""])[0].strip()):
            return None
        session = secrets.token_urlsafe(32)
        self._sessions[_digest(session)] = self._clock() + _SESSION_SECONDS
        if len(self._sessions) > _SESSIONS:
            self._sessions.popitem(last=False)
        return self._set_cookie(request, session, _SESSION_SECONDS)

    def logout(self, request: HttpRequest) -> str:
        """End the session of the request; return the cookie to set."""
        self._sessions.pop(_digest(self._session_of(request)), None)
        return self._set_cookie(request, "", 0)

    def _is_token(self, given: str) -> bool:
        return self._token is not None and hmac.compare_digest(_digest(given), self._token)

    def _session_of(self, request: HttpRequest) -> str:
        for part in re.split("[;,]", request.header("cookie")):
            name, _, value = part.strip().partition("=")
            if name == self._cookie:
                return value
        return ""

    def _set_cookie(self, request: HttpRequest, value: str, seconds: int) -> str:
        # Without a path, so that it is that of the page, also below a path of a proxy.
        is_secure = request.header("x-forwarded-proto") == "https"
        secure = "; Secure" if is_secure else ""
        return f"{self._cookie}={value}; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"


def is_loopback_address(text: str) -> bool:
    """Whether ``text`` is a numeric address of this host alone."""
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    """Whether a ``Host`` header names this host alone (RFC 6761, section 6.3)."""
    name = _PORT.sub("", host).lower()
    if name.startswith("[") and name.endswith("]"):
        return is_loopback_address(name[1:-1])
    return name == "localhost" or name.endswith(".localhost") or is_loopback_address(name)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
