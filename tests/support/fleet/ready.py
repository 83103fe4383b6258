"""A server with the streams and consumers of a fleet, and connections to it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.support.fleet.server import Server, running_server
from wasmdrop.fleet.admin.setup import Plan, Sizes, create
from wasmdrop.fleet.names import engine_class
from wasmdrop.fleet.transport.access import Access, read_access
from wasmdrop.fleet.transport.connection import FleetConnection, connect
from wasmdrop.protocol.runtime_versions import own_versions
from wasmdrop.settings import load

#: So small that many servers have room on a disk, whose streams are reserved.
SIZES: Final = Sizes(jobs=64, outcomes=128, modules=128, inputs=128, outputs=256)

_WAIT_SECONDS: Final = 60


@contextlib.contextmanager
def ready_server(
    base: Path,
    daemons: Sequence[str] = ("daemon",),
    pools: Sequence[str] = ("default",),
    *,
    engines: Sequence[str] | None = None,
    sizes: Sizes = SIZES,
) -> Iterator[Server]:
    """Give a server with everything that these daemons and pools need.

    ``engines``: classes of deterministic jobs; without it, that of this host's wasmtime.
    """
    if engines is None:
        engines = (engine_class(own_versions()),)
    plan = Plan(tuple(daemons), tuple(pools), tuple(engines), sizes=sizes)
    with running_server(base) as server:
        asyncio.run(set_up(server, plan))
        yield server


async def set_up(server: Server, plan: Plan) -> None:
    """Make the streams and consumers of a plan."""
    async with connected(server) as connection:
        async for _name, _became in create(connection, plan):
            pass


def access_to(server: Server, name: str = "test") -> Access:
    """Return the access to a server without keys."""
    settings = load({"WASMDROP_FLEET": server.url}, {}).settings
    return read_access(settings, name)


@contextlib.asynccontextmanager
async def connected(server: Server, name: str = "test") -> AsyncIterator[FleetConnection]:
    """Give a connection that has reached the server."""
    async with connect(access_to(server, name)) as connection:
        await connection.wait_connected(_WAIT_SECONDS)
        yield connection
