"""The manifests: valid for old and new clusters, restricted, and played by a real engine."""

import base64
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml
from wasmtime import wat2wasm

from tests.acceptance.daemon import wait_until
from tests.deploy.base import ROOT
from tests.deploy.engine import IMAGE, Engine

K8S: Final = ROOT / "k8s"
FILES: Final = sorted(path for path in K8S.glob("*.yaml") if path.name != "kustomization.yaml")

#: Native sidecars are on by default since 1.29.
VERSIONS: Final = ("1.29", kubernetes_validate.latest_version())

#: What Pod Security restricted allows in ``volumes``
#: (https://kubernetes.io/docs/concepts/security/pod-security-standards/).
VOLUMES: Final = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim"),
    *("projected", "secret"),
}


def documents(path: Path) -> list[dict[str, Any]]:
    """Return the documents of a manifest."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def pods() -> Iterator[Any]:
    """Give each pod's specification, with the file that it is in."""
    for path in FILES:
        for document in documents(path):
            if document["kind"] == "Pod":
                yield pytest.param(path.name, document["spec"], id=path.name)
            elif document["kind"] in {"Deployment", "Job"}:
                yield pytest.param(path.name, document["spec"]["template"]["spec"], id=path.name)


PODS: Final = list(pods())


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all containers of a pod."""
    return [*spec.get("initContainers", []), *spec["containers"]]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_manifests_are_valid(path: Path, version: str) -> None:
    """Also in strict mode, in which an unknown field is an error."""
    for document in documents(path):
        kubernetes_validate.validate(document, version, strict=True)


def test_an_invalid_manifest_is_found_out() -> None:
    """The validator is awake."""
    (broken,) = documents(K8S / "sidecar.yaml")
    broken["spec"]["initContainers"][0]["restart"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[1], strict=True)


def restrictions_broken(spec: dict[str, Any]) -> set[str]:
    """Return which rules of Pod Security restricted a pod breaks."""
    broken = {f"host{name}" for name in ("Network", "PID", "IPC") if spec.get(f"host{name}")}
    for volume in spec["volumes"]:
        broken |= set(volume) - {"name"} - VOLUMES
    security = spec["securityContext"]
    for container in containers(spec):
        own = container["securityContext"]
        if not {**security, **own}.get("runAsNonRoot"):
            broken.add("runAsNonRoot")
        if {**security, **own}.get("runAsUser") == 0:
            broken.add("runAsUser")
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            broken.add("allowPrivilegeEscalation")
        if own.get("capabilities") != {"drop": ["ALL"]}:
            broken.add("capabilities")
        profile = {**security, **own}.get("seccompProfile", {}).get("type")
        if profile not in {"RuntimeDefault", "Localhost"}:
            broken.add("seccompProfile")
        if any("hostPort" in port for port in container.get("ports", [])):
            broken.add("hostPort")
    return broken


@pytest.mark.parametrize(("name", "spec"), PODS)
def test_pods_are_restricted_unless_hostpath_is_the_point(name: str, spec: dict[str, Any]) -> None:
    """And then in all else."""
    assert restrictions_broken(spec) == ({"hostPath"} if name == "pod.yaml" else set())


@pytest.mark.parametrize(("name", "spec"), PODS)
def test_pods_take_no_more_than_they_need(name: str, spec: dict[str, Any]) -> None:
    """Read-only root, no service-account token, bounds on everything."""
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
    """A start is over when drops are seen; a restart is for what a restart helps."""
    daemons = [container for container in containers(spec) if container["args"] == ["serve"]]
    assert len(daemons) == (0 if name == "job.yaml" else 1)
    for daemon in daemons:
        assert daemon["startupProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
        assert daemon["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
        assert daemon["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
        assert daemon["ports"] == [{"name": "http", "containerPort": 9464}]
        assert spec["terminationGracePeriodSeconds"] > 30


def test_the_sidecar_is_native() -> None:
    """An init container that stays: up before the application, told to stop after it."""
    (pod,) = documents(K8S / "sidecar.yaml")
    (sidecar,) = pod["spec"]["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    shared = {"name": "shared", "mountPath": "/mnt/shared"}
    assert all(shared in container["volumeMounts"] for container in containers(pod["spec"]))


def test_one_daemon_has_the_state_at_a_time() -> None:
    """Two would be kept apart by the lock, the newer one failing until the older one ends."""
    deployment = documents(K8S / "deployment.yaml")[0]["spec"]
    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}


def test_the_modules_are_those_of_the_examples() -> None:
    """Byte for byte what their sources build."""
    (modules,) = documents(K8S / "modules.yaml")
    assert modules["binaryData"].keys() == {"add.wasm", "affine.wasm", "fib.wasm"}
    for name, text in modules["binaryData"].items():
        stem = name.removesuffix(".wasm")
        source = (ROOT / "examples" / stem / f"{stem}.wat").read_text()
        assert base64.b64decode(text, validate=True) == bytes(wat2wasm(source)), name


def test_the_kustomization_lists_what_there_is() -> None:
    """And its namespace enforces what the pods keep to."""
    found = yaml.safe_load((K8S / "kustomization.yaml").read_text())
    assert all((K8S / name).is_file() for name in found["resources"])
    (namespace,) = documents(K8S / "namespace.yaml")
    assert namespace["metadata"]["name"] == found["namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


# --- Played by podman, which knows a part of Kubernetes


def playable(document: dict[str, Any], base: Path) -> dict[str, Any]:
    """Return a pod that podman 4.3 can play here, on folders below ``base``.

    It knows no native sidecars and probes with a program of the image's, so the sidecar becomes a
    container beside the others and probes go; it can't limit without control groups.
    """
    pod = copy.deepcopy(document)
    spec = pod["spec"]
    spec["containers"] = containers(spec)
    spec.pop("initContainers", None)
    for container in spec["containers"]:
        container["image"] = IMAGE
        container.pop("restartPolicy", None)
        container.pop("resources")
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            container.pop(probe, None)
    for volume in spec["volumes"]:
        if "hostPath" in volume:
            volume["hostPath"]["path"] = str(base / Path(volume["hostPath"]["path"]).name)
    return pod


def play(podman: Engine, base: Path, *files: Path) -> None:
    """Start the pods of manifests; ConfigMaps in them come first."""
    configmaps = [item for file in files for item in documents(file) if item["kind"] == "ConfigMap"]
    others = [item for file in files for item in documents(file) if item["kind"] == "Pod"]
    manifest = base / "played.yaml"
    manifest.write_text(yaml.safe_dump_all(configmaps + [playable(pod, base) for pod in others]))
    podman.podman("kube", "play", str(manifest))


@pytest.fixture
def base(tmp_path: Path, podman: Engine) -> Iterator[Path]:
    """Give ``wasm`` and ``shared`` for a pod, and clear up behind it."""
    for directory in (*tmp_path.parents[:2], tmp_path):
        directory.chmod(0o755)
    for name in ("wasm", "shared"):
        (tmp_path / name).mkdir()
    (tmp_path / "shared").chmod(0o1777)
    yield tmp_path
    podman.podman("pod", "rm", "--all", "--force", "--time=10")
    podman.podman("volume", "rm", "--all", "--force")


@pytest.mark.xdist_group("containers")
def test_the_hostpath_pod_serves_the_nodes_folders(podman: Engine, base: Path) -> None:
    """``pod.yaml``, by ``podman kube play``."""
    play(podman, base, K8S / "pod.yaml")
    (base / "wasm/fib.wasm").write_bytes(fib())
    (base / "shared/.input.json").write_text('{"module":"fib","entry":"fib","args":[12]}')
    (base / "shared/.input.json").rename(base / "shared/input.json")
    wait_until((base / "shared/result.done").exists, "the result")
    assert (base / "shared/result.txt").read_text().splitlines()[-1] == "144"
    assert (base / "shared/result.txt").stat().st_uid == 65532


@pytest.mark.xdist_group("containers")
def test_the_sidecars_pod_shares_its_volume(podman: Engine, base: Path) -> None:
    """``sidecar.yaml`` with its ConfigMap: the application prints what the daemon found."""
    play(podman, base, K8S / "modules.yaml", K8S / "sidecar.yaml")
    app = "wasmdrop-sidecar-app"
    ended = podman.podman("wait", app).stdout.strip()
    output = podman.podman("logs", app)
    assert ended == "0", output
    assert json.loads(output.stdout)["results"] == [144]


def fib() -> bytes:
    """Return the example."""
    return bytes(wat2wasm((ROOT / "examples/fib/fib.wat").read_text()))
