"""The image: small, unprivileged, strictly confined inside; and the scripts around it."""

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import drop, environment, wait_until
from tests.support.deploy.base import ROOT
from tests.support.deploy.compose import docker_command
from tests.support.deploy.engine import IMAGE, Engine
from tests.support.fib import FIB
from tests.support.keys import new_key
from tests.support.require import require_tools

#: The options of scripts/run-docker.sh, except for limits that need control groups.
HARDENED: Final = (
    *("--init", "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges"),
    "--tmpfs=/tmp:mode=1777",
)

HEALTH_CHECK: Final = "python -I -S /opt/wasmdrop/healthcheck.py"


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Give ``wasm`` with ``fib`` in it, and ``shared``, which user 1000 may write to."""
    # Only root may enter pytest's own directories.
    for parent in [tmp_path, *list(tmp_path.parents)[:2]]:
        parent.chmod(0o755)
    drop(tmp_path / "wasm/module.wasm", bytes(wat2wasm(FIB)))
    (tmp_path / "shared").mkdir()
    with contextlib.suppress(PermissionError):
        os.chown(tmp_path / "shared", 1000, 1000)
    return tmp_path


def mounts(folders: Path) -> tuple[str, ...]:
    """Return the options that mount the folders."""
    return (
        f"--volume={folders}/wasm:/mnt/wasm:ro",
        f"--volume={folders}/shared:/mnt/shared",
    )


def test_image_runs_one_job_unprivileged_and_prints_its_value(
    podman: Engine, folders: Path
) -> None:
    """Not root, no capabilities, nothing written but the results, which belong to the caller."""
    drop(folders / "shared/input.json", {"entry": "fib", "args": [12]})
    state = "--env=WASMDROP_STATE_DIR=/tmp/wasmdrop"
    options = ("--rm", "--user=1000:1000", state, *HARDENED, *mounts(folders))
    done = podman.podman("run", *options, IMAGE, "run")
    assert done.stdout.splitlines()[-1] == "144"
    assert (folders / "shared/result.json").stat().st_uid == 1000
    asked = podman.podman(
        "run", "--env=OUTPUT_PATH=/mnt/shared/result.json", *options, IMAGE, "run"
    )
    assert json.loads(asked.stdout.splitlines()[-1])["results"] == [144]
    drop(folders / "shared/input.json", {"entry": "nothing"})
    assert podman.podman("run", *options, IMAGE, "run", check=False).returncode == 1


def test_image_passes_its_own_doctor(podman: Engine, folders: Path) -> None:
    """It confines jobs strictly under the engine's own seccomp filter, and can sign receipts."""
    key = new_key(folders / "key.pem")
    os.chown(key, 1000, 1000)
    given = (f"--volume={key}:/run/key.pem:ro", "--env=WASMDROP_SIGNING_KEY=/run/key.pem")
    options = ("--rm", "--user=1000:1000", *HARDENED, *mounts(folders), *given)
    found = json.loads(podman.podman("run", *options, IMAGE, "doctor", "--json").stdout)
    by_check = {finding["check"]: finding["status"] for finding in found["checks"]}
    assert by_check["confinement"] == "ok"
    assert by_check["native program"] == "ok"
    assert by_check["signing key"] == "ok"
    assert "problem" not in by_check.values(), found


def test_image_serves_drops_is_healthy_and_drains(podman: Engine, folders: Path) -> None:
    """With nothing but the image's defaults; the next container finds the journal."""
    (folders / "shared").chmod(0o1777)
    name, volume = "wasmdrop-daemon", "--volume=wasmdrop-test-state:/var/lib/wasmdrop"
    podman.podman("volume", "rm", "--force", "wasmdrop-test-state")
    health = f"--health-cmd={HEALTH_CHECK}"
    options = ("--detach", volume, health, *HARDENED, *mounts(folders))
    podman.podman("run", f"--name={name}", *options, IMAGE)
    for number in range(3):
        drop(folders / "shared" / f"input-{number}.json", {"entry": "fib", "args": [number + 10]})
    for number, value in enumerate((55, 89, 144)):
        path = folders / "shared" / f"result-{number}.done"
        wait_until(path.exists, path.name)
        assert path.with_suffix(".txt").read_text().splitlines()[-1] == str(value)

    def is_healthy() -> bool:
        return podman.podman("healthcheck", "run", name, check=False).returncode == 0

    wait_until(is_healthy, "the health check")
    assert '"guest":"native"' in podman.podman("logs", name).stderr
    status = podman.podman("exec", name, "cat", "/proc/1/status").stdout
    assert re.search(r"^CapBnd:\t0+$", status, re.MULTILINE)
    assert re.search(r"^Uid:\t65532\t", status, re.MULTILINE)
    assert podman.podman("exec", name, "touch", "/opt/x", check=False).returncode != 0
    # Nobody may read the maps of a process that has read machine code.
    syncing = ("sh", "-c", r"grep -ls '\[aio\]' /proc/[0-9]*/maps; true")
    assert len(podman.podman("exec", name, *syncing).stdout.splitlines()) == 1

    drop(folders / "wasm/slow.wasm", bytes(wat2wasm('(module (func (export "run") (loop br 0)))')))
    drop(folders / "shared/input-slow.json", {"module": "slow", "timeout_sec": 3})
    wait_until(
        lambda: podman.podman("logs", name).stderr.count("module-compiled") == 2, "the job to begin"
    )
    podman.podman("stop", "--time=40", name)
    marker = json.loads((folders / "shared/result-slow.done").read_text())
    assert marker["code"] == "timeout"
    # Not --rm: that removes it some time after the stop, and the next container has its name.
    podman.podman("rm", name)

    before = {path: path.read_bytes() for path in (folders / "shared").glob("*.done")}
    podman.podman("run", f"--name={name}", *options, IMAGE)
    drop(folders / "shared/input-again.json", {"entry": "fib", "args": [7]})
    wait_until((folders / "shared/result-again.done").exists, "the job of the next container")
    assert before == {path: path.read_bytes() for path in before}
    podman.podman("stop", "--time=40", name)


