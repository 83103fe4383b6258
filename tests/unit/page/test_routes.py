"""The paths of the control page: who gets which, and with which headers."""

import asyncio
import itertools
import json
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from wasmdrop.jobs.metrics import Metrics
from wasmdrop.page.access import Access
from wasmdrop.page.history import JobHistory
from wasmdrop.page.main_loop import MainLoop, NoAnswerError
from wasmdrop.page.routes import Routes
from wasmdrop.page.static_files import read_static_files
from wasmdrop.protocol.errors import StorageError
from wasmdrop.web.message import HttpRequest, HttpResponse

KNOWN: Final = "0123456789abcdef0123456789abcdef"
FILES: Final = read_static_files()
JOB: Final = "20260101T000000Z-0123456789"


class FakeOverview:
    """An overview that can fail."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    async def json(self) -> bytes:
        """Return or raise it."""
        if self.error is not None:
            raise self.error
        return b"{}"


class FakeQueries:
    """A journal with one job, which has ended."""

    async def job(self, job_id: str) -> dict[str, Any] | None:
        """Return it."""
        return {"job": JOB, "code": "ok"} if job_id == JOB else None

    async def jobs(self, _wanted: object, limit: int) -> list[dict[str, Any]]:
        """Return none, or fail."""
        if limit == 13:
            raise StorageError("unreadable")
        return []


class Site:
    """The routes with fakes behind them."""

    def __init__(self, token: str | None = None) -> None:
        self.cancelled: list[str] = []
        self.overview = FakeOverview()
        self.access = Access(token, 80)
        self.is_open = True
        """Whether the other job is open."""
        self._main_loop = MainLoop(None, lambda: 0.0)  # type: ignore[arg-type]
        self._routes = Routes(
            self.access,
            FILES,
            self.overview,  # type: ignore[arg-type]
            JobHistory(Metrics()),
            FakeQueries(),  # type: ignore[arg-type]
            self._main_loop,
            self._cancel,
        )

    async def _cancel(self, job_id: str, _reason: str) -> bool:
        self.cancelled.append(job_id)
        return self.is_open and job_id != JOB

    def ask(
        self, path: str, method: str = "GET", body: bytes = b"", /, **headers: str
    ) -> HttpResponse:
        """Return the response to a request from this host."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        known = {"host": "localhost"} | named
        path, _, query = path.partition("?")

        async def answer() -> HttpResponse:
            self._main_loop._loop = asyncio.get_running_loop()
            return await self._routes.answer(HttpRequest(method, path, query, known, body))

        return asyncio.run(answer())


def error_of(response: HttpResponse) -> str:
    """Return the error of an answer of the API."""
    assert response.content_type == "application/json"
    text = json.loads(response.body)["error"]
    assert isinstance(text, str)
    return text


PATHS: Final = (
    *("/", "/static/index.html", "/static/none", "/login", "/logout", "/none", "/api/v1/overview"),
    *("/api/v1/history", "/api/v1/jobs", f"/api/v1/jobs/{JOB}", f"/api/v1/jobs/{JOB}/cancel"),
    *("/api/v1/none", "/api/v2/overview", "/static/../routes.py", "/static/%2e%2e/routes.py"),
)


@pytest.mark.parametrize("token", [None, KNOWN], ids=["open", "with a token"])
def test_routes_each_response_has_the_headers_that_protect_it(token: str | None) -> None:
    """Also errors and redirects; none lets another site read it."""
    site = Site(token)
    for path, method in itertools.product(PATHS, ("GET", "POST", "PUT", "OPTIONS")):
        response = site.ask(path, method)
        headers = {name.lower(): value for name, value in response.headers}
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert not [name for name in headers if name.startswith("access-control-")]
        assert response.status in {200, 303, 401, 403, 404, 405}, (path, method)


@pytest.mark.parametrize("path", PATHS)
def test_routes_without_the_token_give_nothing_of_the_daemon(path: str) -> None:
    """But the files of the page, which are public, and the login."""
    site = Site(KNOWN)
    response = site.ask(path, x_wasmdrop="1")
    if path == "/":
        assert (response.status, ("Location", "login")) == (303, response.headers[0])
    elif path.startswith("/static/"):
        assert response.status == (200 if path == "/static/index.html" else 404)
    elif path in {"/login", "/logout"}:
        assert response.status == (200 if path == "/login" else 405)
    else:
        assert response.status == 401
        assert ("WWW-Authenticate", 'Bearer realm="wasmdrop"') in response.headers
    assert site.ask(f"/api/v1/jobs/{JOB}/cancel", "POST", x_wasmdrop="1").status == 401
    assert site.cancelled == []
    with_it = site.ask("/api/v1/overview", authorization=f"Bearer {KNOWN}", host="example.org")
    assert with_it.status == 200


