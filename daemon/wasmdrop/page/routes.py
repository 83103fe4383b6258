"""The paths of the page: its files, login and logout, and the API.

Everything but the files below ``/static/`` and the login needs access. Paths and answers are a
public interface; docs/page.md describes them.
"""

import math
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec
import structlog

from wasmdrop.page.access import Access
from wasmdrop.page.history import JobHistory
from wasmdrop.page.journal_queries import MAX_LISTED, JournalQueries, filter_of
from wasmdrop.page.main_loop import MainLoop, NoAnswerError
from wasmdrop.page.overview import OverviewMaker
from wasmdrop.page.static_files import StaticFile
from wasmdrop.protocol.errors import SettingsError, StorageError
from wasmdrop.protocol.text import describe_value, one_line
from wasmdrop.web.message import HttpRequest, HttpResponse

_log = structlog.get_logger()

#: Headers of every response. The page loads and runs only its own files. No other site can show it
#: in a frame or read its answers.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)

_API: Final = "/api/v1/"
_STATIC: Final = "/static/"
_JSON: Final = "application/json"

#: A job's path: its id, and perhaps a request to cancel it.
_JOB: Final = re.compile(r"/api/v1/jobs/([0-9A-Za-z-]{1,64})(/cancel)?")

_READING: Final = frozenset({"GET", "HEAD"})

#: Jobs of an answer if the request does not say how many.
_LISTED: Final = 50
_FIELDS: Final = frozenset({"state", "code", "slot", "limit"})
_MAX_FIELDS: Final = 32

#: Least time between two log events of refused logins, in seconds: clients without the token must
#: not fill the log.
_REFUSED_SECONDS: Final = 10.0

_CANCELLED_HERE: Final = "cancelled on the control page"


