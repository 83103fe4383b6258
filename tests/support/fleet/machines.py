"""A whole fleet: servers, workers and daemons, each on a machine of its own."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.daemon import DEADLINE_SECONDS, JOB_USER, environment, wait_until
from tests.support.durability.checker import open_count
from tests.support.durability.lives import Lives
from tests.support.fleet import observer
from tests.support.fleet.cluster import Cluster
from tests.support.fleet.network import Machine, network

_WORKERS: Final = 3
_SLOTS: Final = 4

_MANY_JOBS: Final = 10

#: Restarts of a program that ends by itself which no fault explains.
_MANY_RESTARTS: Final = 50

#: Users of jobs: one for each process that runs jobs, see JOB_USER.
_FIRST_USER: Final = 61110
_USERS: Final = 74


class Worker:
    """``wasmdrop work`` with a state directory of its own, below ``base``.

    ``machine``: where it runs; None for the machine of the test itself.
    """

    def __init__(self, base: Path, machine: Machine | None, variables: dict[str, str]) -> None:
        self.base = base
        self._machine = machine
        self.name = base.name
        self.process: subprocess.Popen[bytes] | None = None
        self.restarts = 0
        """How often it ended by itself and was started again."""
        self._state = base / "state"
        self._log = base / "log"
        self._environment = environment(
            WASMDROP_STATE_DIR=str(self._state),
            WASMDROP_FLEET_NAME=self.name,
            WASMDROP_WORKERS=str(_SLOTS),
            WASMDROP_LOG="json",
            **variables,
        )
        base.mkdir(parents=True)

    @property
    def machine(self) -> Machine:
        """The machine that it was given."""
        assert self._machine is not None
        return self._machine

    def launch(self) -> None:
        """Start the worker without waiting."""
        prefix = () if self._machine is None else self._machine.prefix
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "wasmdrop", "work"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )

    def kill(self) -> None:
        """End the worker with SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(DEADLINE_SECONDS)
        self.process = None

    def wipe(self) -> None:
        """Delete the modules that the worker keeps. It must not run."""
        assert self.process is None
        shutil.rmtree(self._state, ignore_errors=True)

    def stop(self) -> int:
        """End the worker with SIGTERM; return its exit status."""
        assert self.process is not None
        process, self.process = self.process, None
        process.terminate()
        return process.wait(DEADLINE_SECONDS)

    def signal(self, number: int) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def tend(self) -> None:
        """Start the worker again if it ended by itself, as a supervisor does."""
        if self.process is not None and self.process.poll() is not None:
            self.restarts += 1
            self.launch()

    def log_text(self) -> str:
        """Return the whole log."""
        return self._log.read_text() if self._log.exists() else ""

    def events(self) -> list[dict[str, Any]]:
        """Return the logged events."""
        return events_in(self.log_text())


class FleetDaemon(Lives):
    """A daemon of the fleet that dies and is started again."""

    def __init__(self, base: Path, machine: Machine, variables: dict[str, str]) -> None:
        super().__init__(base, WASMDROP_FLEET_NAME=base.name, WASMDROP_LOG="json", **variables)
        self.base = base
        self.name = base.name
        self.restarts = 0
        """How often it ended by itself and was started again."""
        self.machine = machine
        self.prefix = machine.prefix

    def kill(self) -> None:
        """Kill the daemon with SIGKILL, and record the jobs that it had accepted."""
        super().kill()
        self.process = None

    def stop(self) -> int:
        """End the daemon with SIGTERM; return its exit status."""
        status = super().stop()
        self.witness()
        self.process = None
        return status

    def signal(self, number: int) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def tend(self) -> None:
        """Start the daemon again if it ended by itself, as a supervisor does."""
        if self.process is not None and self.process.poll() is not None:
            self.note_death()
            self.restarts += 1
            self.launch()

    def logs(self) -> str:
        """Return the logs of all lives."""
        paths = sorted(self._base.glob("log-*"), key=lambda path: path.stat().st_mtime_ns)
        return "".join(path.read_text() for path in paths)


@dataclass(frozen=True)
class Fleet:
    """The machines."""

    cluster: Cluster
    workers: Sequence[Worker]
    daemons: Sequence[FleetDaemon]
    operator: Machine
    """Where commands are run."""
    begun: Path
    """The tickets of the runs that an observer saw begin, a line for each."""

    @property
    def nodes(self) -> list[Worker | FleetDaemon]:
        """Workers and daemons."""
        return [*self.workers, *self.daemons]

    def tend(self) -> None:
        """Start what ended by itself."""
        for node in self.nodes:
            node.tend()
            assert node.restarts < _MANY_RESTARTS, f"{node.name} ends again and again"

    def is_busy(self) -> bool:
        """Whether each daemon has many open jobs."""
        return all(open_count(daemon.state) >= _MANY_JOBS for daemon in self.daemons)

    def set_up(self) -> None:
        """Make streams and consumers; again until it works."""
        reasons: list[str] = []

        def is_set_up() -> bool:
            reason = self.cluster.set_up(self.operator)
            reasons.append(reason or "")
            return reason is None

        try:
            wait_until(is_set_up, "streams and consumers")
        except AssertionError as error:
            raise AssertionError(f"{error}: {reasons[-1]}") from None


@contextlib.contextmanager
def fleet(
    base: Path, *, servers: int, daemons: Mapping[str, Mapping[str, str]], workers: int = _WORKERS
) -> Iterator[Fleet]:
    """Give a running fleet; ``daemons``: further variables of each, by name."""
    with network() as net:
        machines = [net.machine(f"server{number}") for number in range(servers)]
        cluster = Cluster(base, machines, list(daemons))
        users = (
            {"WASMDROP_JOB_USER": str(_FIRST_USER + (JOB_USER - _FIRST_USER + number) % _USERS)}
            for number in range(1, _USERS)
        )
        made = Fleet(
            cluster,
            [
                Worker(
                    base / name,
                    net.machine(name),
                    cluster.variables("pool-default") | next(users),
                )
                for name in (f"worker{number}" for number in range(workers))
            ],
            [
                FleetDaemon(
                    base / name,
                    net.machine(name),
                    cluster.variables(f"daemon-{name}") | next(users) | dict(variables),
                )
                for name, variables in daemons.items()
            ],
            net.machine("operator"),
            base / "begun",
        )
        observers = contextlib.ExitStack()
        try:
            cluster.start()
            made.set_up()
            for daemon in made.daemons:
                observers.enter_context(_observed(made, daemon))
            for worker in made.workers:
                worker.launch()
            for daemon in made.daemons:
                daemon.start()
            yield made
        finally:
            observers.close()
            cluster.kill()
            for node in made.nodes:
                if node.process is not None:
                    node.kill()


@contextlib.contextmanager
def _observed(made: Fleet, daemon: FleetDaemon) -> Iterator[None]:
    command = (sys.executable, "-m", observer.__name__, daemon.name, str(made.begun))
    process = subprocess.Popen(
        [*made.operator.prefix, *command],
        env=environment(**made.cluster.variables(f"daemon-{daemon.name}")),
        stdout=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def events_in(text: str) -> list[dict[str, Any]]:
    """Return the events of a log."""
    whole = text.rpartition("\n")[0]  # the last line may be half written
    return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