def test_image_is_no_larger_than_its_parts(podman: Engine) -> None:
    """Its layers above the base: the packages, no pip, no compiler, no sources."""
    listed = podman.podman("run", "--rm", "--entrypoint=du", IMAGE, "-sm", "/opt/wasmdrop")
    assert int(listed.stdout.split()[0]) < 80
    modules = podman.podman("run", "--rm", "--entrypoint=ls", IMAGE, "/opt/wasmdrop/bin")
    assert "pip" not in modules.stdout
    compilers = ("sh", "-c", "! command -v cc gcc clang")
    podman.podman("run", "--rm", "--entrypoint=", IMAGE, *compilers)


def test_image_says_what_it_is(podman: Engine) -> None:
    """In labels, and the package in it has the version of the build."""
    (image,) = json.loads(podman.podman("image", "inspect", IMAGE).stdout)
    assert image["User"] == "65532:65532"
    labels = {
        name.removeprefix("org.opencontainers.image."): text
        for name, text in image["Labels"].items()
    }
    assert labels["title"] == "wasmdrop"
    assert labels["licenses"] == "MIT"
    assert labels["version"] == "9.8.7"
    assert labels["revision"] == "4f5e6a7b8c"
    assert labels["documentation"].startswith(labels["source"])
    assert "9.8.7" in podman.podman("run", "--rm", IMAGE, "--version").stdout