class Routes:
    """Answers the requests of the page and its API; used from the server's event loop."""

    def __init__(
        self,
        access: Access,
        files: dict[str, StaticFile],
        overview: OverviewMaker,
        history: JobHistory,
        queries: JournalQueries,
        main_loop: MainLoop,
        cancel: Callable[[str, str], Awaitable[bool]],
    ) -> None:
        self._access = access
        self._files = files
        self._overview = overview
        self._history = history
        self._queries = queries
        self._main_loop = main_loop
        self._cancel = cancel
        self._refused = 0
        """Logins that were refused since the last log event of one."""
        self._refused_logged_at = -math.inf

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Answer a request of any path and method."""
        response = await self._answer(request)
        return response._replace(headers=(*response.headers, *_HEADERS))

    async def _answer(self, request: HttpRequest) -> HttpResponse:
        path = request.path
        if not self._access.is_for_here(request):
            shown = describe_value(request.header("host"))
            return _error(
                403,
                f"Host: expected localhost or a loopback address, found {shown}; to open the page"
                " by another name, set WASMDROP_PAGE_TOKEN_FILE",
            )
        if path.startswith(_STATIC):
            return self._file(request, path.removeprefix(_STATIC))
        if path in {"/login", "/logout"} and self._access.has_login:
            return self._login(request)
        if not self._access.knows(request):
            return _redirect("login") if path == "/" else _unknown()
        if path == "/":
            return self._file(request, "index.html")
        if path.startswith(_API):
            return await self._checked_api(request)
        return _error(404, "there is no such page")

    # The files, and the login

    def _file(self, request: HttpRequest, name: str) -> HttpResponse:
        if request.method not in _READING:
            return _not_allowed("GET, HEAD")
        file = self._files.get(name)
        if file is None:
            return _error(404, "there is no such file")
        return HttpResponse(200, file.body, file.content_type)

    def _login(self, request: HttpRequest) -> HttpResponse:
        if request.path == "/login" and request.method in _READING:
            return self._file(request, "login.html")
        if request.method != "POST":
            return _not_allowed("POST" if request.path == "/logout" else "GET, HEAD, POST")
        if not self._access.is_own(request):
            return _error(403, "requests from other sites can't log in or out")
        if request.path == "/logout":
            return _redirect("login", self._access.logout(request))
        cookie = self._access.login(request)
        if cookie is None:
            self._log_refused()
            return _redirect("login#failed")
        _log.info("page-login")
        return _redirect(".", cookie)

    def _log_refused(self) -> None:
        self._refused += 1
        now = time.monotonic()
        if now - self._refused_logged_at >= _REFUSED_SECONDS:
            _log.warning("page-login-refused", count=self._refused)
            self._refused, self._refused_logged_at = 0, now

    # The API

    async def _checked_api(self, request: HttpRequest) -> HttpResponse:
        if not self._access.is_own(request):
            return _error(403, "requests from other sites can't use the API")
        try:
            return await self._api(request)
        except NoAnswerError as error:
            return _error(503, str(error))
        except (SettingsError, StorageError) as error:
            _log.warning("page-journal-unreadable", error=str(error))
            return _error(503, "the journal can't be read; the log of the daemon says why")

    async def _api(self, request: HttpRequest) -> HttpResponse:
        job = _JOB.fullmatch(request.path)
        if job is not None and job[2]:
            return await self._cancel_job(request, job[1])
        if request.method not in _READING:
            return _not_allowed("GET, HEAD")
        if job is not None:
            found = await self._queries.job(job[1])
            return _no_job(job[1]) if found is None else _json(found)
        match request.path.removeprefix(_API):
            case "overview":
                return HttpResponse(200, await self._overview.json(), _JSON)
            case "history":
                return self._answer_history(request)
            case "jobs":
                return await self._list_jobs(request)
        return _error(404, "expected overview, history, jobs, jobs/ID or jobs/ID/cancel")

    def _answer_history(self, request: HttpRequest) -> HttpResponse:
        try:
            after = int(_fields(request, frozenset({"after"})).get("after", ["0"])[-1])
        except ValueError:
            return _error(400, "after: expected a time in seconds since 1970-01-01 UTC")
        return _json(self._history.answer(after))

    async def _list_jobs(self, request: HttpRequest) -> HttpResponse:
        try:
            fields = _fields(request, _FIELDS)
            wanted = filter_of(fields)
            limit = _limit_of(fields)
        except ValueError as error:
            return _error(400, one_line(str(error), 500))
        return _json({"jobs": await self._queries.jobs(wanted, limit)})

    async def _cancel_job(self, request: HttpRequest, job_id: str) -> HttpResponse:
        if request.method != "POST":
            return _not_allowed("POST")
        if not self._access.may_change(request):
            return _error(
                403,
                "expected the header X-Wasmdrop: 1, and no header Origin of another site; pages of"
                " other sites can't cancel jobs",
            )

        async def cancel() -> bool:
            return await self._cancel(job_id, _CANCELLED_HERE)

        if await self._main_loop.call(cancel):
            return _json({"cancelled": True})
        found = await self._queries.job(job_id)
        if found is None:
            return _no_job(job_id)
        ended = f"as {found['code']}" if found["code"] else "already"
        return _error(409, f"job {job_id} ended {ended}")


def _fields(request: HttpRequest, known: frozenset[str]) -> dict[str, list[str]]:
    """Return the fields of the query. Raises ``ValueError``."""
    fields = parse_qs(
        request.query,
        keep_blank_values=True,
        strict_parsing=bool(request.query),
        errors="surrogateescape",
        max_num_fields=_MAX_FIELDS,
    )
    unknown = fields.keys() - known
    if unknown:
        expected = ", ".join(sorted(known))
        raise ValueError(f"query: expected {expected}, found {describe_value(min(unknown))}")
    return fields


def _limit_of(fields: dict[str, list[str]]) -> int:
    """Return how many jobs are wanted. Raises ``ValueError``."""
    given = fields.get("limit", [str(_LISTED)])[-1]
    if not re.fullmatch(r"[0-9]{1,3}", given) or not 0 < int(given) <= MAX_LISTED:
        raise ValueError(f"limit: expected 1 to {MAX_LISTED}, found {describe_value(given)}")
    return int(given)


def _json(body: Any) -> HttpResponse:
    return HttpResponse(200, msgspec.json.encode(body), _JSON)


def _error(status: int, text: str) -> HttpResponse:
    return HttpResponse(status, msgspec.json.encode({"error": text}), _JSON)


def _unknown() -> HttpResponse:
    error = _error(401, "expected Authorization: Bearer with the token, or a login")
    return error._replace(headers=(("WWW-Authenticate", 'Bearer realm="wasmdrop"'),))


def _no_job(job_id: str) -> HttpResponse:
    return _error(404, f"{job_id}: there is no such job in the journal")


def _not_allowed(methods: str) -> HttpResponse:
    error = _error(405, f"expected one of these methods: {methods}")
    return error._replace(headers=(("Allow", methods),))


def _redirect(place: str, cookie: str = "") -> HttpResponse:
    cookies = (("Set-Cookie", cookie),) if cookie else ()
    return HttpResponse(303, b"", headers=(("Location", place), *cookies))
