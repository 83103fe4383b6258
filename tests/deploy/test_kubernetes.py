"""The manifests: valid for old and new clusters, restricted, and run by a real engine."""

import base64
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml
from wasmtime import wat2wasm

from tests.support.daemon import drop, environment, wait_until
from tests.support.deploy.base import ROOT
from tests.support.deploy.engine import IMAGE, Engine
from tests.support.deploy.manifests import (
    K8S,
    VERSIONS,
    containers,
    documents,
    restrictions_broken,
)

FILES: Final = sorted(path for path in K8S.glob("*.yaml") if path.name != "kustomization.yaml")


def pods() -> Iterator[Any]:
    """Give each pod's specification, with the file that it is in."""
    for path in FILES:
        for document in documents(path):
            if document["kind"] == "Pod":
                yield pytest.param(path.name, document["spec"], id=path.name)
            elif document["kind"] in {"Deployment", "Job"}:
                yield pytest.param(path.name, document["spec"]["template"]["spec"], id=path.name)


PODS: Final = list(pods())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_manifests_are_valid(path: Path, version: str) -> None:
    """Also in strict mode, in which an unknown field is an error."""
    for document in documents(path):
        kubernetes_validate.validate(document, version, strict=True)


def test_manifest_that_is_invalid_is_detected() -> None:
    """The validator works."""
    (broken,) = documents(K8S / "sidecar.yaml")
    broken["spec"]["initContainers"][0]["restart"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[1], strict=True)


@pytest.mark.parametrize(("name", "spec"), PODS)
def test_pods_are_restricted_except_for_hostpath(name: str, spec: dict[str, Any]) -> None:
    """Where it is the purpose, and then in all else."""
    assert restrictions_broken(spec) == ({"hostPath"} if name == "pod.yaml" else set())


@pytest.mark.parametrize(("name", "spec"), PODS)
def test_pods_have_no_needless_rights_and_bounded_resources(
    name: str, spec: dict[str, Any]
) -> None:
    """Read-only root, no service-account token, limits on everything."""
    assert name
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    for container in containers(spec):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        for kind in ("requests", "limits"):
            assert set(container["resources"][kind]) == {"cpu", "memory", "ephemeral-storage"}
    assert all(
        "sizeLimit" in volume.get("emptyDir", {"sizeLimit": 1}) for volume in spec["volumes"]
    )


