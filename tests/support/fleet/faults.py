"""Faults that hit a fleet, and their schedule, which a seed determines."""

import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.support.daemon import DeadlineError, wait_until
from tests.support.fleet.machines import Fleet, FleetDaemon, Worker
from tests.support.fleet.network import Machine
from tests.support.fleet.server import Server

#: Short faults end before a lease does and before a daemon gives up the fleet, long ones later.
_SHORT_SECONDS: Final = (1.0, 5.0)
_LONG_SECONDS: Final = (12.0, 17.0)
_LONG_SHARE: Final = 0.4
_PAUSE_SECONDS: Final = (0.0, 4.0)

#: Kills hit moments, so there are more of them than of the faults that last.
_MORE_KILLS: Final = 3

#: Share of the faults that come together with the next one.
_PAIRED: Final = 0.25

#: How long a wipe waits for jobs that it can hit.
_BUSY_SECONDS: Final = 10

Node = Server | Worker | FleetDaemon


class Kind(StrEnum):
    """A kind of fault."""

    KILL = "kill"
    TERMINATE = "terminate"
    """The process is asked to end, and started again."""
    STOP = "stop"
    """The process does nothing for a while."""
    UNPLUG = "unplug"
    FLAP = "flap"
    """The machine is unplugged and plugged again, several times a second."""
    ISOLATE = "isolate"
    """The machine and one server do not reach each other."""
    WIPE = "wipe"
    """Servers or workers are killed and lose their disks; if all servers do, they are set up again.

    This happens when there are many open jobs.
    """


class Role(StrEnum):
    """What is hit."""

    SERVER = "server"
    WORKER = "worker"
    DAEMON = "daemon"


@dataclass(frozen=True)
class Fault:
    """One fault."""

    kind: Kind
    role: Role
    numbers: tuple[int, ...]
    """Which ones of the role."""
    seconds: float

    def __str__(self) -> str:
        names = " and ".join(f"{self.role}{number}" for number in self.numbers)
        return f"{self.kind} {names} {self.seconds:.1f} s"


@dataclass(frozen=True)
class Step:
    """Faults that begin together, and the pause after them."""

    faults: tuple[Fault, ...]
    pause_seconds: float

    def __str__(self) -> str:
        return ", ".join(map(str, self.faults))


_EVERYWHERE: Final = (Kind.KILL, Kind.STOP, Kind.UNPLUG, Kind.FLAP, Kind.ISOLATE)


