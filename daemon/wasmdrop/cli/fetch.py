"""``wasmdrop fetch``: download a module that a CID or a SHA-256 names, and verify it.

A process of its own, because the daemon has no network.
"""

import argparse
import contextlib
import json
import math
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from wasmdrop import settings
from wasmdrop.cli.setting_flags import add_config_flag, config_flag
from wasmdrop.cli.standard_streams import say
from wasmdrop.fetch.download import Downloader, Fetched, Progress
from wasmdrop.fetch.source import parse_source
from wasmdrop.protocol.errors import FetchError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.text import one_line
from wasmdrop.web.deadline import Deadline

_REFUSED: Final = 1
_MAX_SECONDS: Final = 600.0
#: Signals that end the command, after which no temporary file may be left.
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_DESCRIPTION: Final = """\
Downloads a module and verifies it by its name: the CID of a file of IPFS, or the SHA-256
of a file at a URL. The server is not trusted. The file appears complete as CID.wasm or
HEX.wasm, so that an input finds it with "module": "CID" or "module": "HEX".
"""

_EPILOG: Final = """\
The file has at most WASMDROP_MAX_MODULE_MB. Redirects are not followed, and the variables
of proxies (https_proxy and the like) have no effect. https needs a certificate that the
system trusts.

Exit status: 0 the file is there and verified; 1 refused: the server did not send it, or a
file with other content has its name; 2 usage or settings error; 3 the file can't be
written; 130, 129 or 143 interrupted by SIGINT, SIGHUP or SIGTERM. With status 1 to 3 no
file is left.

Examples:
  wasmdrop fetch ipfs://bafkrei... --gateway http://127.0.0.1:8080
  wasmdrop fetch https://example.org/fib.wasm#sha256=9f86d0... --into /srv/wasm
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument("source", metavar="SOURCE", help="ipfs://CID or https://...#sha256=HEX")
    parser.add_argument(
        "--gateway",
        metavar="URL",
        help="trustless gateway to ask for blocks (default: from IPFS_GATEWAY)",
    )
    parser.add_argument(
        "--into",
        metavar="DIR",
        help="directory for the file (default: WASMDROP_WASM_DIR, as the daemon finds it)",
    )
    parser.add_argument(
        "--max-sec",
        type=_seconds,
        default=_MAX_SECONDS,
        metavar="SECONDS",
        help="most time for the download (default: %(default)g)",
    )
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")
    add_config_flag(parser)


def run(options: argparse.Namespace) -> int:
    """Fetch the file; return the exit status."""
    # The state directory does not matter here, and may not be writable.
    flags = config_flag(options) | {"state_dir": os.devnull}
    loaded = settings.load(os.environ, flags, runs_jobs=False).settings
    gateway = options.gateway or os.environ.get("IPFS_GATEWAY")
    source = parse_source(options.source, gateway)
    directory = loaded.wasm_dir if options.into is None else Path(options.into)
    try:
        with _ended_by_signals(), _progress(source.name) as on_progress:
            fetched = Downloader(
                directory,
                loaded.max_module_mb * MEBIBYTE,
                Deadline(options.max_sec, flag="--max-sec"),
                on_progress,
            ).fetch(source)
    except FetchError as error:
        say(str(error))
        return _REFUSED
    sys.stdout.write(_as_json(fetched) if options.as_json else _as_lines(fetched))
    return 0


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError("expected more than 0 seconds")
    return seconds


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let signals end the block with an exception, so that it removes its temporary file."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        for each in _ENDING:
            signal.signal(each, signal.SIG_IGN)  # the first one ends the block already
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Progress]:
    if not sys.stderr.isatty():
        yield lambda _size_bytes, _total_bytes: None
        return
    # Importing rich takes a while, and only a person needs it.
    from wasmdrop.cli import terminal  # noqa: PLC0415

    with terminal.byte_progress(name) as on_progress:
        yield on_progress


def _as_json(fetched: Fetched) -> str:
    body = {
        "path": str(fetched.path),
        "bytes": fetched.size_bytes,
        "sha256": fetched.sha256,
        "downloaded": fetched.is_new,
    }
    return json.dumps(body) + "\n"


def _as_lines(fetched: Fetched) -> str:
    facts = (
        ("file", one_line(str(fetched.path))),
        ("bytes", str(fetched.size_bytes)),
        ("sha256", fetched.sha256),
    )
    return "".join(f"{name} {value}\n" for name, value in facts)
