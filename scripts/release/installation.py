"""Installs the wheel as users do, outside the repository, and runs a job with it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from scripts.release.distribution import TOOLS, StepError

SECONDS: Final = 120
#: The interpreter of the machine, not that of the tools.
PYTHON: Final = f"{sys.base_prefix}/bin/python3.{sys.version_info.minor}"
#: What an installer must know of this machine: where packages and certificates are.
_KEPT: Final = ("PIP_", "UV_", "SSL_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


class Home:
    """An empty home directory, whose processes know nothing of the repository."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True)
        self.path = path
        kept = {name: value for name, value in os.environ.items() if name.upper().startswith(_KEPT)}
        self._environment = kept | {
            "HOME": str(path),
            "LANG": "C.UTF-8",
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "UV_PYTHON_DOWNLOADS": "never",
        }

    def start(self, log: Path, *command: str | Path) -> "subprocess.Popen[bytes]":
        """Start a process that writes to a log."""
        with log.open("wb") as file:
            return subprocess.Popen(
                list(map(str, command)),
                cwd=self.path,
                env=self._environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def run(self, *command: str | Path) -> str:
        """Run a command to its end; return what it prints."""
        log = self.path / "output"
        with self.start(log, *command) as process:
            try:
                status = process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                status = -signal.SIGKILL
        printed = log.read_text(errors="replace")
        if status != 0:
            last = printed.strip().splitlines()[-20:]
            raise StepError("\n".join([f"{' '.join(map(str, command))}: status {status}", *last]))
        return printed


def by_pip(home: Home, wheel: Path) -> Path:
    """Install with the extras into a virtual environment."""
    venv = home.path / "venv"
    home.run(PYTHON, "-m", "venv", venv)
    home.run(venv / "bin/python", "-m", "pip", "install", f"{wheel}[receipts,fleet]")
    return venv / "bin/wasmdrop"


def by_pipx(home: Home, wheel: Path) -> Path:
    """Install for one user with pipx."""
    home.run(TOOLS / "pipx", "install", "--python", PYTHON, wheel)
    return home.path / ".local/bin/wasmdrop"


def by_uv(home: Home, wheel: Path) -> Path:
    """Install for one user with uv."""
    home.run(TOOLS / "uv", "tool", "install", "--python", PYTHON, wheel)
    return home.path / ".local/bin/wasmdrop"


def try_program(home: Home, program: Path, version: str) -> None:
    """Follow the first steps of a new user: init, serve, submit."""
    if (printed := home.run(program, "--version").strip()) != f"wasmdrop {version}":
        raise StepError(f"{program} --version: expected wasmdrop {version}, got {printed}")
    folder, log = home.path / "first", home.path / "serve.log"
    home.run(program, "init", folder)
    config = folder / "config.toml"
    with home.start(log, program, "serve", "--config", config) as daemon:
        try:
            job = ("--module", "fib", "--entry", "fib", "--args", "[12]", "--wait")
            printed = home.run(program, "submit", "--config", config, *job)
        except StepError as error:
            raise StepError(f"{error}\nthe daemon: {log.read_text(errors='replace')}") from None
        finally:
            daemon.terminate()
    if '"results":[144]' not in printed or daemon.returncode != 0:
        raise StepError(f"expected 144 and status 0, got {printed} and {daemon.returncode}")


def try_extras(home: Home, program: Path) -> None:
    """Use the packages of the extras: make a signing key, read the commands of fleets."""
    home.run(program, "key", "new", home.path / "key.pem")
    home.run(program, "fleet", "--help")