@pytest.mark.parametrize(("name", "spec"), PODS)
def test_daemons_are_probed_over_http_and_have_time_to_drain(
    name: str, spec: dict[str, Any]
) -> None:
    """Neither the startup nor the liveness probe fails because of a full disk."""
    daemons = [container for container in containers(spec) if container["args"] == ["serve"]]
    assert len(daemons) == (0 if name == "job.yaml" else 1)
    for daemon in daemons:
        assert daemon["startupProbe"]["httpGet"] == {"path": "/startupz", "port": "http"}
        assert daemon["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
        assert daemon["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
        assert daemon["ports"] == [{"name": "http", "containerPort": 9464}]
        assert spec["terminationGracePeriodSeconds"] > 30


def test_sidecar_is_native() -> None:
    """An init container that stays: it starts before the application and stops after it."""
    (pod,) = documents(K8S / "sidecar.yaml")
    (sidecar,) = pod["spec"]["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    shared = {"name": "shared", "mountPath": "/mnt/shared"}
    assert all(shared in container["volumeMounts"] for container in containers(pod["spec"]))


def test_deployment_has_one_daemon_at_a_time() -> None:
    """The instance lock would keep two apart, the newer one failing until the older one ends."""
    deployment = documents(K8S / "deployment.yaml")[0]["spec"]
    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}


def test_modules_are_those_of_the_examples() -> None:
    """Byte for byte as built from their sources."""
    (modules,) = documents(K8S / "modules.yaml")
    assert modules["binaryData"].keys() == {"add.wasm", "affine.wasm", "fib.wasm"}
    for name, text in modules["binaryData"].items():
        stem = name.removesuffix(".wasm")
        source = (ROOT / "examples" / stem / f"{stem}.wat").read_text()
        assert base64.b64decode(text, validate=True) == bytes(wat2wasm(source)), name


def test_kustomization_lists_every_manifest() -> None:
    """And its namespace enforces the restrictions of the pods."""
    found = yaml.safe_load((K8S / "kustomization.yaml").read_text())
    assert all((K8S / name).is_file() for name in found["resources"])
    (namespace,) = documents(K8S / "namespace.yaml")
    assert namespace["metadata"]["name"] == found["namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


# --- Run, by a real engine


class Pod:
    """A pod that ``podman kube play`` runs from a manifest, and from all ConfigMaps.

    What it can't do here is left out: without a network no port can be published. Nor does it know
    native sidecars yet: the sidecar is the first of the plain containers, as it is of the pod's.
    """

    def __init__(self, podman: Engine, base: Path, name: str) -> None:
        self._podman = podman
        self._file = base / name
        found = documents(K8S / name)
        configured = [
            document
            for path in FILES
            for document in documents(path)
            if document["kind"] == "ConfigMap"
        ]
        (owner,) = [one for one in found if one["kind"] in {"Pod", "Deployment"}]
        spec = owner["spec"] if owner["kind"] == "Pod" else owner["spec"]["template"]["spec"]
        sidecars = spec.pop("initContainers", [])
        for sidecar in sidecars:
            assert sidecar.pop("restartPolicy") == "Always"
        spec["containers"] = [*sidecars, *spec["containers"]]
        for container in spec["containers"]:
            container["image"] = IMAGE
            container.pop("ports", None)
        for volume in spec["volumes"]:
            if "hostPath" in volume:
                directory = base / volume["name"]
                directory.mkdir()
                # As the manifest asks its users to do.
                os.chown(directory, 65532, 65532)
                volume["hostPath"]["path"] = str(directory)
        self.name = ""
        self._file.write_text(yaml.safe_dump_all([*configured, *found]))

    def play(self) -> None:
        """Start the daemon without waiting."""
        self._podman.podman("kube", "play", "--network=none", str(self._file))
        # podman chooses the name of a deployment's pod.
        (self.name,) = self._podman.podman("pod", "ps", "--format={{.Name}}").stdout.split()

    def down(self) -> None:
        """Stop it, each container with the time that the manifest gives it, and remove it."""
        self._podman.podman("pod", "stop", "--time=45", self.name)
        self._podman.podman("pod", "rm", self.name)
        claimed = self._podman.podman("volume", "ls", "--format={{.Name}}").stdout.split()
        kept = [
            document
            for document in documents(self._file)
            if document["kind"] != "PersistentVolumeClaim"
            or document["metadata"]["name"] not in claimed
        ]
        # podman, unlike a cluster, refuses to apply an existing object again.
        self._file.write_text(yaml.safe_dump_all(kept))

    def run(self, container: str, *command: str) -> str:
        """Run a command in one of its containers."""
        return self._podman.podman("exec", f"{self.name}-{container}", *command).stdout

    def log(self, container: str) -> "subprocess.CompletedProcess[str]":
        """Return a container's standard output and standard error."""
        return self._podman.podman("logs", f"{self.name}-{container}")


@pytest.fixture
def base(tmp_path: Path, podman: Engine) -> Iterator[Path]:
    """Give a directory that other users may enter, and remove it afterwards."""
    for directory in (*tmp_path.parents[:2], tmp_path):
        directory.chmod(0o755)
    yield tmp_path
    podman.clear()


def is_restricted(status: str) -> bool:
    """Return whether a ``/proc/PID/status`` is of an unprivileged user without capabilities."""
    wanted = ("Uid:\t65532\t", "CapBnd:\t0+$", "NoNewPrivs:\t1$", "Seccomp:\t2$")
    return all(re.search(f"^{one}", status, re.MULTILINE) for one in wanted)


def test_pod_serves_the_folders_of_the_node(podman: Engine, base: Path) -> None:
    """``pod.yaml``, with its probes; unprivileged, on a read-only root."""
    pod = Pod(podman, base, "pod.yaml")
    pod.play()
    drop(base / "wasm/fib.wasm", bytes(wat2wasm((ROOT / "examples/fib/fib.wat").read_text())))
    drop(base / "shared/input.json", {"module": "fib", "entry": "fib", "args": [12]})
    wait_until((base / "shared/result.done").exists, "the result")
    assert (base / "shared/result.txt").read_text().splitlines()[-1] == "144"
    assert (base / "shared/result.txt").stat().st_uid == 65532
    assert is_restricted(pod.run("wasmdrop", "cat", "/proc/1/status"))
    mounts = pod.run("wasmdrop", "cat", "/proc/mounts")
    assert re.search(r"^\S+ / \S+ ro,", mounts, re.MULTILINE)
    pod.down()


def test_sidecar_serves_the_application_and_drains_at_the_end(podman: Engine, base: Path) -> None:
    """``sidecar.yaml``: modules from a ConfigMap, a shared emptyDir, a clean stop."""
    pod = Pod(podman, base, "sidecar.yaml")
    pod.play()
    wait_until(lambda: pod.log("app").stdout, "the application's result")
    assert json.loads(pod.log("app").stdout)["results"] == [144]
    assert is_restricted(pod.run("wasmdrop", "cat", "/proc/1/status"))
    podman.podman("stop", "--time=45", f"{pod.name}-wasmdrop")
    assert podman.podman("wait", f"{pod.name}-wasmdrop").stdout.strip() == "0"
    assert '"event":"stopped"' in pod.log("wasmdrop").stderr


def test_deployment_next_pod_continues_with_its_claims(podman: Engine, base: Path) -> None:
    """``deployment.yaml``: results and journal outlive the pod."""
    pod = Pod(podman, base, "deployment.yaml")
    pod.play()
    submit = ("wasmdrop", "submit", "--module", "fib", "--entry", "fib", "--wait", "--args")
    assert json.loads(pod.run("wasmdrop", *submit, "[12]"))["results"] == [144]
    pod.down()
    pod.play()
    found = ("find", "/mnt/shared", "-name", "result*.done")
    assert len(pod.run("wasmdrop", *found).splitlines()) == 1
    assert json.loads(pod.run("wasmdrop", *submit, "[13]"))["results"] == [233]
    assert len(pod.run("wasmdrop", *found).splitlines()) == 2
    jobs = pod.run("wasmdrop", "wasmdrop", "jobs", "--json").splitlines()
    assert len(jobs) == 2
    pod.down()


def test_job_prints_its_value_last(podman: Engine, base: Path) -> None:
    """``job.yaml``. podman plays no jobs, so its one container is run as specified."""
    found = {document["kind"]: document for document in documents(K8S / "job.yaml")}
    spec = found["Job"]["spec"]["template"]["spec"]
    (container,) = containers(spec)
    security = spec["securityContext"] | container["securityContext"]
    command = ["run", "--read-only", "--read-only-tmpfs=false", "--security-opt=no-new-privileges"]
    command += [f"--user={security['runAsUser']}:{security['runAsGroup']}"]
    command += [f"--cap-drop={name}" for name in security["capabilities"]["drop"]]
    command += [f"--env={pair['name']}={pair['value']}" for pair in container["env"]]
    (modules,) = documents(K8S / "modules.yaml")
    for mount in container["volumeMounts"]:
        directory = base / mount["name"]
        directory.mkdir()
        directory.chmod(0o1777)
        command.append(f"--volume={directory}:{mount['mountPath']}")
    for name, text in modules["binaryData"].items():
        (base / "modules" / name).write_bytes(base64.b64decode(text))
    (base / "input/input.json").write_text(found["ConfigMap"]["data"]["input.json"])
    done = podman.podman(*command, IMAGE, *container["args"])
    assert done.stdout.splitlines()[-1] == "144"


# --- The scripts


class Cluster:
    """A ``kubectl`` that records its arguments and its input."""

    def __init__(self, base: Path) -> None:
        self._record = base / "record"
        self._record.write_text("")
        kubectl = base / "bin/kubectl"
        kubectl.parent.mkdir()
        kubectl.write_text(STAND_IN)
        kubectl.chmod(0o755)
        self._path = f"{kubectl.parent}:{os.environ['PATH']}"

    def run(
        self, script: str, *arguments: str, **variables: str
    ) -> tuple["subprocess.CompletedProcess[str]", str]:
        """Run a script; return its outcome and the records."""
        done = subprocess.run(
            [str(ROOT / "scripts" / script), *arguments],
            env=environment() | {"PATH": self._path, "RECORD": str(self._record), **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        return done, self._record.read_text()


STAND_IN: Final = """\
#!/bin/sh
printf '%s\n' "$*" >>"$RECORD"
case "$*" in
*" -f -"*) cat >>"$RECORD" ;;
*"get job"*) echo "${ENDED:-Complete}" ;;
*" logs "*) printf '{"event":"ready"}\n{"entry":"fib","args":[12],"results":[144]}\n144\n' ;;
esac
"""


def test_script_runs_the_job_and_prints_its_log(tmp_path: Path) -> None:
    """Namespace and modules first, an earlier job is removed, then the value on the last line."""
    done, record = Cluster(tmp_path).run("run-k8s.sh", SCENARIO="affine")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "144"
    assert "apply -f namespace.yaml" in record.replace(f"{K8S}/", "")
    assert "delete job wasmdrop-run --ignore-not-found" in record
    applied = [
        document
        for part in record.split("apply -f -\n")[1:]
        for document in yaml.safe_load_all(part.split("\n--namespace")[0])
        if isinstance(document, dict)
    ]
    given = {document["kind"]: document for document in applied}
    example = json.loads((ROOT / "examples/affine/input.json").read_text())
    assert json.loads(given["ConfigMap"]["data"]["input.json"]) == example
    (container,) = given["Job"]["spec"]["template"]["spec"]["containers"]
    assert {"name": "WASM_PATH", "value": "/mnt/wasm/affine.wasm"} in container["env"]
    for document in applied:
        kubernetes_validate.validate(document, VERSIONS[1], strict=True)


def test_script_fails_with_a_job_that_failed(tmp_path: Path) -> None:
    """Its log is shown all the same; an unknown scenario runs nothing."""
    cluster = Cluster(tmp_path)
    done, _record = cluster.run("run-k8s.sh", ENDED="Failed")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "144"
    done, _record = cluster.run("run-k8s.sh", SCENARIO="pi")
    assert done.returncode == 2


def test_tail_shows_result_lines_alone(tmp_path: Path) -> None:
    """Not the log lines, which share a container's stream in Kubernetes."""
    done, record = Cluster(tmp_path).run("tail-k8s.sh")
    assert done.stdout.splitlines() == ['{"entry":"fib","args":[12],"results":[144]}']
    assert "deployment/wasmdrop" in record


@pytest.mark.parametrize("script", ["run-k8s.sh", "tail-k8s.sh"])
def test_script_explains_itself_and_refuses_unknown_flags(tmp_path: Path, script: str) -> None:
    """Without a call of kubectl."""
    cluster = Cluster(tmp_path)
    done, record = cluster.run(script, "--help")
    assert done.returncode == 0
    assert done.stdout.count(f"scripts/{script}") >= 2
    assert "end of the help" not in done.stdout
    done, record = cluster.run(script, "--now")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ")
    assert record == ""


def test_script_refuses_a_timeout_that_is_no_number(tmp_path: Path) -> None:
    """Before it changes anything."""
    done, record = Cluster(tmp_path).run("run-k8s.sh", TIMEOUT="2m")
    assert (done.returncode, done.stderr) == (2, "TIMEOUT: expected seconds, got '2m'\n")
    assert record == ""