def test_script_runs_a_real_container(podman: Engine, folders: Path) -> None:
    """With a ``docker`` that is podman, except for limits that need control groups."""
    shim = docker_command(podman, folders / "bin/docker")
    drop(folders / "shared/input.json", {"entry": "fib", "args": [12]})
    done = subprocess.run(
        [str(ROOT / "scripts/run-docker.sh")],
        env=podman.environment()
        | {"PATH": f"{shim.parent}:{os.environ['PATH']}", "SKIP_BUILD": "1", "IMAGE": IMAGE}
        | {"WASM_HOST_DIR": str(folders / "wasm"), "SHARED_HOST_DIR": str(folders / "shared")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "144"
    assert (folders / "shared/result.json").stat().st_uid == 1000


# --- The scripts


STAND_IN: Final = """\
#!/bin/sh
printf '%s\\n' "$*" >>"$RECORD"
for last; do :; done
[ "$1" = run ] && [ "$last" = run ] && echo 144
exit "${STATUS:-0}"
"""


class Script:
    """``run-docker.sh`` in a copy of the project, with a ``docker`` that records its arguments."""

    def __init__(self, base: Path) -> None:
        self.root = base / "project"
        for name in ("scripts/run-docker.sh", "examples/fib/input.json", "examples/add/input.json"):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        self._record = base / "record"
        docker = base / "bin/docker"
        docker.parent.mkdir()
        docker.write_text(STAND_IN)
        docker.chmod(0o755)
        self._path = f"{docker.parent}:{os.environ['PATH']}"

    def run(
        self, *arguments: str, **variables: str
    ) -> tuple["subprocess.CompletedProcess[str]", list[str]]:
        """Run the script; return its outcome and the arguments of ``docker``."""
        self._record.write_text("")
        done = subprocess.run(
            [str(self.root / "scripts/run-docker.sh"), *arguments],
            env=environment() | {"PATH": self._path, "RECORD": str(self._record), **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        return done, self._record.read_text().splitlines()

    def module(self, name: str = "host/wasm/module.wasm") -> None:
        """Create a module in the copy."""
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_bytes(b"\0asm")


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Give the script."""
    return Script(tmp_path)


def test_script_builds_then_runs_one_job(script: Script) -> None:
    """Hardened, without a network; the last line is the value."""
    script.module()
    done, calls = script.run()
    assert done.returncode == 0, done.stderr
    assert done.stdout == "144\n"
    build, run = calls
    assert build == f"build --quiet --tag wasmdrop {script.root}"
    for option in (
        *("--read-only", "--cap-drop ALL", "--security-opt no-new-privileges", "--network none"),
        *(f"--volume {script.root}/host/wasm:/mnt/wasm:ro", "--pids-limit", "--memory 4g"),
        f"--volume {script.root}/host/shared:/mnt/shared",
    ):
        assert option in run, option
    assert run.endswith(" wasmdrop run")
    assert " --user 0:0 --env AS_OWNER_OF=/mnt/shared " in run


def test_script_without_a_build_passes_settings_and_statuses_on(script: Script) -> None:
    """By name alone, so that values need no quoting."""
    script.module()
    done, calls = script.run(SKIP_BUILD="1", ENTRY="fib", ARG_0="12", IMAGE="mine", STATUS="124")
    assert done.returncode == 124
    (run,) = calls
    assert " --env ENTRY " in run
    assert " --env ARG_0 " in run
    assert run.endswith(" mine run")


def test_script_with_a_scenario_copies_the_input_and_the_module(script: Script) -> None:
    """If it was built. The user's own ``module.wasm`` stays unchanged."""
    script.module("examples/build/fib-wat.wasm")
    done, calls = script.run(SCENARIO="fib")
    assert done.returncode == 0, done.stderr
    copied = (script.root / "host/shared/input.json").read_text()
    assert copied == (ROOT / "examples/fib/input.json").read_text()
    assert (script.root / "host/wasm/fib.wasm").exists()
    assert not (script.root / "host/wasm/module.wasm").exists()
    assert " --env WASM_PATH " in calls[-1]
    done, calls = script.run(SCENARIO="add")
    assert done.returncode == 2
    assert "no module" in done.stderr
    assert calls == []


def test_script_serves_with_a_volume_for_the_state(script: Script) -> None:
    """And publishes health and metrics on this host alone."""
    _done, calls = script.run("--serve", SKIP_BUILD="1")
    assert calls[0].endswith(" wasmdrop serve")
    assert "--publish 127.0.0.1:9464:9464" in calls[0]
    assert re.search(r"--volume wasmdrop-state-\d+:/var/lib/wasmdrop", calls[0])
    assert "--network none" not in calls[0]
    assert f"--health-cmd {HEALTH_CHECK} " in calls[0]


def test_script_for_help_prints_its_options(script: Script) -> None:
    """And runs nothing."""
    done, calls = script.run("--help")
    assert done.returncode == 0
    for word in ("--serve", "SCENARIO", "SKIP_BUILD", "WASM_HOST_DIR", "MEMORY"):
        assert word in done.stdout
    assert "set -eu" not in done.stdout
    assert calls == []


@pytest.mark.parametrize(
    ("arguments", "variables"), [(["--help-me"], {}), ([], {"SCENARIO": "pi"})]
)
def test_script_with_wrong_arguments_runs_nothing(
    script: Script, arguments: list[str], variables: Mapping[str, str]
) -> None:
    """Status 2 and one line."""
    script.module()
    done, calls = script.run(*arguments, **variables)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert calls == []


def options_in(text: str) -> set[str]:
    """Return the options and their fixed values that a script gives docker."""
    plain = re.sub(r"[\"',`\\]", " ", text)
    wanted = (
        *(r"--rm", r"--init", r"--read-only", r"--cap-drop +ALL", r"--network +none"),
        *(r"--cap-add +CHOWN", r"--cap-add +KILL", r"--cap-add +SETGID", r"--cap-add +SETPCAP"),
        *(r"--cap-add +SETUID", r"--user +0:0", r"--env +AS_OWNER_OF=/mnt/shared"),
        *(r"--security-opt +no-new-privileges", r"--pids-limit +1024", r"--tmpfs +/tmp:mode=1777"),
        *(r"--publish +127.0.0.1:9464:9464", r":/mnt/wasm:ro +z", r":/mnt/shared:z"),
        *(r"WASMDROP_STATE_DIR=/tmp/wasmdrop", r":/var/lib/wasmdrop"),
        *(rf"--health-cmd +{HEALTH_CHECK}", r"--health-interval +10s"),
        *(r"--health-timeout +5s", r"--health-start-period +10s", r"--health-retries +3"),
    )
    return {option for option in wanted if re.search(option, plain)}


def test_script_for_windows_gives_docker_the_same_options() -> None:
    """The text is compared, because the script can't run here."""
    ours = options_in((ROOT / "scripts/run-docker.sh").read_text())
    theirs = options_in((ROOT / "scripts/run-docker.ps1").read_text())
    assert len(ours) == 25
    assert theirs == ours


def test_shell_scripts_pass_the_linter() -> None:
    """All of them."""
    require_tools("shellcheck")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.sh", ".ci/run"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    done = subprocess.run(
        ["shellcheck", *listed.stdout.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
