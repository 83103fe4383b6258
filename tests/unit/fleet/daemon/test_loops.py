"""The tasks of a daemon with a fleet: none ends because of a fault, all end at the stop."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.fleet.doubles import FakeFleet, FakeLease, settle
from wasmdrop.fleet.daemon.loops import Loops
from wasmdrop.fleet.errors import FleetUnavailableError
from wasmdrop.fleet.messages import DaemonHeartbeat, Revocation, Started, decode, encode
from wasmdrop.fleet.names import (
    daemon_heartbeat_subject,
    job_subject,
    outcome_subject,
    revocation_subject,
    started_subject,
)
from wasmdrop.protocol.runtime_versions import own_versions

Scenario = Callable[[FakeFleet, Loops], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Scenario], None]:
    """Return a function that plays a scenario with started loops."""

    def run(scenario: Scenario) -> None:
        async def main() -> None:
            fleet = FakeFleet(tmp_path)
            loops = Loops(fleet.fleet, fleet.executor, fleet.reconciler, 4)
            await loops.start()
            await scenario(fleet, loops)
            await loops.stop()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())

    return run


def test_loops_take_no_answer_before_all_open_jobs_are_known(
    play: Callable[[Scenario], None],
) -> None:
    """An answer to a job that is not known yet would be dropped as late."""

    async def scenario(fleet: FakeFleet, loops: Loops) -> None:
        await settle()
        assert fleet.connection.fetched == 0
        assert loops.heartbeat.heard_at is None
        running = fleet.begin()
        message = await fleet.published()
        data = fleet.answer_data(message, await fleet.ran(message))
        lease = FakeLease(outcome_subject("d", message.ticket), data)
        fleet.connection.leases.append(lease)
        loops.receive()
        await running
        assert loops.heartbeat.heard_at is not None
        fleet.executor.leave("job")
        await fleet.until(lambda: lease.is_acknowledged)

    play(scenario)


def test_loops_go_on_after_faults(play: Callable[[Scenario], None]) -> None:
    """Of the connection, which are no news, and of the program, which are logged."""

    async def scenario(fleet: FakeFleet, loops: Loops) -> None:
        running = fleet.begin()
        message = await fleet.published()
        data = fleet.answer_data(message, await fleet.ran(message))
        faults = [FleetUnavailableError("lost")] * 20 + [ValueError("a fault")] * 2
        lease = FakeLease(outcome_subject("d", message.ticket), data)
        fleet.connection.leases += [*faults, lease]
        loops.receive()
        await running

    with capture_logs() as logs:
        play(scenario)
    assert [log["event"] for log in logs] == ["fleet-step-failed"] * 2


def test_loops_acknowledge_what_is_left_at_the_stop(play: Callable[[Scenario], None]) -> None:
    """The results of these jobs are safe."""
    leases: list[FakeLease] = []

    async def scenario(fleet: FakeFleet, _loops: Loops) -> None:
        lease = FakeLease("s", b"")
        leases.append(lease)
        fleet.cleanup.acknowledge(lease)

    play(scenario)
    assert leases[0].is_acknowledged


def test_loops_tell_of_this_daemon_and_hear_of_workers(play: Callable[[Scenario], None]) -> None:
    """A heartbeat is sent at once; what workers begin is counted."""

    async def scenario(fleet: FakeFleet, _loops: Loops) -> None:
        running = fleet.begin()
        message = await fleet.published()
        subject = daemon_heartbeat_subject("d")
        await fleet.until(lambda: subject in fleet.connection.messages)
        heartbeat = decode(fleet.connection.messages[subject], DaemonHeartbeat)
        assert (heartbeat.daemon, heartbeat.window) == ("d", 4)
        hear = fleet.connection.subscriptions[started_subject("d")]
        hear(started_subject("d"), encode(Started(message.ticket, "w1", 1)))
        assert fleet.job().begun == 1
        fleet.answer(message, await fleet.ran(message))
        await running

    play(scenario)


def test_loops_report_a_second_daemon_of_the_same_name_once(
    play: Callable[[Scenario], None],
) -> None:
    """Each would take the answers of the other. Its own heartbeats are none."""

    async def scenario(fleet: FakeFleet, _loops: Loops) -> None:
        subject = daemon_heartbeat_subject("d")
        await fleet.until(lambda: subject in fleet.connection.messages)
        hear = fleet.connection.subscriptions[subject]
        hear(subject, fleet.connection.messages[subject])
        hear(subject, b"\xc1")
        twin = DaemonHeartbeat("d", "another", own_versions(), 4, 0, 0)
        for _ in range(3):
            hear(subject, encode(twin))

    with capture_logs() as logs:
        play(scenario)
    assert [log["event"] for log in logs] == ["fleet-name-taken"]


def revoked(fleet: FakeFleet) -> tuple[str, ...]:
    """Return the jobs of the last revocation, of which there must be one."""
    return decode(fleet.connection.messages[revocation_subject("p", "d")], Revocation).jobs


def test_loops_revoke_jobs_and_first_try_their_right_to(play: Callable[[Scenario], None]) -> None:
    """A server with an older configuration then says so, before a job is cancelled."""

    async def scenario(fleet: FakeFleet, _loops: Loops) -> None:
        await fleet.until(lambda: revocation_subject("p", "d") in fleet.connection.messages)
        assert revoked(fleet) == ()
        fleet.revocations.revoke("job")
        await fleet.until(lambda: revoked(fleet) == ("job",))

    play(scenario)


def test_loops_leave_the_jobs_of_a_second_daemon_alone(play: Callable[[Scenario], None]) -> None:
    """They are in the stream under the same name, and this daemon does not know them."""

    async def scenario(fleet: FakeFleet, _loops: Loops) -> None:
        await fleet.until(lambda: revocation_subject("p", "d") in fleet.connection.messages)
        subject = daemon_heartbeat_subject("d")
        hear = fleet.connection.subscriptions[subject]
        hear(subject, encode(DaemonHeartbeat("d", "another", own_versions(), 4, 0, 0)))
        fleet.connection.there = {job_subject("p", "any", "d", "theirs", 1, 0)}
        for _ in range(3):
            await fleet.reconciler.compare()
        await settle()
        assert revoked(fleet) == ()

    play(scenario)


def test_loops_report_what_the_fleet_lacks(play: Callable[[Scenario], None]) -> None:
    """And whether it has a queue for deterministic jobs of this wasmtime."""

    async def scenario(fleet: FakeFleet, _loops: Loops) -> None:
        fleet.connection.consumers.clear()
        await fleet.until(lambda: not fleet.executor.has_own_engine)
        assert "no pool p" in fleet.availability.lack

    with capture_logs() as logs:
        play(scenario)
    reasons = [log["reason"] for log in logs if log["event"] == "fleet-incomplete"]
    assert len(reasons) == 3
    assert all("wasmdrop fleet init" in reason for reason in reasons)
