"""A booted Debian with its own systemd, in which the service is installed as on a host."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.support.daemon import environment, wait_until
from tests.support.deploy.base import base_root, overlaid, wheels
from tests.support.require import require_root, require_tools

#: systemd-nspawn of Debian 12 knows no Landlock yet; a host of its own would allow it.
_LANDLOCK: Final = "landlock_create_ruleset landlock_add_rule landlock_restrict_self"

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Machine:
    """A running machine; ``leader`` is its process 1."""

    def __init__(self, leader: int) -> None:
        self.root = Path(f"/proc/{leader}/root")
        """Its file system as it sees it, with what it has mounted."""
        self._leader = leader

    def run(self, *command: str, **variables: str) -> str:
        """Run a command as root in the machine; return its output. Fail if it does."""
        done = subprocess.run(
            ["nsenter", f"--target={self._leader}", "--all", *command],
            env=environment(PATH=_PATH, **variables),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr, self.journal())
        return done.stdout

    def property_of(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", unit, f"--property={name}", "--value").strip()

    def journal(self) -> str:
        """Return the last lines of the machine's log."""
        command = [
            "nsenter",
            f"--target={self._leader}",
            "--all",
            "journalctl",
            "-n40",
            "--no-pager",
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def make(self, target: str, *variables: str) -> str:
        """Run the Makefile of the sources in the machine, without a network."""
        command: Sequence[str] = ("make", "--directory=/src", target, *variables)
        return self.run(*command, PIP_NO_INDEX="1", PIP_FIND_LINKS="/wheels")


@contextlib.contextmanager
def booted(base: Path) -> Iterator[Machine]:
    """Boot a machine whose changes go to ``base``, with the sources in ``/src``."""
    require_root()
    require_tools("systemd-nspawn", "nsenter", "mount")
    lower, packages = base_root(has_compiler=True), wheels()
    with overlaid(lower, base) as root:
        command = ["systemd-nspawn", f"--directory={root}", "--boot", "--register=no"]
        command += ["--keep-unit", "--private-network", "--console=pipe", "--link-journal=no"]
        command += [f"--system-call-filter={_LANDLOCK}", f"--bind-ro={packages}:/wheels"]
        with (base / "console").open("wb") as console:
            nspawn = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console
            )
        try:
            machine = Machine(wait_until(lambda: _leader(nspawn), "process 1"))
            wait_until((machine.root / "run/systemd/private").exists, "systemd")
            machine.run("systemctl", "is-system-running", "--wait")
            yield machine
        finally:
            nspawn.send_signal(signal.SIGTERM)
            try:
                nspawn.wait(20)
            except subprocess.TimeoutExpired:
                nspawn.kill()
                nspawn.wait()


def _leader(nspawn: "subprocess.Popen[bytes]") -> int | None:
    assert nspawn.poll() is None, "systemd-nspawn ended"
    threads = os.listdir(f"/proc/{nspawn.pid}/task")  # noqa: PTH208 - names are all that is needed
    for thread in threads:
        children = Path(f"/proc/{nspawn.pid}/task/{thread}/children").read_text().split()
        for child in children:
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return int(child)
    return None
