r"""Take pictures of the control page of a real daemon, for docs/images and to look at.

    python -m tests.support.page_screenshots docs/images --waiting 50 --seconds 300

Jobs sleep instead of computing, so a queue of 100,000 jobs costs no processor time.
"""

import argparse
import json
import math
import random
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, get_args

from playwright.sync_api import expect
from wasmtime import wat2wasm

from tests.support.browser import Scheme, chromium, visit
from tests.support.daemon import DEADLINE_SECONDS, Daemon, drop, wait_until

#: Sleeps for a number of milliseconds (witx: a subscription has 48 bytes); traps for some numbers.
MODULE: Final = """(module
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func $page_layout (param i64)
    (if (i64.eq (i64.rem_u (local.get 0) (i64.const 11)) (i64.const 7)) (then (unreachable))))
  (func (export "run") (param i64) (result i64)
    (call $page_layout (local.get 0))
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.mul (local.get 0) (i64.const 1000000)))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
    (local.get 0)))"""

KINDS: Final = (
    ("photos/spring", "thumbnail"),
    ("billing/2026-11", "invoice"),
    ("weekly", "report"),
)

WORKERS: Final = 4
WIDTHS: Final = (1280, 390)

#: An hour, in milliseconds: longer than it takes to make the pictures.
LONG: Final = 3_600_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", type=Path)
    parser.add_argument("--waiting", type=int, default=50, help="jobs in the queue")
    parser.add_argument("--seconds", type=float, default=60, help="of activity before the pictures")
    parser.add_argument("--base", type=Path, help="new directory of the daemon, shown on the page")
    parser.add_argument("--height", type=int, help="pixels from the top (default: the whole page)")
    given = parser.parse_args(arguments)
    given.target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o755)  # jobs run as another user
        daemon = Daemon(
            given.base or Path(temporary),
            WASMDROP_HTTP="127.0.0.1:0",
            WASMDROP_PAGE="on",
            WASMDROP_WORKERS=str(WORKERS),
            WASMDROP_MAX_QUEUED="200000",
            WASMDROP_DRAIN_SEC="0",
            TIMEOUT_SEC="7200",
        )
        for _directory, module in KINDS:
            # A custom section makes files of the same text different modules.
            section = bytes([0, len(module) + 1, len(module)]) + module.encode()
            drop(daemon.wasm / f"{module}.wasm", bytes(wat2wasm(MODULE)) + section)
        with daemon.running():
            if given.waiting:
                _work(daemon, given.seconds)
                _fill(daemon, given.waiting)
            _take(_address(daemon), given.target, given.waiting, given.height)


def _work(daemon: Daemon, seconds: float) -> None:
    """Drop short jobs for a while, at a rate that changes."""
    chance = random.Random(7)  # noqa: S311 - not a secret
    start = time.monotonic()
    number = 0
    while (passed := time.monotonic() - start) < seconds:
        number += 1
        content: dict[str, Any] = {"args": [int(chance.lognormvariate(2.5, 1))]}
        if number % 97 == 0:
            content = {"args": [LONG], "timeout_sec": 0.2}
        _drop(daemon, number, content)
        if number % 700 == 0:  # a burst of long ones, which the others wait for
            for more in range(14):
                _drop(daemon, 10 * number + more, {"args": [800]})
        time.sleep(0.06 / (1.2 + math.sin(passed / seconds * 7)))


def _fill(daemon: Daemon, waiting: int) -> None:
    """Drop jobs that run until the end, and jobs that wait for them."""
    for number in range(waiting + WORKERS):
        _drop(daemon, 10_000_000 + number, {"args": [LONG]})
    address = _address(daemon)

    def is_full() -> bool:
        with urllib.request.urlopen(f"http://{address}/api/v1/overview", timeout=60) as answer:
            return bool(json.load(answer)["jobs"]["queued"] >= waiting)

    wait_until(is_full, "the queue to fill", deadline_seconds=1800)


def _drop(daemon: Daemon, number: int, content: dict[str, Any]) -> None:
    directory, module = KINDS[number % len(KINDS)]
    name = f"input-{module}-{number:05}.json"
    drop(daemon.shared / directory / name, {"module": module, "entry": "run"} | content)


def _address(daemon: Daemon) -> str:
    return str(daemon.until_logged("http-listening")[-1]["address"])


def _take(address: str, target: Path, waiting: int, height: int | None) -> None:
    with chromium() as browser:
        for width in WIDTHS:
            for scheme in get_args(Scheme):
                with visit(browser, address, width=width, scheme=scheme) as opened:
                    opened.page.locator("#main").wait_for()
                    # The history has a sample every five seconds.
                    current = opened.page.locator("#plot-queue strong").first
                    expect(current).to_have_text(f"{waiting:,}", timeout=DEADLINE_SECONDS * 1000)
                    if height is not None:
                        opened.page.set_viewport_size({"width": width, "height": height})
                    path = target / f"page-{waiting}-{width}-{scheme}.png"
                    opened.page.screenshot(path=path, full_page=height is None)


if __name__ == "__main__":
    main()
