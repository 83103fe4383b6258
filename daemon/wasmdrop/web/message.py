"""Requests and responses of the HTTP server, and the functions that answer them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple


class HttpRequest(NamedTuple):
    """A complete request; all of it is bounded, and comes from a stranger."""

    method: str
    path: str
    """As it was sent: still percent-encoded, without the query."""
    query: str
    headers: Mapping[str, str]
    """By name in lower case. Values of a repeated header are joined with a comma."""
    body: bytes

    def header(self, name: str) -> str:
        """Return the value of a header, by its name in lower case; empty without it."""
        return self.headers.get(name, "")


class HttpResponse(NamedTuple):
    """The response to a request."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
    """Further headers."""


#: Answers a request. Called on the server's own event loop.
Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]
