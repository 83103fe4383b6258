"""compose.yaml on an ordinary clone: the container runs as the owner of the folders."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml
from wasmtime import wat2wasm

from tests.support.daemon import drop, wait_until
from tests.support.deploy.base import ROOT, working_tree
from tests.support.deploy.compose import Compose
from tests.support.deploy.engine import IMAGE, Engine
from tests.support.fib import FIB

HEALTH_CHECK: Final = ["python", "-I", "-S", "/opt/wasmdrop/healthcheck.py"]

#: A container, prepared by the engine, in a user namespace like that of a rootless engine. The
#: engine can't make one here. The capabilities are those of compose.yaml.
ROOTLESS: Final = """\
container=$({engine} create {image})
root=$({engine} mount $container)
mount --bind {shared} $root/mnt/shared
mount --bind {wasm} $root/mnt/wasm
mount -t tmpfs none $root/tmp
mount --rbind /dev $root/dev
mount --rbind /proc $root/proc
unshare --user sleep 600 &
until [ "$(readlink /proc/$!/ns/user)" != "$(readlink /proc/self/ns/user)" ]; do sleep 0.01; done
for kind in uid gid; do printf '0 1000 1\\n1 100000 65536\\n' >/proc/$!/${{kind}}_map; done
status=0
cd $root
nsenter --user --target $! --setuid 0 --setgid 0 chroot . setpriv \\
    --inh-caps=-all --bounding-set=-all,{capabilities} --no-new-privs env {environment} \\
    wasmdrop run || status=$?
