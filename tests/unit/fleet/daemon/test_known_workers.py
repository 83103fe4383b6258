"""The workers that a daemon knows from heartbeats, honest ones and others."""

import msgspec

from tests.unit.fleet.worker.fakes import Clock
from wasmdrop.fleet.daemon.known_workers import KnownWorkers
from wasmdrop.fleet.messages import WorkerHeartbeat, encode
from wasmdrop.fleet.names import heartbeat_subject
from wasmdrop.protocol.runtime_versions import RuntimeVersions

HEARTBEAT = WorkerHeartbeat(
    worker="w1",
    pool="p",
    engine="any",
    runtime=RuntimeVersions("1", "46", "linux-x86_64"),
    protocols=(1,),
    slots=4,
    running=3,
    done=7,
    started_at_ns=1_000_000_000,
)


def hear(known: KnownWorkers, sender: str = "p", **changes: object) -> None:
    """Have a heartbeat received."""
    heartbeat = msgspec.structs.replace(HEARTBEAT, **changes)
    known.take(heartbeat_subject(sender, heartbeat.worker), encode(heartbeat))


def known_workers() -> tuple[KnownWorkers, Clock]:
    """Return an object that has heard of no worker, and its clock."""
    clock = Clock()
    return KnownWorkers(clock, lambda: 61_000_000_000), clock


def test_workers_are_known_with_their_last_heartbeat_by_pool_and_name() -> None:
    """The pool is that of the subject: the server lets no worker send under another one."""
    known, clock = known_workers()
    hear(known, "q", worker="w0", pool="p")
    hear(known, worker="w2")
    hear(known)
    clock.seconds += 4
    hear(known, running=2)
    workers = known.now()
    assert [(one.pool, one.name) for one in workers] == [("p", "w1"), ("p", "w2"), ("q", "w0")]
    first = workers[0]
    assert (first.slots, first.running, first.done) == (4, 2, 7)
    assert (first.up_seconds, first.seen_seconds, workers[1].seen_seconds) == (60, 0, 4)
    assert (first.wasmdrop, first.wasmtime, first.platform) == ("1", "46", "linux-x86_64")


def test_worker_that_is_silent_is_forgotten() -> None:
    """It has ended, or is cut off."""
    known, clock = known_workers()
    hear(known)
    clock.seconds += 29
    hear(known, worker="w2")
    clock.seconds += 2
    assert [one.name for one in known.now()] == ["w2"]


def test_hostile_heartbeats_are_bounded() -> None:
    """In their number, in their texts, and in time."""
    known, clock = known_workers()
    known.take(heartbeat_subject("p", "w"), b"\xc1")
    runtime = RuntimeVersions("\x1b[31m" * 1000, "<b>" * 1000, "a\nb")
    hear(known, runtime=runtime, started_at_ns=1 << 62)
    worker = known.now()[0]
    assert worker.up_seconds == 0
    for text in (worker.wasmdrop, worker.wasmtime, worker.platform):
        assert len(text) <= 64
        assert text.isprintable()
    for number in range(2000):
        hear(known, worker=f"x{number}")
    assert len(known.now()) == 1000
    clock.seconds += 31
    hear(known, worker="honest")
    assert [one.name for one in known.now()] == ["honest"]
