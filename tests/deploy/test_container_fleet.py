"""A fleet in containers: the services of compose.fleet.yaml, run by a real engine."""

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from wasmtime import wat2wasm

from tests.support.daemon import drop, wait_until
from tests.support.deploy.base import ROOT
from tests.support.deploy.engine import IMAGE, Engine
from tests.support.fib import FIB
from tests.support.fleet.server import NATS_SERVER

USER: Final = 1000

#: Ports for health checks, because the services share a network here.
PORTS: Final = {"daemon": 9464, "worker-1": 9465, "worker-2": 9466}


def composed() -> dict[str, Any]:
    """Return the compose file."""
    found = yaml.safe_load((ROOT / "compose.fleet.yaml").read_text())
    assert isinstance(found, dict)
    return found


def test_compose_file_of_a_fleet_gives_each_service_one_key() -> None:
    """As hardened as the plain file, and only the first service sees all keys."""
    services = composed()["services"]
    plain = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["wasmdrop"]
    shared = (
        *("image", "init", "user", "read_only", "cap_drop", "cap_add", "security_opt", "tmpfs"),
        *("pids_limit", "mem_limit", "stop_grace_period"),
    )
    for name in services.keys() - {"nats"}:
        assert {key: services[name][key] for key in shared} == {key: plain[key] for key in shared}
    assert set(plain["volumes"]) <= set(services["daemon"]["volumes"])
    assert services["nats"]["read_only"] is True
    assert services["nats"]["cap_drop"] == ["ALL"]
    assert "cap_add" not in services["nats"]
    mounted = {
        name: [volume for volume in service["volumes"] if "/fleet" in volume]
        for name, service in services.items()
    }
    assert mounted == {
        "keys": ["./host/fleet:/fleet:z"],
        "nats": ["./host/fleet/nats:/etc/nats:ro,z"],
        "streams": ["./host/fleet/admin:/run/fleet:ro,z"],
        "daemon": ["./host/fleet/daemon:/run/fleet:ro,z"],
        "worker-1": ["./host/fleet/pool:/run/fleet:ro,z"],
        "worker-2": ["./host/fleet/pool:/run/fleet:ro,z"],
    }
    assert services["keys"]["network_mode"] == "none"
    tag = services["nats"]["image"].removeprefix("nats:").split("-")[0]
    assert tuple(map(int, tag.split("."))) >= (2, 14, 3)


class Composed:
    """The services in one pod, whose loopback interface is their network.

    Left out is what the engine can't do here (limits, ports, networks). The server runs from the
    image of this project: no registry is at hand.
    """

    def __init__(self, podman: Engine, base: Path) -> None:
        self._podman = podman
        self._base = base
        self._services = composed()["services"]
        (base / "hosts").write_text("127.0.0.1 localhost nats\n")
        podman.podman("pod", "create", "--name=fleet", "--network=none")

    def run(self, name: str, *options: str) -> str:
        """Run a service to its end, or with ``--detach``; return what it prints."""
        service = self._services[name]
        words = [f"--name=fleet-{name}", "--user=0:0", "--pod=fleet", "--no-hosts"]
        words += [f"--cap-drop={one}" for one in service["cap_drop"]]
        words += [f"--cap-add={one}" for one in service.get("cap_add", ())]
        words += [f"--security-opt={one}" for one in service["security_opt"]]
        words += [f"--tmpfs={one}" for one in service.get("tmpfs", ())]
        words += ["--read-only"] if service["read_only"] else []
        words += ["--init"] if service.get("init") else []
        for variable, value in service.get("environment", {}).items():
            words.append(f"--env={variable}={value}")
        if port := PORTS.get(name):
            words.append(f"--env=WASMDROP_HTTP=127.0.0.1:{port}")
            words.append(f"--health-cmd={json.dumps(service['healthcheck']['test'][1:])}")
        for volume in (f"{self._base}/hosts:/etc/hosts:ro", *service["volumes"]):
            words.append(f"--volume={volume.replace('./', f'{self._base}/', 1)}")
        if "working_dir" in service:
            words.append(f"--workdir={service['working_dir']}")
        entrypoint = service.get("entrypoint", [])
        if not service["image"].startswith("wasmdrop"):
            words.append(f"--volume={NATS_SERVER.resolve()}:/usr/local/bin/nats-server:ro")
            entrypoint = ["nats-server"]
        if entrypoint:
            words.append(f"--entrypoint={json.dumps(entrypoint)}")
        command = [word.replace("$$", "$") for word in service["command"]]
        done = self._podman.podman("run", *options, *words, IMAGE, *command)
        return done.stdout

    def is_ready(self, name: str) -> bool:
        """Return whether a service has logged that it is ready."""
        log = self._podman.podman("logs", f"fleet-{name}").stderr
        state = self._podman.podman("inspect", "--format={{.State.Status}}", f"fleet-{name}")
        assert state.stdout.strip() == "running", log
        return '"event":"ready"' in log


@pytest.fixture
def base(tmp_path: Path, podman: Engine) -> Iterator[Path]:
    """Give the folders of the compose file as in a clone of a user."""
    for directory in (*tmp_path.parents[:2], tmp_path):
        directory.chmod(0o755)
    for name in ("fleet", "shared", "wasm"):
        (tmp_path / "host" / name).mkdir(parents=True)
    for name in ("fleet", "shared", "wasm"):
        os.chown(tmp_path / "host" / name, USER, USER)
    yield tmp_path
    podman.clear()


def test_compose_file_of_a_fleet_runs_jobs_on_its_workers(podman: Engine, base: Path) -> None:
    """Keys, server, streams, daemon and workers, in the order of the file; then drops."""
    fleet = Composed(podman, base)
    fleet.run("keys")
    fleet.run("nats", "--detach")
    fleet.run("streams")
    for name in ("daemon", "worker-1", "worker-2"):
        fleet.run(name, "--detach")
    for name in ("daemon", "worker-1", "worker-2"):
        wait_until(partial(fleet.is_ready, name), name)
    drop(base / "host/wasm/module.wasm", bytes(wat2wasm(FIB)))
    shared = base / "host/shared"
    for number in range(10):
        drop(shared / f"input-{number}.json", {"entry": "fib", "args": [12]})
    for number in range(10):
        path = shared / f"result-{number}.done"
        wait_until(path.exists, path.name)
        marker = json.loads(path.read_text())
        assert path.stat().st_uid == USER
        assert marker["worker"] in {"worker-1", "worker-2"}, marker
        assert path.with_suffix(".txt").read_text().splitlines()[-1] == "144"
    assert (base / "host/fleet").stat().st_mode & 0o777 == 0o700
    command = ("wasmdrop", "fleet", "status", "--listen-sec=10")
    status = podman.podman("exec", "fleet-daemon", *command).stdout
    assert {"worker-1", "worker-2"} <= set(status.split())
    healthy = ("healthcheck", "run", "fleet-worker-1")
    wait_until(lambda: podman.podman(*healthy, check=False).returncode == 0, "the health check")
    podman.podman("stop", "--time=45", "fleet-worker-1")
    assert podman.podman("wait", "fleet-worker-1").stdout.strip() == "0"
