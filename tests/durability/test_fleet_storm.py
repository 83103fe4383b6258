"""The short form of the storm on a fleet; ``make torture-fleet`` runs the long one."""

import os
from pathlib import Path
from typing import Final

from tests.support.fleet.faults import Fault, Kind, Role, Step, schedule
from tests.support.fleet.storm import Plan, storm
from tests.support.require import require_network_namespaces

#: One fault of each kind that counts, a few at the same time.
_STEPS: Final = [
    Step((Fault(Kind.KILL, Role.WORKER, (0,), 2),), 1),
    Step((Fault(Kind.KILL, Role.DAEMON, (1,), 1), Fault(Kind.STOP, Role.WORKER, (1,), 3)), 1),
    Step((Fault(Kind.KILL, Role.SERVER, (0,), 2),), 1),
    Step((Fault(Kind.UNPLUG, Role.DAEMON, (0,), 11),), 1),
    Step(
        (
            Fault(Kind.STOP, Role.WORKER, (0, 1, 2), 1),
            Fault(Kind.WIPE, Role.SERVER, (0, 1, 2), 1),
            Fault(Kind.KILL, Role.DAEMON, (0,), 1),
        ),
        0,
    ),
    Step((Fault(Kind.WIPE, Role.WORKER, (2,), 1),), 1),
]


def test_storm_on_a_fleet_loses_doubles_and_tears_nothing(tmp_path: Path) -> None:
    """A kill of each role, a partition, and servers that lose their disks."""
    require_network_namespaces()
    seed = int(os.environ.get("WASMDROP_TORTURE_SEED", "1"))
    report = storm(tmp_path, Plan(seed, 300, _STEPS))
    print(report)  # noqa: T201 - with a failure, what led to it
    assert report.findings == []
    # Without streams, a daemon tells its operator to set the servers up again.
    assert {name.partition(": ")[2] for name in report.errors} <= {"fleet-incomplete"}
    assert report.drops == 300
    workers = {name for name in report.by_worker if name.startswith("worker")}
    assert len(workers) == 3


def test_schedule_is_determined_by_its_seed_and_has_every_kind_of_fault() -> None:
    """Of each role; and all servers lose their disks."""
    sizes = {Role.SERVER: 3, Role.WORKER: 3, Role.DAEMON: 2}
    steps = schedule(1, 10, sizes)
    assert steps == schedule(1, 10, sizes)
    assert steps != schedule(2, 10, sizes)
    faults = [fault for step in steps for fault in step.faults]
    hit = {(fault.kind, fault.role, len(fault.numbers)) for fault in faults}
    everywhere = Kind.KILL, Kind.STOP, Kind.UNPLUG, Kind.FLAP, Kind.ISOLATE
    assert hit >= {(kind, role, 1) for kind in everywhere for role in Role}
    assert (Kind.WIPE, Role.SERVER, 3) in hit
