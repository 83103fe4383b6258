"""Jobs that are cancelled while they are in the fleet: real servers, daemons and workers."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, descendants_of, wait_until
from tests.support.fleet.secure import SecureFleet, secure_fleet
from tests.support.fleet.worker import (
    ADD,
    DAEMON,
    POOL,
    SPIN,
    SPIN_CALL,
    HandmadeDaemon,
    Worker,
    add_call,
)
from wasmdrop.fleet.admin.server_config import PublicKeys, accounts
from wasmdrop.fleet.messages import JobMessage, Withdrawal, encode
from wasmdrop.fleet.names import (
    WITHDRAWALS,
    engine_class,
    outcome_stream,
    outcomes_filter,
    withdrawal_subject,
)
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.runtime_versions import own_versions
from wasmdrop.service.doctor.finding import Severity
from wasmdrop.service.doctor.fleet import examine
from wasmdrop.settings import load

ENDLESS = Limits(timeout_sec=3600)

#: Processor time that only a child that runs ``spin`` takes, in ticks of the kernel.
_BUSY_TICKS = 30


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureFleet]:
    """Give a server with keys and the accounts of this version."""
    with secure_fleet(tmp_path_factory.mktemp("fleet"), [DAEMON], [POOL]) as it:
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


def test_worker_kills_the_child_of_a_withdrawn_job_and_drops_a_queued_one(
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

            async def withdraw(*messages: JobMessage) -> None:
                jobs = tuple(message.job for message in messages)
                await connection.publish(withdrawal_subject(POOL, DAEMON), encode(Withdrawal(jobs)))

            running = await daemon.publish(module, SPIN_CALL, ENDLESS)
            await daemon.until_started(running)
            queued = await daemon.publish(module, SPIN_CALL, ENDLESS)
            children = await asyncio.to_thread(spinning, worker)
            await withdraw(queued, running)
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
        withdrawn = worker.until_logged("job-withdrawn", 2)
        assert {event["daemon"] for event in withdrawn} == {DAEMON}
    assert list(worker.state.glob("jobs/*/*")) == []


def old_accounts(keys: PublicKeys) -> dict[str, Any]:
    """Return the accounts as a version without withdrawals made them."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(one) for key, one in value.items()}
        if isinstance(value, list):
            return [without(one) for one in value if WITHDRAWALS not in str(one) or "nkey" in one]
        return value

    found: dict[str, Any] = without(accounts(keys))
    assert WITHDRAWALS not in str(found)
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
            content = {"module": "add", "entry": "add", "args": [1, 2]}
            marker = daemon.submit("input-a.json", content)
            assert (marker["code"], marker["worker"]) == ("ok", "w")
        assert len(daemon.events("fleet-outdated")) == 1
