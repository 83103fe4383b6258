"""The machines of the tests of fleets: what is cut off is cut off, and nothing is left behind."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.fleet.network import Machine, Network, network
from tests.support.require import require_network_namespaces

#: Connects to a port without a listener: only a machine that is reached refuses.
_PROBE: Final = """
import socket, sys
with socket.socket() as one:
    one.settimeout(float(sys.argv[2]))
    try:
        one.connect((sys.argv[1], 9))
    except ConnectionRefusedError:
        sys.exit(0)
    except OSError:
        sys.exit(1)
"""


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine, Machine]]:
    """Give three machines on one network."""
    require_network_namespaces()
    with network() as made:
        yield made.machine("a"), made.machine("b"), made.machine("c")


def _reaches(one: Machine, other: Machine, seconds: float = 60) -> bool:
    words = ["python3", "-c", _PROBE, other.address, str(seconds)]
    return subprocess.run([*one.prefix, *words], check=False).returncode == 0


def test_unplugged_machine_is_reached_by_no_other(
    machines: tuple[Machine, Machine, Machine],
) -> None:
    """Until it is plugged in again."""
    a, b, c = machines
    assert _reaches(a, b)
    b.unplug()
    assert not _reaches(a, b, seconds=0.5)
    assert not _reaches(b, a, seconds=0.5)
    assert _reaches(a, c)
    b.plug()
    assert _reaches(a, b)


def test_isolated_machines_are_cut_off_from_each_other_only(
    machines: tuple[Machine, Machine, Machine],
) -> None:
    """A third one reaches both."""
    a, b, c = machines
    a.isolate(is_isolated=True)
    b.isolate(is_isolated=True)
    assert not _reaches(a, b, seconds=0.5)
    assert _reaches(a, c)
    assert _reaches(c, b)
    a.isolate(is_isolated=False)
    assert _reaches(a, b)


def test_network_is_removed_with_its_processes() -> None:
    """Also one whose process ended without removing it."""
    require_network_namespaces()
    left = Network(owner=_ended_process())
    process = subprocess.Popen([*left.machine("a").prefix, "sleep", "1000"])
    try:
        with network() as made:
            made.machine("b")
            assert process.wait(60) != 0
            assert _names(left) == []
            assert len(_names(made)) == 2
        assert _names(made) == []
    finally:
        process.kill()
        process.wait()


def _names(made: Network) -> list[str]:
    return [path.name for path in Path("/run/netns").iterdir() if path.name.startswith(made.prefix)]


def _ended_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    assert process.pid != os.getpid()
    return process.pid
