"""Access to the control page: hosts, tokens, sessions and other sites."""

from typing import Final

import pytest

from wasmdrop.page.access import Access
from wasmdrop.web.message import HttpRequest

KNOWN: Final = "0123456789abcdef0123456789abcdef"


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.seconds


def request(body: str = "", **headers: str) -> HttpRequest:
    """Return a request with these headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpRequest("POST", "/", "", named, body.encode())


def session(access: Access, token: str = KNOWN) -> str:
    """Log in; return the cookie as a browser sends it back."""
    cookie = access.login(request(f"token={token}"))
    assert cookie is not None
    return cookie.partition(";")[0]


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:80",
        "LOCALHOST:1",
        "a.localhost",
        "127.0.0.1:9100",
        "127.1.2.3",
        "[::1]:5",
    ],
)
def test_access_without_a_token_accepts_loopback_hosts(host: str) -> None:
    """With and without a port."""
    access = Access(None, 80)
    assert access.is_for_here(request(host=host))
    assert access.knows(request(host=host))


@pytest.mark.parametrize(
    "host",
    [
        *("", "example.org", "example.org:9100", "127.0.0.1.example.org", "localhost.example.org"),
        *(
            "10.0.0.1",
            "[::2]",
            "notlocalhost",
            "127.0.0.1@example.org",
            "localhost:80:80",
            "0.0.0.1",
        ),
    ],
)
def test_access_without_a_token_refuses_other_hosts(host: str) -> None:
    """A name of an attacker may resolve to this host."""
    assert not Access(None, 80).is_for_here(request(host=host))


def test_access_with_a_token_accepts_any_host() -> None:
    """As a proxy passes it on: the token decides."""
    assert Access(KNOWN, 80).is_for_here(request(host="example.org"))


@pytest.mark.parametrize(
    ("authorization", "is_known"),
    [
        (f"Bearer {KNOWN}", True),
        (f"bearer  {KNOWN}", True),
        (f"Bearer {KNOWN[:-1]}", False),
        (f"Bearer {KNOWN}0", False),
        (f"Basic {KNOWN}", False),
        (KNOWN, False),
        ("Bearer", False),
        ("Bearer \xff", False),
        ("", False),
    ],
)
def test_access_with_a_token_needs_it(authorization: str, is_known: bool) -> None:
    """In the header of the scheme of bearer tokens (RFC 6750)."""
    assert Access(KNOWN, 80).knows(request(authorization=authorization)) is is_known


def test_access_session_opens_the_page_until_it_ends() -> None:
    """By logout or by time; the cookie does not hold the token."""
    clock = Clock()
    access = Access(KNOWN, 80, clock)
    first, second = session(access), session(access)
    assert KNOWN not in first
    for cookie in (first, second, f"a=b; {first}"):
        assert access.knows(request(cookie=cookie))
    assert not access.knows(request(cookie=first[:-1]))
    assert not access.knows(request(cookie="wasmdrop_session_80="))
    access.logout(request(cookie=first))
    assert not access.knows(request(cookie=first))
    clock.seconds += 13 * 3600
    assert not access.knows(request(cookie=second))


def test_access_cookie_is_kept_from_scripts_and_other_sites() -> None:
    """And from connections without TLS if a proxy has it. Each daemon has a name of its own."""
    access = Access(KNOWN, 9100)
    cookie = access.login(request(f"token={KNOWN}"))
    assert cookie is not None
    assert cookie.startswith("wasmdrop_session_9100=")
    assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    secure = access.login(request(f"token={KNOWN}", x_forwarded_proto="https"))
    assert secure is not None
    assert secure.endswith("; Secure")


@pytest.mark.parametrize(
    "body",
    ["", "token=", f"token={KNOWN[:-1]}", f"Token={KNOWN}", KNOWN, "token=%FF", "\xff", "&" * 100],
)
def test_access_login_without_the_token_is_refused(body: str) -> None:
    """With any other token."""
    assert Access(KNOWN, 80).login(request(body)) is None


@pytest.mark.parametrize("is_changed", [True, False])
def test_access_with_another_token_ends_all_sessions(is_changed: bool) -> None:
    """A reload of the same token ends none."""
    access, token = Access(KNOWN, 80), KNOWN[::-1] if is_changed else KNOWN
    before = session(access)
    access.use_token_of(Access(token, 80))
    assert access.knows(request(cookie=before)) is not is_changed
    assert access.knows(request(cookie=session(access, token)))
    assert (access.login(request(f"token={KNOWN}")) is None) is is_changed


def test_access_sessions_are_bounded() -> None:
    """The oldest one ends first."""
    access = Access(KNOWN, 80)
    first = session(access)
    second = session(access)
    for _ in range(255):
        session(access)
    assert not access.knows(request(cookie=first))
    assert access.knows(request(cookie=second))


@pytest.mark.parametrize(
    ("headers", "may_change"),
    [
        ({"x_wasmdrop": "1"}, True),
        ({"x_wasmdrop": "1", "sec_fetch_site": "same-origin", "origin": "https://a"}, True),
        ({"x_wasmdrop": "1", "origin": "http://here:80"}, True),
        ({}, False),
        ({"sec_fetch_site": "same-origin"}, False),
        ({"x_wasmdrop": "1", "sec_fetch_site": "cross-site"}, False),
        ({"x_wasmdrop": "1", "sec_fetch_site": "same-site"}, False),
        ({"x_wasmdrop": "1", "sec_fetch_site": "none"}, False),
        ({"x_wasmdrop": "1", "origin": "http://there:80"}, False),
        ({"x_wasmdrop": "1", "origin": "null"}, False),
    ],
)
def test_access_change_needs_the_page_itself(headers: dict[str, str], may_change: bool) -> None:
    """Or a program, which sends no header of browsers."""
    assert Access(None, 80).may_change(request(host="here:80", **headers)) is may_change
