"""Jobs that are cancelled while they are in the fleet: real servers, daemons and workers."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import listed, run
from tests.support.daemon import Daemon, descendants_of, drop, wait_until
from tests.support.fleet.ready import connected, ready_server
from tests.support.fleet.secure import SecureFleet, secure_fleet
from tests.support.fleet.server import Server
from tests.support.fleet.worker import (
    ADD,
    DAEMON,
    POOL,
    SPIN,
    SPIN_CALL,
    HandmadeDaemon,
    Worker,
    add_call,
    until,
)
from wasmdrop.fleet.admin.server_config import PublicKeys, accounts
from wasmdrop.fleet.messages import JobMessage, Revocation, encode
from wasmdrop.fleet.names import (
    REVOCATIONS,
    daemon_jobs_filter,
    engine_class,
    job_stream,
    outcome_stream,
    outcomes_filter,
    revocation_subject,
)
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.runtime_versions import own_versions
from wasmdrop.service.doctor.finding import Severity
from wasmdrop.service.doctor.fleet import examine
from wasmdrop.settings import load

ENDLESS = Limits(timeout_sec=3600)
SPIN_INPUT = {"module": "spin", "entry": "spin"}
ADD_INPUT = {"module": "add", "entry": "add", "args": [1, 2]}

#: Processor time that only a child that runs ``spin`` takes, in ticks of the kernel.
_BUSY_TICKS = 30


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureFleet]:
    """Give a server with keys and the accounts of this version."""
    base = tmp_path_factory.mktemp("fleet")
    with secure_fleet(base, [DAEMON], [POOL], engines=[engine_class(own_versions())]) as it:
        yield it


def spinning(process: Daemon) -> list[int]:
    """Wait until children take processor time; return them."""
    assert process.process is not None
    pid = process.process.pid
    before = {child: _ticks(child) for child in descendants_of(pid)}

    def look() -> list[int]:
        return [
            child
            for child in descendants_of(pid)
            if _ticks(child) - before.get(child, 0) > _BUSY_TICKS
        ]

    return wait_until(look, "a child that spins")


def _ticks(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat.rpartition(")")[2].split()[11])


def until_gone(pids: list[int]) -> None:
    """Wait until none of these processes is there."""
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the end of a child")


def test_worker_kills_the_child_of_a_revoked_job_and_drops_a_queued_one(
    fleet: SecureFleet, tmp_path: Path
) -> None:
    """Neither is answered, both leave the stream, and the slot takes the next job."""
    worker = Worker(
        tmp_path / "w", fleet.server, **fleet.environment(f"pool-{POOL}"), WASMDROP_WORKERS="1"
    )

    async def play() -> None:
        async with fleet.connected(f"daemon-{DAEMON}") as connection:
            daemon = HandmadeDaemon(connection)
            await daemon.listen()
            module, add = await daemon.upload(SPIN), await daemon.upload(ADD)

            async def revoke(*messages: JobMessage) -> None:
                jobs = tuple(message.job for message in messages)
                await connection.publish(revocation_subject(POOL, DAEMON), encode(Revocation(jobs)))

            running = await daemon.publish(module, SPIN_CALL, ENDLESS)
            await daemon.until_started(running)
            queued = await daemon.publish(module, SPIN_CALL, ENDLESS)
            children = await asyncio.to_thread(spinning, worker)
            await revoke(queued, running)
            await daemon.until_done(running, queued)
            await asyncio.to_thread(until_gone, children)
            ran = await daemon.publish(add, add_call(1, 2))
            await daemon.ran(ran)
            assert daemon.started == [running.ticket, ran.ticket]
            stream = outcome_stream(DAEMON)
            answers = await connection.subjects(stream, outcomes_filter(DAEMON))
            assert [one.rpartition(".")[2] for one in answers] == [ran.ticket]

    with worker.running():
        asyncio.run(play())
        revoked = worker.until_logged("job-revoked", 2)
        assert {event["daemon"] for event in revoked} == {DAEMON}
    assert list(worker.state.glob("jobs/*/*")) == []


def old_accounts(keys: PublicKeys) -> dict[str, Any]:
    """Return the accounts as a version without revocations made them."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(one) for key, one in value.items()}
        if isinstance(value, list):
            return [without(one) for one in value if REVOCATIONS not in str(one) or "nkey" in one]
        return value

    found: dict[str, Any] = without(accounts(keys))
    assert REVOCATIONS not in str(found)
    return found