@pytest.mark.parametrize("path", PATHS)
def test_routes_without_a_token_are_for_loopback_names_alone(path: str) -> None:
    """The error names the host and the setting."""
    response = Site().ask(path, host="evil.example\x1b")
    assert response.status == 403
    assert "WASMDROP_PAGE_TOKEN_FILE" in error_of(response)
    assert "\x1b" not in error_of(response)


def test_routes_login_sets_a_cookie_that_opens_the_page_until_logout() -> None:
    """Redirects are relative, so that they work below a path of a proxy."""
    site = Site(KNOWN)
    response = site.ask("/login", "POST", f"token={KNOWN}".encode(), sec_fetch_site="same-origin")
    assert response.status == 303
    headers = dict(response.headers)
    assert headers["Location"] == "."
    cookie = headers["Set-Cookie"].partition(";")[0]
    assert site.ask("/", cookie=cookie).status == 200
    assert site.ask("/api/v1/overview", cookie=cookie).status == 200
    left = site.ask("/logout", "POST", cookie=cookie)
    assert dict(left.headers)["Location"] == "login"
    assert "Max-Age=0" in dict(left.headers)["Set-Cookie"]
    assert site.ask("/", cookie=cookie).status == 303


@pytest.mark.parametrize("body", [b"", b"token=wrong", b"token=" + KNOWN.encode() + b"0"])
def test_routes_login_with_a_wrong_token_gets_no_cookie(body: bytes) -> None:
    """It is sent back to the form, which shows a message."""
    response = Site(KNOWN).ask("/login", "POST", body)
    assert dict(response.headers)["Location"] == "login#failed"
    assert "Set-Cookie" not in dict(response.headers)


def test_routes_requests_that_other_sites_cause_are_refused() -> None:
    """The browser says so; a session does not help."""
    site = Site(KNOWN)
    token = {"authorization": f"Bearer {KNOWN}"}
    for caused in ("cross-site", "same-site"):
        from_there = {"sec_fetch_site": caused, **token}
        assert site.ask("/api/v1/overview", **from_there).status == 403
        path = f"/api/v1/jobs/{JOB}/cancel"
        assert site.ask(path, "POST", x_wasmdrop="1", **from_there).status == 403
        body = f"token={KNOWN}".encode()
        assert site.ask("/login", "POST", body, sec_fetch_site=caused).status == 403
    assert site.cancelled == []


def test_routes_cancel_passes_the_job_on() -> None:
    """It says whether the job was cancelled, had ended, or is unknown."""
    site = Site()
    other = JOB.replace("0123456789", "abcdef0123")
    cancelled = site.ask(f"/api/v1/jobs/{other}/cancel", "POST", x_wasmdrop="1")
    assert json.loads(cancelled.body) == {"cancelled": True}
    ended = site.ask(f"/api/v1/jobs/{JOB}/cancel", "POST", x_wasmdrop="1")
    assert (ended.status, error_of(ended)) == (409, f"job {JOB} ended as ok")
    site.is_open = False
    unknown = site.ask(f"/api/v1/jobs/{other}/cancel", "POST", x_wasmdrop="1")
    assert unknown.status == 404
    assert site.ask(f"/api/v1/jobs/{JOB}/cancel").status == 405
    assert site.cancelled == [other, JOB, other]


def test_routes_faults_of_the_daemon_are_errors_for_people() -> None:
    """A main loop that hangs, and a journal that can't be read."""
    site = Site()
    site.overview.error = NoAnswerError("it hangs")
    hangs = site.ask("/api/v1/overview")
    assert (hangs.status, error_of(hangs)) == (503, "it hangs")
    unreadable = site.ask("/api/v1/jobs?limit=13")
    assert (unreadable.status, "journal" in error_of(unreadable)) == (503, True)


@pytest.mark.parametrize(
    "query",
    [
        "x=1",
        "limit=0",
        "limit=-1",
        "limit=201",
        "limit=1e3",
        "state=gone",
        "code=%FF",
        "=",
        "&" * 50,
    ],
)
def test_routes_query_that_is_invalid_is_refused(query: str) -> None:
    """In one printable line."""
    response = Site().ask(f"/api/v1/jobs?{query}")
    assert response.status == 400
    assert error_of(response).isprintable()


def test_routes_refused_logins_do_not_fill_the_log() -> None:
    """They are counted between two log events."""
    with capture_logs() as logged:
        site = Site(KNOWN)
        for _ in range(50):
            site.ask("/login", "POST", b"token=wrong")
    assert len(logged) == 1
