"""``wasmdrop fleet``, from nothing to streams with rights."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.certificates import server_certificate
from tests.support.commands import command
from tests.support.daemon import environment
from tests.support.fleet.server import NATS_SERVER, Server, running_server

MEMBERS: Final = ("--daemon", "one", "--daemon", "two", "--pool", "p", "--pool", "q")
SIZES: Final = ("--jobs-mb", "64", "--outcomes-mb", "64", "--modules-mb", "64", "--inputs-mb", "64")


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command with these variables; its output is no terminal."""
    return subprocess.run(
        command("fleet", *words),
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Give a server without accounts."""
    with running_server(tmp_path / "nats") as server:
        yield server


def test_fleet_config_init_and_status_work_with_tls_keys_and_accounts(tmp_path: Path) -> None:
    """The commands of the manual, in their order."""
    server_certificate(tmp_path, "127.0.0.1")
    chain, keys = str(tmp_path / "server.pem"), tmp_path / "keys"
    server = Server(tmp_path / "nats")
    made = run(
        *("config", "--keys", str(keys), *MEMBERS, "--listen", f"127.0.0.1:{server.port}"),
        *("--store", str(tmp_path / "store"), "--tls-cert", chain, "--tls-key", chain),
    )
    assert made.returncode == 0, made.stderr
    names = ["admin", "daemon-one", "daemon-two", "pool-p", "pool-q"]
    assert sorted(path.name for path in keys.iterdir()) == [f"{name}.nk" for name in names]
    assert {path.stat().st_mode & 0o777 for path in keys.iterdir()} == {0o600}
    assert not any(path.read_text().strip() in made.stdout for path in keys.iterdir())

    config = tmp_path / "nats-server.conf"
    config.write_text(made.stdout)
    with subprocess.Popen([NATS_SERVER, "-c", config], stderr=subprocess.DEVNULL) as process:
        try:
            variables = {
                "WASMDROP_FLEET": f"tls://127.0.0.1:{server.port}",
                "WASMDROP_FLEET_CA": str(tmp_path / "authority.pem"),
            }
            admin = variables | {"WASMDROP_FLEET_KEY": str(keys / "admin.nk")}
            daemon = variables | {"WASMDROP_FLEET_KEY": str(keys / "daemon-one.nk")}
            worker = variables | {"WASMDROP_FLEET_KEY": str(keys / "pool-p.nk")}
            init = run("init", *MEMBERS, **admin)
            assert init.returncode == 0, init.stderr
            for user in (admin, daemon):
                shown = run("status", "--json", "--listen-sec", "0.1", **user)
                assert shown.returncode == 0, shown.stderr
                status = json.loads(shown.stdout)
                assert {one["pool"] for one in status["queues"]} == {"p", "q"}
                assert {one["daemon"] for one in status["outcomes"]} == {"one", "two"}
            for words in (("status", "--listen-sec", "0.1"), ("init", *MEMBERS)):
                refused = run(*words, **worker)
                assert refused.returncode == 1
                assert "does not allow this key" in refused.stderr
                assert refused.stderr.count("\n") == 1
        finally:
            process.kill()


def test_fleet_config_keeps_keys_that_are_there(tmp_path: Path) -> None:
    """A member that is added later changes no other one."""
    words = ("config", "--accounts", "--keys", str(tmp_path / "keys"), "--pool", "p")
    first = run(*words, "--daemon", "one")
    second = run(*words, "--daemon", "one", "--daemon", "two")
    assert (first.returncode, second.returncode) == (0, 0)
    before, after = (json.loads(each.stdout)["accounts"] for each in (first, second))
    assert before["DAEMON_one"] == after["DAEMON_one"]
    assert after["DAEMON_two"]["users"] != after["DAEMON_one"]["users"]
    assert second.stderr == f"wasmdrop: {tmp_path}/keys/daemon-two.nk: made\n"


def test_fleet_config_gives_a_worker_a_key_of_its_own(tmp_path: Path) -> None:
    """In the account of its pool, which must be named, too."""
    words = ("config", "--accounts", "--keys", str(tmp_path / "keys"), "--daemon", "one")
    made = run(*words, "--pool", "p", "--worker", "p/w")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "keys" / "worker-p.w.nk").exists()
    assert len(json.loads(made.stdout)["accounts"]["WORKERS_p"]["users"]) == 2
    refused = run(*words, "--pool", "p", "--worker", "q/w")
    assert refused.returncode == 2
    assert refused.stderr == "wasmdrop: --worker q/w: expected a pool that --pool names\n"


def test_fleet_config_refuses_a_file_that_is_no_key(tmp_path: Path) -> None:
    """Its content, which may be a secret, is not shown."""
    (tmp_path / "admin.nk").write_text("secret")
    refused = run("config", "--keys", str(tmp_path), "--daemon", "one")
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"wasmdrop: {tmp_path}/admin.nk: it is no seed")
    assert "secret" not in refused.stderr


def test_fleet_init_makes_what_is_missing_and_changes_what_it_is_told(server: Server) -> None:
    """Sizes that are not given stay."""
    fleet = {"WASMDROP_FLEET": server.url}
    first = run("init", "--daemon", "one", *SIZES, "--outputs-mb", "64", **fleet)
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert all(line.endswith(": created") for line in lines)
    assert "WD1_OUTCOMES_one d-one: created" in lines

    again = run("init", "--daemon", "one", **fleet)
    assert again.stdout == first.stdout.replace(": created", ": unchanged")

    changed = run("init", "--daemon", "two", "--jobs-mb", "65", "--wasmtime", "1.2.3", **fleet)
    assert changed.returncode == 0, changed.stderr
    became = dict(line.split(": ") for line in changed.stdout.splitlines())
    assert became["WD1_JOBS_default"] == "updated"
    assert became["WD1_JOBS_default p1-1_2_3"] == "created"
    assert became["WD1_MODULES"] == "unchanged"
    assert became["WD1_INPUTS_two"] == "created"

    shown = run("status", "--listen-sec", "0.1", **fleet)
    assert shown.returncode == 0, shown.stderr
    assert any(
        line.split() == ["WD1_JOBS_default", "0", "0", "65", "1"]
        for line in shown.stdout.splitlines()
    )


def test_fleet_init_refuses_a_version_that_no_worker_has() -> None:
    """It would make a queue that no worker serves."""
    refused = run("init", "--wasmtime", "50.*")
    assert refused.returncode == 2
    assert "expected a version such as 50.0.1, got 50.*" in refused.stderr


def test_fleet_init_without_room_on_the_server_says_so(server: Server) -> None:
    """The server reserves the size of each stream on its disk."""
    refused = run("init", "--daemon", "one", "--jobs-mb", "800000000", WASMDROP_FLEET=server.url)
    assert refused.returncode == 1
    assert "max_file_store" in refused.stderr
    assert "--jobs-mb" in refused.stderr


@pytest.mark.parametrize(
    ("variables", "status", "text"),
    [
        ({}, 2, "WASMDROP_FLEET: expected the server's address, got off"),
        ({"WASMDROP_FLEET": "nats://192.0.2.1"}, 2, "WASMDROP_FLEET_KEY"),
    ],
    ids=["no-fleet", "no-key"],
)
def test_fleet_status_without_what_it_needs_says_so(
    variables: dict[str, str], status: int, text: str
) -> None:
    """At once, and in one line."""
    refused = run("status", **variables)
    assert refused.returncode == status
    assert text in refused.stderr
    assert refused.stderr.count("\n") == 1