def test_server_with_older_accounts_is_a_warning_to_daemon_and_worker(tmp_path: Path) -> None:
    """Jobs run as ever; a cancelled one runs on at its worker."""
    engines = [engine_class(own_versions())]
    with secure_fleet(tmp_path / "fleet", [DAEMON], [POOL], old_accounts, engines) as fleet:
        worker = Worker(tmp_path / "w", fleet.server, **fleet.environment(f"pool-{POOL}"))
        daemon = Daemon(
            tmp_path / "daemon",
            WASMDROP_FLEET_NAME=DAEMON,
            **fleet.environment(f"daemon-{DAEMON}"),
        )
        (daemon.wasm / "add.wasm").write_bytes(ADD)
        with worker.running(), daemon.running():
            for process in (worker, daemon):
                (event,) = process.until_logged("fleet-outdated")
                assert event["level"] == "warning"
                assert "wasmdrop fleet config" in event["reason"]
            settings = load(daemon.environment, {}).settings
            findings = {one.check: one for one in asyncio.run(examine(settings))}
            finding = findings["cancellation"]
            assert finding.status is Severity.WARNING
            assert "wasmdrop fleet config" in finding.advice
            marker = daemon.submit("input-a.json", ADD_INPUT)
            assert (marker["code"], marker["worker"]) == ("ok", "w")
        assert len(daemon.events("fleet-outdated")) == 1


def drop_job(daemon: Daemon, slot: str, content: dict[str, Any]) -> bytes:
    """Drop an input; return its bytes."""
    data = json.dumps(content).encode()
    drop(daemon.shared / f"input-{slot}.json", data)
    return data


def open_jobs(daemon: Daemon, count: int) -> list[str]:
    """Wait until so many jobs are running or in the fleet; return their ids."""

    def look() -> list[str] | None:
        found = [one["job"] for one in listed(daemon, "--state", "running")]
        return found if len(found) == count else None

    return wait_until(look, f"{count} open jobs")


def until_in_stream(server: Server, stream: str, subjects: str, count: int) -> None:
    """Wait until a stream has so many messages of these subjects."""

    async def wait() -> None:
        async with connected(server) as connection:

            async def look() -> bool:
                return len(await connection.subjects(stream, subjects)) == count

            await until(look, f"{count} messages in {stream}")

    asyncio.run(wait())


def test_cancelled_job_ends_at_once_and_its_worker_kills_the_child(
    fleet: SecureFleet, tmp_path: Path
) -> None:
    """With keys and accounts; the next job of the slot runs on the same worker."""
    worker = Worker(
        tmp_path / "w", fleet.server, **fleet.environment(f"pool-{POOL}"), WASMDROP_WORKERS="1"
    )
    daemon = Daemon(
        tmp_path / "daemon",
        WASMDROP_FLEET_NAME=DAEMON,
        TIMEOUT_SEC="3600",
        **fleet.environment(f"daemon-{DAEMON}"),
    )
    for name, module in (("spin", SPIN), ("add", ADD)):
        (daemon.wasm / f"{name}.wasm").write_bytes(module)
    with worker.running(), daemon.running():
        data = drop_job(daemon, "a", SPIN_INPUT)
        children = spinning(worker)
        done = run(daemon, "cancel", *open_jobs(daemon, 1))
        assert done.returncode == 0, done
        marker = daemon.wait_for("input-a.json", data)
        assert (marker["code"], marker["worker"]) == ("cancelled", None)
        until_gone(children)
        marker = daemon.submit("input-a.json", ADD_INPUT)
        assert (marker["code"], marker["worker"]) == ("ok", "w")
    assert len(worker.events("job-revoked")) == 1


def test_jobs_cancelled_without_daemon_and_server_leave_the_fleet_when_both_are_back(
    tmp_path: Path,
) -> None:
    """One was answered, one runs on a worker, one waits. An earlier daemon published all of them.

    The test waits for two looks of the reconciler, which come every ten seconds.
    """
    jobs_there = job_stream(POOL), daemon_jobs_filter(POOL, DAEMON)
    answers_there = outcome_stream(DAEMON), outcomes_filter(DAEMON)
    with ready_server(tmp_path / "server", [DAEMON], [POOL]) as server:
        worker = Worker(tmp_path / "w", server, WASMDROP_WORKERS="1")
        daemon = Daemon(
            tmp_path / "daemon",
            WASMDROP_FLEET=server.url,
            WASMDROP_FLEET_NAME=DAEMON,
            WASMDROP_FLEET_FALLBACK="wait",
            TIMEOUT_SEC="3600",
        )
        for name, module in (("spin", SPIN), ("add", ADD)):
            (daemon.wasm / f"{name}.wasm").write_bytes(module)
        daemon.start()
        data: dict[str, bytes] = {}
        for slot, content in (("a", ADD_INPUT), ("b", SPIN_INPUT), ("c", SPIN_INPUT)):
            data[slot] = drop_job(daemon, slot, content)
            until_in_stream(server, *jobs_there, len(data))
        jobs = open_jobs(daemon, len(data))
        daemon.kill()
        with worker.running():
            until_in_stream(server, *answers_there, 1)
            children = spinning(worker)
            server.kill()
            done = run(daemon, "cancel", *jobs)
            assert done.returncode == 0, done
            with daemon.running():
                for slot, dropped in data.items():
                    assert daemon.wait_for(f"input-{slot}.json", dropped)["code"] == "cancelled"
                server.start()
                until_in_stream(server, *jobs_there, 0)
                until_gone(children)
                until_in_stream(server, *answers_there, 0)
        for process, event in ((worker, "job-revoked"), (daemon, "fleet-job-revoked")):
            revoked = {one["job"] for one in process.events(event)}
            assert revoked < set(jobs)
            assert len(revoked) == 2, event
