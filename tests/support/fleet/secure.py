"""A server with TLS, keys and accounts, as ``wasmdrop fleet config`` makes them."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tests.support.certificates import server_certificate
from tests.support.fleet.ready import SIZES
from tests.support.fleet.server import Server
from wasmdrop.fleet.admin.server_config import PublicKeys, accounts
from wasmdrop.fleet.admin.setup import Plan, create
from wasmdrop.fleet.transport.access import Access, read_access
from wasmdrop.fleet.transport.connection import FleetConnection, connect
from wasmdrop.fleet.transport.keys import new_seed, public_key
from wasmdrop.settings import load

_WAIT_SECONDS: Final = 60
ADMIN: Final = "admin"


class SecureFleet:
    """A server, and the keys of its users: ``admin``, ``daemon-NAME`` and ``pool-NAME``.

    Each pool also has the user ``worker-NAME``, a worker with a key of its own.
    """

    def __init__(
        self,
        base: Path,
        daemons: Sequence[str],
        pools: Sequence[str],
        make_accounts: Callable[[PublicKeys], dict[str, Any]] = accounts,
        engines: Sequence[str] = (),
    ) -> None:
        base.mkdir(parents=True, exist_ok=True)
        self._base = base
        self.plan = Plan(tuple(daemons), tuple(pools), tuple(engines), sizes=SIZES)
        self.keys = PublicKeys(
            self._make_key(ADMIN),
            {name: self._make_key(f"daemon-{name}") for name in daemons},
            {name: self._make_key(f"pool-{name}") for name in pools},
            {name: (self._make_key(f"worker-{name}"),) for name in pools},
        )
        _context, self.authority = server_certificate(base, "127.0.0.1")
        chain = base / "server.pem"
        tls = f'tls {{ cert_file: "{chain}", key_file: "{chain}" }}\n'
        users = json.dumps(make_accounts(self.keys))
        self.server = Server(base / "nats", f"{tls}accounts: {users}\n")

    def _make_key(self, user: str) -> str:
        seed = new_seed()
        path = self._base / f"{user}.nk"
        path.touch(mode=0o600)
        path.write_text(seed + "\n")
        return public_key(seed)

    def environment(self, user: str) -> dict[str, str]:
        """Return the settings of a user."""
        return {
            "WASMDROP_FLEET": self.server.url.replace("nats://", "tls://"),
            "WASMDROP_FLEET_KEY": str(self.seed_file(user)),
            "WASMDROP_FLEET_CA": str(self.authority),
        }

    def seed_file(self, user: str) -> Path:
        """Return the file of a user's key."""
        return self._base / f"{user}.nk"

    def access(self, user: str) -> Access:
        """Return what a user's connection needs."""
        return read_access(load(self.environment(user), {}).settings, user)

    @contextlib.asynccontextmanager
    async def connected(self, user: str) -> AsyncIterator[FleetConnection]:
        """Give a user's connection that has reached the server."""
        async with connect(self.access(user)) as connection:
            await connection.wait_connected(_WAIT_SECONDS)
            yield connection

    async def set_up(self) -> None:
        """Make the streams and consumers."""
        async with self.connected(ADMIN) as connection:
            async for _name, _became in create(connection, self.plan):
                pass


@contextlib.contextmanager
def secure_fleet(
    base: Path,
    daemons: Sequence[str],
    pools: Sequence[str],
    make_accounts: Callable[[PublicKeys], dict[str, Any]] = accounts,
    engines: Sequence[str] = (),
) -> Iterator[SecureFleet]:
    """Give a fleet with its streams, whose server runs during the block.

    ``engines``: its classes of deterministic jobs.
    """
    fleet = SecureFleet(base, daemons, pools, make_accounts, engines)
    fleet.server.start()
    try:
        asyncio.run(fleet.set_up())
        yield fleet
    finally:
        fleet.server.kill()