kill $!
cd /
{engine} umount $container >/dev/null
{engine} rm $container >/dev/null
exit $status
"""


@pytest.fixture
def clone(tmp_path: Path, podman: Engine) -> Iterator[Path]:
    """Give a clone of the project, for any user to enter, and the image by its usual name."""
    for parent in [tmp_path, *list(tmp_path.parents)[:2]]:
        parent.chmod(0o755)
    working_tree(tmp_path / "clone")
    podman.podman("tag", IMAGE, "wasmdrop")
    yield tmp_path / "clone"
    podman.clear()


def as_user(user: int, clone: Path, script: str) -> str:
    """Run a shell script in the clone as a user with a strict umask."""
    done = subprocess.run(
        ["sh", "-euc", f"umask 077; {script}"],
        cwd=clone,
        user=user,
        group=user,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (script, done.stdout, done.stderr)
    return done.stdout


def health(podman: Engine, name: str) -> str:
    """Run the health check once; return what the engine then says."""
    podman.podman("healthcheck", "run", name, check=False)
    state = "{{.State.Health.Status}}"
    return podman.podman("inspect", f"--format={state}", name).stdout.strip()


@pytest.mark.parametrize("user", [1000, 0])
def test_compose_file_runs_on_an_ordinary_clone(podman: Engine, clone: Path, user: int) -> None:
    """Of any user, without a variable: drops, results and commands work as that user."""
    for path in (clone, *clone.rglob("*")):
        os.chown(path, user, user)
    compose = Compose(podman, clone)
    compose.run("up", "--detach", "--no-build")
    name = compose.container("wasmdrop")
    drop(clone / "host/wasm/module.wasm", bytes(wat2wasm(FIB)))
    # Root shares no user with the daemon, so it must let others read what it drops.
    readable = "" if user else "umask 022; "
    as_user(
        user,
        clone,
        f"""{readable}mkdir host/shared/mine
        if [ $(id -u) = 0 ]; then chmod 777 host/shared/mine; fi
        for directory in host/shared host/shared/mine; do
            echo '{{"entry":"fib","args":[12]}}' >$directory/.input.json
            mv $directory/.input.json $directory/input.json
        done""",
    )
    for directory in ("host/shared", "host/shared/mine"):
        marker = clone / directory / "result.done"
        wait_until(marker.exists, str(marker))
        assert as_user(user, clone, f"tail -n1 {directory}/result.txt") == "144\n"
    assert compose.run("exec", "-T", "wasmdrop", "wasmdrop", "jobs").count("ok") == 2
    as_user(user, clone, "rm -r host/shared/mine host/shared/result.*")

    ran = podman.podman("exec", name, "cat", "/proc/2/status").stdout
    assert re.search(rf"^Uid:\t{user or 65532}\t", ran, re.MULTILINE), ran
    for which in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
        assert re.search(rf"^Cap{which}:\t0+$", ran, re.MULTILINE), ran
    podman.podman("stop", "--time=40", name)
    assert podman.podman("wait", name).stdout.strip() == "0"


def test_compose_file_with_a_user_runs_as_that_user(podman: Engine, clone: Path) -> None:
    """UID and GID, if they are set."""
    os.chown(clone / "host/shared", 2000, 2001)
    compose = Compose(podman, clone)
    compose.run("up", "--detach", "--no-build", UID="2000", GID="2001")
    drop(clone / "host/wasm/module.wasm", bytes(wat2wasm(FIB)))
    drop(clone / "host/shared/input.json", {"entry": "fib", "args": [12]})
    marker = clone / "host/shared/result.done"
    wait_until(marker.exists, str(marker))
    assert (marker.stat().st_uid, marker.stat().st_gid) == (2000, 2001)


def test_daemon_that_hangs_becomes_unhealthy(podman: Engine, clone: Path) -> None:
    """Also in the image format that has no health check of its own."""
    compose = Compose(podman, clone)
    compose.run("up", "--detach", "--no-build")
    name = compose.container("wasmdrop")
    wait_until(lambda: health(podman, name) == "healthy", "the health check")
    podman.podman("exec", name, "sh", "-c", "kill -STOP 2")
    wait_until(lambda: health(podman, name) == "unhealthy", "the health check to fail")
    podman.podman("exec", name, "sh", "-c", "kill -CONT 2")
    wait_until(lambda: health(podman, name) == "healthy", "the health check to recover")


def test_rootless_container_delivers_results_of_its_user(podman: Engine, clone: Path) -> None:
    """The user of a rootless engine is root inside, and the jobs are another user."""
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["wasmdrop"]
    (image,) = json.loads(podman.podman("image", "inspect", IMAGE).stdout)
    variables = [
        *image["Config"]["Env"],
        "WASMDROP_STATE_DIR=/tmp/state",
        "AS_OWNER_OF=/mnt/shared",
    ]
    shared, wasm = clone / "host/shared", clone / "host/wasm"
    os.chown(shared, 1000, 1000)
    drop(shared / "input.json", {"entry": "fib", "args": [12]})
    drop(wasm / "module.wasm", bytes(wat2wasm(FIB)))
    script = ROOTLESS.format(
        engine=shlex.join(["podman", *podman.storage]),
        image=IMAGE,
        shared=shared,
        wasm=wasm,
        capabilities=",".join(f"+{name.lower()}" for name in service["cap_add"]),
        environment=shlex.join(variables),
    )
    done = subprocess.run(
        podman.command("sh", "-euc", script),
        env=podman.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert done.stdout.splitlines()[-1] == "144"
    assert (shared / "result.json").stat().st_uid == 1000


def blocks() -> list[str]:
    """Return the shell commands of docs/deploy/container.md, one block of the page each."""
    page = (ROOT / "docs/deploy/container.md").read_text()
    return re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


#: Blocks that are not run: they build for other machines, need names of the reader, are part of
#: test_container_fleet.py, or are options.
NOT_RUN: Final = ("buildx", "CID", "compose.fleet.yaml", "a.example.org", "  --health-cmd")


def test_commands_of_the_page_work_from_top_to_bottom(podman: Engine, clone: Path) -> None:
    """In the clone of user 1000, who may use the engine: `id` says that it is this user."""
    for path in (clone, *clone.rglob("*")):
        os.chown(path, 1000, 1000)
    compose = Compose(podman, clone)
    identity = clone.parent / "bin/id"
    identity.write_text("#!/bin/sh\necho 1000\n")
    identity.chmod(0o755)
    drop(clone / "examples/build/fib-wat.wasm", bytes(wat2wasm(FIB)))
    first, up, job, as_uid, settings, reload, *rest = (
        block for block in blocks() if not block.startswith(NOT_RUN[-1])
    )
    # The first line compiles the example.
    assert compose.shell(first.splitlines()[1]).endswith("\n144\n")
    (clone / "host/shared/result.done").unlink()
    compose.shell(up)
    answer = compose.shell(job)
    assert "\n144\n" in answer
    assert "ok" in answer
    compose.shell(as_uid)
    compose.run("down")

    # The user made them, not root.
    made = "; chown -R 1000:1000 host/config host/page-token"
    compose.shell(settings.replace("docker compose up", f"true{made}; docker compose up"))
    name = compose.container("wasmdrop")
    wait_until(lambda: health(podman, name) == "healthy", "the health check")
    ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9464/').status)"
    assert compose.run("exec", "-T", "wasmdrop", "python", "-c", ask) == "200\n"
    # As many editors do: a new file in the place of the old one.
    drop(clone / "host/config/config.toml", "timeout_sec = 7")
    (clone / "host/config/config.toml").chmod(0o644)
    compose.shell(reload)

    def was_reloaded() -> bool:
        return '"after":{"timeout_sec":"7"}' in podman.podman("logs", name).stderr

    wait_until(was_reloaded, "the reload")

    by_hand, key = (block for block in rest if not any(word in block for word in NOT_RUN))
    assert compose.shell(key)
    assert (clone / "host/key.pem").stat().st_uid == 1000
    compose.run("down")
    compose.shell(by_hand.replace("docker run", "docker run --detach --name by-hand"))
    (clone / "host/shared/result.done").unlink()
    drop(clone / "host/shared/input.json", {"module": "fib", "entry": "fib", "args": [7]})
    wait_until((clone / "host/shared/result.done").exists, "the job")


def test_compose_file_is_as_hardened_as_the_script() -> None:
    """And gives a stop more time than running jobs have."""
    composed = yaml.safe_load((ROOT / "compose.yaml").read_text())
    service = composed["services"]["wasmdrop"]
    script = (ROOT / "scripts/run-docker.sh").read_text()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges"]
    assert f"--pids-limit {service['pids_limit']}" in script
    assert service["environment"] == {"AS_OWNER_OF": "/mnt/shared"}
    assert re.findall("--cap-add ([A-Z]+)", script) == service["cap_add"]
    assert "./host/wasm:/mnt/wasm:ro,z" in service["volumes"]
    assert "./host/shared:/mnt/shared:z" in service["volumes"]
    assert "state:/var/lib/wasmdrop" in service["volumes"]
    assert list(composed["volumes"]) == ["state"]
    assert service["stop_grace_period"] == "45s"
    assert service["ports"] == ["127.0.0.1:9464:9464"]


def test_health_check_is_the_same_everywhere() -> None:
    """In the Dockerfile, whose one Podman's format does not keep, in compose files and scripts."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    written = re.search(r"^HEALTHCHECK (.*) \\\n +CMD (.*)$", dockerfile, re.MULTILINE)
    assert written
    assert json.loads(written[2]) == HEALTH_CHECK
    options = dict(part.removeprefix("--").split("=") for part in written[1].split())
    for name in ("compose.yaml", "compose.fleet.yaml"):
        for service in yaml.safe_load((ROOT / name).read_text())["services"].values():
            found = service.get("healthcheck", {"disable": True})
            assert found == {"disable": True} or found == {
                "test": ["CMD", *HEALTH_CHECK],
                "interval": options["interval"],
                "timeout": options["timeout"],
                "start_period": options["start-period"],
                "retries": int(options["retries"]),
            }
    script = (ROOT / "scripts/run-docker.sh").read_text()
    for name, text in options.items():
        assert f"--health-{name} {text}" in script