def schedule(seed: int, count: int, sizes: Mapping[Role, int]) -> list[Step]:
    """Return at least ``count`` faults: each kind and role in turn, in random order.

    ``sizes``: how many there are of each role. All servers are wiped once in each turn.
    """
    dice = random.Random(f"faults {seed}")  # noqa: S311 - a test's dice
    servers = sizes[Role.SERVER]
    faults: list[Fault] = []
    while len(faults) < count:
        deck = [(kind, role, 1) for kind in _EVERYWHERE for role in Role]
        deck += [(Kind.TERMINATE, Role.WORKER, 1), (Kind.TERMINATE, Role.DAEMON, 1)]
        deck += [(Kind.KILL, Role.WORKER, 1), (Kind.KILL, Role.DAEMON, 1)] * _MORE_KILLS
        if servers > 1:
            most = servers // 2 + 1
            deck += [(Kind.KILL, Role.SERVER, most), (Kind.UNPLUG, Role.SERVER, most)]
            deck += [(Kind.WIPE, Role.SERVER, 1)]
        dice.shuffle(deck)
        # A worker without modules needs those that the servers lost, too.
        wipes = [(Kind.WIPE, Role.SERVER, servers), (Kind.WIPE, Role.WORKER, 1)]
        deck[len(deck) // 2 : len(deck) // 2] = wipes
        for kind, role, hit in deck:
            numbers = tuple(sorted(dice.sample(range(sizes[role]), hit)))
            span = _LONG_SECONDS if dice.random() < _LONG_SHARE else _SHORT_SECONDS
            faults.append(Fault(kind, role, numbers, round(dice.uniform(*span), 1)))
    steps: list[Step] = []
    everyone = tuple(range(sizes[Role.WORKER]))
    while faults:
        together = [faults.pop(0)]
        if together[0].kind is Kind.WIPE and together[0].role is Role.SERVER:
            # Workers that do nothing meanwhile leave jobs that are lost with the servers.
            together.insert(0, Fault(Kind.STOP, Role.WORKER, everyone, together[0].seconds))
        elif (
            faults
            and faults[0].kind is not Kind.WIPE
            and dice.random() < _PAIRED
            and faults[0].role is not together[0].role
        ):
            together.append(faults.pop(0))
        steps.append(Step(tuple(together), round(dice.uniform(*_PAUSE_SECONDS), 1)))
    return steps


def play(fleet: Fleet, step: Step, tick: Callable[[], None]) -> None:
    """Let the faults of a step happen, mend them, and pause; call ``tick`` all the time.

    ``tick`` must take a short while.
    """
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        links = [
            link for fault in step.faults for link in stack.enter_context(_happening(fleet, fault))
        ]
        longest = max(fault.seconds for fault in step.faults)
        while time.monotonic() < began + longest:
            for link in links:
                link.flap()
            tick()
    began = time.monotonic()
    while time.monotonic() < began + step.pause_seconds:
        tick()


@contextlib.contextmanager
def _happening(fleet: Fleet, fault: Fault) -> Iterator[list["_Flapping"]]:
    """Begin a fault, give the flapping links, and mend it."""
    nodes = [_nodes(fleet, fault.role)[number] for number in fault.numbers]
    machines = [node.machine for node in nodes]
    links: list[_Flapping] = []
    match fault.kind:
        case Kind.KILL:
            happening = _dead(nodes)
        case Kind.TERMINATE:
            happening = _ended(nodes)
        case Kind.STOP:
            happening = _stopped(nodes)
        case Kind.UNPLUG:
            happening = _unplugged(machines)
        case Kind.FLAP:
            happening = _unplugged(machines)
            links = [_Flapping(machine) for machine in machines]
        case Kind.ISOLATE:
            happening = _isolated([*machines, _opposite(fleet, fault)])
        case Kind.WIPE:
            happening = _wiped(fleet, nodes)
    with happening:
        yield links


@contextlib.contextmanager
def _dead(nodes: Sequence[Node]) -> Iterator[None]:
    for node in nodes:
        node.kill()
    yield
    for node in nodes:
        node.launch()


@contextlib.contextmanager
def _ended(nodes: Sequence[Node]) -> Iterator[None]:
    for node in nodes:
        status = node.stop()
        assert status == 0, f"{node.base.name} ended with {status}"
    yield
    for node in nodes:
        node.launch()


@contextlib.contextmanager
def _stopped(nodes: Sequence[Node]) -> Iterator[None]:
    for node in nodes:
        node.signal(signal.SIGSTOP)
    yield
    for node in nodes:
        node.signal(signal.SIGCONT)


@contextlib.contextmanager
def _unplugged(machines: Sequence[Machine]) -> Iterator[None]:
    for machine in machines:
        machine.unplug()
    yield
    for machine in machines:
        machine.plug()


class _Flapping:
    """Plugs and unplugs an unplugged machine in turn."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._is_plugged = False

    def flap(self) -> None:
        self._is_plugged = not self._is_plugged
        if self._is_plugged:
            self._machine.plug()
        else:
            self._machine.unplug()


@contextlib.contextmanager
def _isolated(machines: Sequence[Machine]) -> Iterator[None]:
    for machine in machines:
        machine.isolate(is_isolated=True)
    yield
    for machine in machines:
        machine.isolate(is_isolated=False)


@contextlib.contextmanager
def _wiped(fleet: Fleet, nodes: Sequence[Node]) -> Iterator[None]:
    disks = [node for node in nodes if not isinstance(node, FleetDaemon)]
    with contextlib.suppress(DeadlineError):  # all jobs may have been dropped and ended
        wait_until(fleet.is_busy, "jobs in the fleet", _BUSY_SECONDS)
    for node in disks:
        node.kill()
    for node in disks:
        node.wipe()
        node.launch()
    yield
    if set(disks) >= set(fleet.cluster.servers):
        fleet.set_up()


def _nodes(fleet: Fleet, role: Role) -> Sequence[Node]:
    match role:
        case Role.SERVER:
            return fleet.cluster.servers
        case Role.WORKER:
            return fleet.workers
        case Role.DAEMON:
            return fleet.daemons


def _opposite(fleet: Fleet, fault: Fault) -> Machine:
    """Return the machine that an isolated one does not reach."""
    machines = [server.machine for server in fleet.cluster.servers]
    if fault.role is not Role.SERVER:
        return machines[0]
    others = [each for number, each in enumerate(machines) if number not in fault.numbers]
    return others[0] if others else fleet.operator
