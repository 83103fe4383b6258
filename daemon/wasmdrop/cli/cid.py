"""``wasmdrop cid``: print the content ids of files and directories."""

import argparse
import contextlib
import json
import os
import stat
import sys
from collections.abc import Callable
from typing import Final

from wasmdrop.cli.standard_streams import say
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.text import escaped, json_escaped
from wasmdrop.system.content_ids import LOOK_FLAGS, ContentIdError, content_link
from wasmdrop.unixfs.dag_pb import Link
from wasmdrop.unixfs.profiles import DEFAULT_PROFILE, PROFILES, Profile

_REFUSED: Final = 1

#: Progress is shown of a PATH from which more is read.
_LARGE_BYTES: Final = 64 * MEBIBYTE

_DESCRIPTION: Final = """\
Prints one line for each PATH: its content id (CID), two spaces and the path. Nothing is sent
anywhere. A CID depends on the profile; see docs/content-ids.md.
"""

_EPILOG: Final = """\
A directory counts with everything below it, hidden files too. Its own name, and modes, owners and
times have no effect.

Exit status: 0 all PATHs have a CID; 1 at least one has none, and standard error says why in one
line for each: it is a link or a special file, or has one in it, it can't be read, or it changed
meanwhile. The others are printed nevertheless.

Example:
  wasmdrop cid result.txt
  wasmdrop cid --profile unixfs-v0-2015 host/wasm/*.wasm
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.add_argument(
        "--profile",
        choices=list(PROFILES),
        default=DEFAULT_PROFILE.name,
        help=f"the rules by which CIDs are made (default: {DEFAULT_PROFILE.name})",
    )
    parser.add_argument(
        "--json", action="store_true", dest="as_json", help="print one JSON object for each PATH"
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="file or directory")


def run(options: argparse.Namespace) -> int:
    """Print the CIDs; return 1 if a path has none, else 0."""
    profile = PROFILES[options.profile]
    status = 0
    for path in options.paths:
        try:
            link = _link(path, profile)
        except ContentIdError as error:
            below = f"{path.rstrip('/')}/{error.path}" if error.path else path
            say(f"{below}: {error}")
            status = _REFUSED
            continue
        if options.as_json:
            found = {"path": path, "cid": link.cid.text, "profile": profile.name}
            line = json_escaped(json.dumps(found, ensure_ascii=False, separators=(",", ":")))
        else:
            line = f"{link.cid.text}  {escaped(path)}"
        sys.stdout.write(f"{line}\n")
    return status


def _link(path: str, profile: Profile) -> Link:
    try:
        # With a slash at the end a link would be followed.
        fd = os.open(path.rstrip("/") or path, LOOK_FLAGS)
    except OSError as error:
        raise ContentIdError("", f"can't be read: {error.strerror}") from None
    try:
        with contextlib.ExitStack() as stack:
            return content_link(fd, profile, _progress(stack, path, os.fstat(fd)))
    finally:
        os.close(fd)


def _progress(
    stack: contextlib.ExitStack, path: str, status: os.stat_result
) -> Callable[[int], None]:
    """Return a function that shows on a terminal's standard error how much has been read."""
    total_bytes = status.st_size if stat.S_ISREG(status.st_mode) else None
    is_seen = sys.stderr.isatty()
    read_bytes = 0
    show: Callable[[int, int | None], None] | None = None

    def on_read(count: int) -> None:
        nonlocal read_bytes, show
        read_bytes += count
        if show is None and is_seen and read_bytes > _LARGE_BYTES:
            # Importing rich takes a while, and only a person needs it.
            from wasmdrop.cli import terminal  # noqa: PLC0415

            show = stack.enter_context(terminal.byte_progress(path))
        if show is not None:
            show(read_bytes, total_bytes)

    return on_read
