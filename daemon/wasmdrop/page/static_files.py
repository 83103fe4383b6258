"""The files of the page: HTML, CSS, scripts and pictures, read once from the package."""

from importlib import resources
from pathlib import PurePath
from typing import Final

import msgspec

#: The types of files by suffix. A file of another type is not served.
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_DIRECTORY: Final = "static"


class StaticFile(msgspec.Struct, frozen=True):
    """A file of the page."""

    body: bytes
    content_type: str


def read_static_files() -> dict[str, StaticFile]:
    """Return all files of the page by name. Raises ``OSError``."""
    found = {}
    for entry in resources.files("wasmdrop.page").joinpath(_DIRECTORY).iterdir():
        content_type = _TYPES.get(PurePath(entry.name).suffix)
        if content_type is not None and entry.is_file():
            found[entry.name] = StaticFile(entry.read_bytes(), content_type)
    return found
