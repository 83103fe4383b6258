"""podman-compose with the test engine: what ``docker compose`` does with a compose file."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.support.deploy.engine import Engine

#: ``docker`` for scripts and pages. Left out is what the test engine can't do: limits, for which it
#: needs control groups, networks, ports, and builds, because the image is built already.
_COMMAND: Final = """\
#!/bin/bash
case $1 in
network | build) exit 0 ;;
compose) exec {compose} --in-pod=false --podman-path="$0" "${{@:2}}" ;;
esac
arguments=()
while (($#)); do
    case $1 in
    --pids-limit | --memory | -m | --publish | -p) shift ;;
    --network=*_default*) ;;
    *) arguments+=("$1") ;;
    esac
    shift
done
exec {engine} "${{arguments[@]}}"
"""


def docker_command(podman: Engine, path: Path) -> Path:
    """Write an executable that does what ``docker`` does, with the test engine; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = shlex.join(podman.command("podman", *podman.storage))
    compose = shlex.quote(str(Path(sys.executable).with_name("podman-compose")))
    path.write_text(_COMMAND.format(engine=engine, compose=compose))
    path.chmod(0o755)
    return path


class Compose:
    """``docker compose`` in a clone of the project."""

    def __init__(self, podman: Engine, clone: Path) -> None:
        self._podman = podman
        self._clone = clone
        self._docker = docker_command(podman, clone.parent / "bin/docker")

    def run(self, *arguments: str, **variables: str) -> str:
        """Run a command of it; return its output. Fail if it does."""
        return self.shell(shlex.join(["docker", "compose", *arguments]), **variables)

    def shell(self, script: str, **variables: str) -> str:
        """Run a shell script in the clone; return its output. Fail if it does."""
        path = f"{self._docker.parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euc", script],
            cwd=self._clone,
            env=self._podman.environment() | {"PATH": path} | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (script, done.stdout, done.stderr)
        return done.stdout

    def container(self, service: str) -> str:
        """Return the name of the container of a service."""
        return f"{self._clone.name}_{service}_1"
