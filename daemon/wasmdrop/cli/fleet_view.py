"""How ``wasmdrop fleet status`` shows a fleet."""

import sys
import time
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wasmdrop.fleet.admin.status import FleetStatus
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.text import one_line

#: Characters that are shown of a text from another machine.
_LIMIT = 64


def as_json(status: FleetStatus) -> str:
    """Return the status as one JSON object."""
    return msgspec.json.format(msgspec.json.encode(status), indent=2).decode() + "\n"


def show(status: FleetStatus) -> None:
    """Print the status in tables. Text of other machines is escaped."""
    is_terminal = sys.stdout.isatty()
    console = Console(
        width=None if is_terminal else 400, soft_wrap=not is_terminal, highlight=False
    )
    console.print(Text(f"server {status.server}, version {status.server_version}\n"))
    _table(
        console,
        ("pool", "class", "queued", "leased", "workers waiting"),
        [(q.pool, q.engine, q.queued, q.leased, q.requests) for q in status.queues],
        "no pools: run `wasmdrop fleet init`",
    )
    _table(
        console,
        ("daemon", "outcomes queued", "leased"),
        [(one.daemon, one.queued, one.leased) for one in status.outcomes],
        "no daemons: run `wasmdrop fleet init`",
    )
    _table(
        console,
        ("daemon", "in the fleet", "window", "waiting", "wasmdrop", "wasmtime"),
        [
            (d.daemon, d.unanswered, d.window, d.waiting, d.runtime.wasmdrop, d.runtime.wasmtime)
            for d in status.daemons
        ],
        "no heartbeat of a daemon",
    )
    _table(
        console,
        ("pool", "worker", "running", "slots", "done", "up", "wasmdrop", "wasmtime", "platform"),
        [
            (
                *(worker.pool, worker.worker, worker.running, worker.slots, worker.done),
                f"{max(0, time.time_ns() - worker.started_at_ns) // 60_000_000_000} min",
                *(worker.runtime.wasmdrop, worker.runtime.wasmtime, worker.runtime.platform),
            )
            for worker in status.workers
        ],
        "no heartbeat of a worker",
    )
    _table(
        console,
        ("stream", "messages", "MiB", "of", "replicas"),
        [
            (
                *(one.stream, one.messages),
                *(one.used_bytes // MEBIBYTE, one.max_bytes // MEBIBYTE, one.replicas),
            )
            for one in status.streams
        ],
        "no streams: run `wasmdrop fleet init`",
    )


def _table(
    console: Console, headings: Sequence[str], rows: Sequence[Sequence[object]], nothing: str
) -> None:
    if rows:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*(Text(one_line(str(cell), _LIMIT)) for cell in row))
        with console.capture() as capture:
            console.print(table)
        for line in capture.get().splitlines():
            console.print(Text.from_ansi(line.rstrip()))
    else:
        console.print(Text(nothing, "yellow"))
    console.print()
