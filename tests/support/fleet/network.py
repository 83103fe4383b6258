"""Machines on a network of their own: network namespaces, joined by a switch.

The switch is a bridge in one more namespace, so nothing here has an address or an interface in the
namespace of the tests, and any number of networks may exist side by side. Needs root.

A namespace outlives the process that made it. Names begin with :data:`_PREFIX` and the process that
made them, and each new network first removes those of processes that are gone.
"""

import contextlib
import itertools
import os
import re
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PREFIX: Final = "wdfleet-"
_NAMESPACES: Final = Path("/run/netns")
_SUBNET: Final = "10.71.0"
_SWITCH: Final = "switch"
_OWNER: Final = re.compile(f"{_PREFIX}([0-9]+)-")


class Machine:
    """One machine of a network: a namespace with an address of its own."""

    def __init__(self, namespace: str, switch: str, number: int) -> None:
        self.address = f"{_SUBNET}.{number}"
        self._namespace = namespace
        self._switch = switch
        self._port = f"port{number}"
        _ip("netns", "add", namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")
        peer = ("type", "veth", "peer", "name", self._port, "netns", switch)
        _ip("link", "add", "eth0", "netns", namespace, *peer)
        _ip("-n", switch, "link", "set", self._port, "master", _SWITCH, "up")
        _ip("-n", namespace, "address", "add", f"{self.address}/24", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")

    @property
    def prefix(self) -> tuple[str, ...]:
        """A command that runs another one on this machine, in the same process."""
        return ("nsenter", f"--net={_NAMESPACES / self._namespace}", "--")

    def unplug(self) -> None:
        """Cut the machine off, as if its cable were pulled."""
        _ip("-n", self._switch, "link", "set", self._port, "down")

    def plug(self) -> None:
        """Connect the machine again."""
        _ip("-n", self._switch, "link", "set", self._port, "up")

    def isolate(self, *, is_isolated: bool) -> None:
        """Cut the machine off from all other machines that are isolated, and from no others."""
        state = "on" if is_isolated else "off"
        command = ("bridge", "-n", self._switch, "link", "set", "dev", self._port)
        subprocess.run([*command, "isolated", state], check=True, capture_output=True)


class Network:
    """Machines on one switch; made by :func:`network`.

    ``owner``: the process whose end makes it a leftover; this one if None.
    """

    def __init__(self, owner: int | None = None) -> None:
        self.prefix = f"{_PREFIX}{owner or os.getpid()}-{secrets.token_hex(2)}-"
        self._switch = f"{self.prefix}{_SWITCH}"
        self._numbers = itertools.count(1)
        _ip("netns", "add", self._switch)
        bridge = ("type", "bridge", "stp_state", "0", "forward_delay", "0")
        _ip("-n", self._switch, "link", "add", _SWITCH, *bridge)
        _ip("-n", self._switch, "link", "set", _SWITCH, "up")

    def machine(self, name: str) -> Machine:
        """Add a machine."""
        return Machine(f"{self.prefix}{name}", self._switch, next(self._numbers))

    def remove(self) -> None:
        """End all processes of the network and remove it."""
        _remove(self.prefix)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Give a network that exists during the block."""
    for prefix in _left_behind():
        _remove(prefix)
    made = Network()
    try:
        yield made
    finally:
        made.remove()


def _left_behind() -> set[str]:
    """Return the beginnings of names that belong to processes that are gone."""
    owners = {match[1]: match[0] for name in _names() if (match := _OWNER.match(name))}
    return {prefix for pid, prefix in owners.items() if not Path("/proc", pid).exists()}


def _names() -> list[str]:
    return [path.name for path in _NAMESPACES.iterdir()] if _NAMESPACES.exists() else []


def _remove(prefix: str) -> None:
    for name in _names():
        if name.startswith(prefix):
            pids = subprocess.run(
                ["ip", "netns", "pids", name], check=False, capture_output=True, text=True
            )
            for pid in pids.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _ip("netns", "delete", name)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
