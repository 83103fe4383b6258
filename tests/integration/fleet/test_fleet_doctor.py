"""``wasmdrop doctor`` of a daemon with a fleet."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fleet.secure import SecureFleet, secure_fleet
from wasmdrop.fleet.names import input_stream, job_stream
from wasmdrop.service.doctor.finding import Finding, Severity
from wasmdrop.service.doctor.fleet import examine
from wasmdrop.settings import load


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureFleet]:
    """Give a fleet of two daemons and one pool."""
    with secure_fleet(tmp_path_factory.mktemp("fleet"), ["d", "e"], ["p"]) as fleet:
        yield fleet


def diagnose(fleet: SecureFleet, user: str = "daemon-d", **changed: str) -> dict[str, Finding]:
    """Return the findings by their checks, of a daemon with these settings."""
    names = {"WASMDROP_FLEET_NAME": "d", "WASMDROP_FLEET_POOL": "p"}
    settings = load(fleet.environment(user) | names | changed, {}).settings
    return {finding.check: finding for finding in asyncio.run(examine(settings))}


def test_doctor_tries_what_a_daemon_does_with_its_fleet(fleet: SecureFleet) -> None:
    """And leaves nothing behind."""
    found = diagnose(fleet)
    assert {check: finding.status for check, finding in found.items()} == {
        "server": Severity.OK,
        "streams": Severity.OK,
        "deterministic jobs": Severity.WARNING,
        "workers": Severity.WARNING,
        "round trip": Severity.OK,
        "cancellation": Severity.OK,
    }
    assert "wasmdrop fleet init --wasmtime" in found["deterministic jobs"].advice
    assert "wasmdrop work" in found["workers"].advice

    async def messages() -> Any:
        async with fleet.connected("admin") as admin:
            return (await admin.api(f"STREAM.INFO.{input_stream('d')}"))["state"]["messages"]

    assert asyncio.run(messages()) == 0


def test_doctor_sees_a_worker_that_waits_for_jobs(fleet: SecureFleet) -> None:
    """By its request, which the server has."""

    async def run() -> Finding:
        async with fleet.connected("pool-p") as worker:
            waiting = asyncio.create_task(worker.fetch(job_stream("p"), "any", 60))
            while True:
                found = await asyncio.to_thread(diagnose, fleet)
                if found["workers"].status is Severity.OK:
                    break
            waiting.cancel()
            return found["workers"]

    assert asyncio.run(run()).found == "1 requests for jobs wait, 0 jobs are leased"


@pytest.mark.parametrize(
    ("user", "changed", "check", "found", "advice"),
    [
        ("daemon-d", {"WASMDROP_FLEET_POOL": "x"}, "streams", "no pool x", "init --pool x"),
        ("daemon-e", {}, "rights", "does not allow this key", "key that `wasmdrop fleet config`"),
        ("daemon-d", {"WASMDROP_FLEET_KEY": "/x"}, "settings", "no such file", "make the file"),
        (
            "daemon-d",
            {"WASMDROP_FLEET": "tls://127.0.0.1:1", "WASMDROP_FLEET_FALLBACK": "wait"},
            "server",
            "jobs wait",
            "start the server",
        ),
        (
            "daemon-d",
            {"WASMDROP_FLEET_CA": "", "WASMDROP_FLEET_FALLBACK": "wait"},
            "server",
            "not trusted",
            "WASMDROP_FLEET_CA",
        ),
    ],
    ids=["pool", "key-of-another", "no-key", "away", "other-authority"],
)
def test_doctor_names_what_a_daemon_lacks_in_its_fleet(
    fleet: SecureFleet, user: str, changed: dict[str, str], check: str, found: str, advice: str
) -> None:
    """And what to do about it."""
    finding = diagnose(fleet, user, **changed)[check]
    assert finding.status is Severity.PROBLEM
    assert found in finding.found
    assert advice in finding.advice
