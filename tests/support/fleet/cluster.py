"""A cluster of NATS servers, each on a machine of its own."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.support.commands import command
from tests.support.daemon import environment
from tests.support.fleet.key_files import ADMIN, KeyFiles
from tests.support.fleet.network import Machine
from tests.support.fleet.server import Server
from wasmdrop.fleet.admin.server_config import accounts

_CLIENT_PORT: Final = 4222
_ROUTE_PORT: Final = 6222

#: How long ``wasmdrop fleet init`` may take, in seconds, before it is tried again.
_SET_UP_SECONDS: Final = 60


class Cluster:
    """Servers with routes to each other, or one server without; each user has an account."""

    def __init__(
        self,
        base: Path,
        machines: Sequence[Machine],
        daemons: Sequence[str],
        pools: Sequence[str] = ("default",),
    ) -> None:
        self._daemons = daemons
        self._keys = KeyFiles(base / "keys", daemons, pools)
        users = f"accounts: {json.dumps(accounts(self._keys.public))}\n"
        routes = ", ".join(f"nats-route://{each.address}:{_ROUTE_PORT}" for each in machines)
        self.servers = [
            Server(
                base / f"server{number}",
                users + f'cluster {{ name: fleet, listen: "{machine.address}:{_ROUTE_PORT}",'
                f" routes: [{routes}] }}\n"
                if len(machines) > 1
                else "",
                machine=machine,
                port=_CLIENT_PORT,
            )
            for number, machine in enumerate(machines)
        ]

    @property
    def url(self) -> str:
        """The addresses of all servers, as ``WASMDROP_FLEET`` takes them."""
        return ",".join(server.url for server in self.servers)

    def variables(self, user: str) -> dict[str, str]:
        """Return the settings of a user, such as ``daemon-NAME``."""
        return {
            "WASMDROP_FLEET": self.url,
            "WASMDROP_FLEET_KEY": str(self._keys.path(user)),
            "WASMDROP_FLEET_SECURITY": "none",  # there is no TLS
        }

    def start(self) -> None:
        """Start all servers and wait until they accept connections."""
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait_until_ready()

    def kill(self) -> None:
        """Kill all servers."""
        for server in self.servers:
            server.kill()

    def set_up(self, machine: Machine) -> str | None:
        """Make streams and consumers as an operator does; return the reason if that failed."""
        words = [word for name in self._daemons for word in ("--daemon", name)]
        replicas = "3" if len(self.servers) > 1 else "1"
        try:
            done = subprocess.run(
                [*machine.prefix, *command("fleet", "init", "--replicas", replicas, *words)],
                env=environment(**self.variables(ADMIN)),
                check=False,
                capture_output=True,
                text=True,
                timeout=_SET_UP_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return f"no end after {_SET_UP_SECONDS} s"
        return None if done.returncode == 0 else done.stderr
