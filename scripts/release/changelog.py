"""Reads ``CHANGELOG.md``: the sections of releases.

Run as a program, it prints the section of one version, without its heading: the notes of a release.
"""

import re
import sys
from pathlib import Path
from typing import Final

CHANGELOG: Final = Path(__file__).parents[2] / "CHANGELOG.md"
_HEADING: Final = re.compile(r"^## (.+)$", re.MULTILINE)
_RELEASE: Final = re.compile(r"(\d+\.\d+\.\d+) - (\d{4}-\d{2}-\d{2})")


class ChangelogError(Exception):
    """The changelog is not that of a release; the text says how to mend it."""


def sections(text: str) -> dict[str, str]:
    """Return the text of each section by its heading, newest first."""
    _introduction, *parts = _HEADING.split(text)
    return {
        heading.strip(): body.strip() for heading, body in zip(parts[::2], parts[1::2], strict=True)
    }


def newest_release(text: str) -> str:
    """Return the newest version that has a section."""
    for heading in sections(text):
        if found := _RELEASE.fullmatch(heading):
            return found[1]
    raise ChangelogError("CHANGELOG.md: expected a section `## X.Y.Z - YYYY-MM-DD`, found none")


def notes(text: str, version: str, *, today: str | None = None) -> str:
    """Return the section of a version. With ``today``, check that it can be released."""
    found = sections(text)
    for heading, body in found.items():
        release = _RELEASE.fullmatch(heading)
        if release is None or release[1] != version:
            continue
        if today is not None:
            if newest_release(text) != version:
                raise ChangelogError(f"CHANGELOG.md: {newest_release(text)} is above {version}")
            if release[2] > today:
                raise ChangelogError(f"CHANGELOG.md: the date of {version} is in the future")
            if found.get("Unreleased"):
                raise ChangelogError(
                    f"CHANGELOG.md: move the lines under Unreleased to the section of {version}"
                )
        return body
    raise ChangelogError(f"CHANGELOG.md: expected a section `## {version} - YYYY-MM-DD`")


if __name__ == "__main__":
    try:
        print(notes(CHANGELOG.read_text(encoding="utf-8"), sys.argv[1].removeprefix("v")))
    except ChangelogError as error:
        sys.exit(str(error))
