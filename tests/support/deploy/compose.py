"""podman-compose with the test engine: what ``docker compose`` does with a compose file."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.support.deploy.engine import Engine

#: An engine for scripts and podman-compose. Left out is what the test engine can't do: limits, for
#: which it needs control groups, networks and ports.
_COMMAND: Final = """\
#!/bin/bash
[[ $1 == network ]] && exit 0
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


def engine_command(podman: Engine, path: Path) -> Path:
    """Write an executable that runs the engine like ``docker`` or ``podman``; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = " ".join(map(shlex.quote, podman.command("podman", *podman.storage)))
    path.write_text(_COMMAND.format(engine=engine))
    path.chmod(0o755)
    return path


class Compose:
    """``docker compose`` in a clone of the project, with an image that is built already."""

    def __init__(self, podman: Engine, clone: Path, file: str = "compose.yaml") -> None:
        self._podman = podman
        self._clone = clone
        self._file = file
        self._command = engine_command(podman, clone.parent / "bin/podman")

    def run(self, *arguments: str, **variables: str) -> str:
        """Run a command of it; return its output. Fail if it does."""
        command = [str(Path(sys.executable).with_name("podman-compose")), "--in-pod=false"]
        command += [f"--podman-path={self._command}", f"--file={self._file}", *arguments]
        done = subprocess.run(
            command,
            cwd=self._clone,
            env=self._podman.environment() | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def container(self, service: str) -> str:
        """Return the name of the container of a service."""
        return f"{self._clone.name}_{service}_1"
