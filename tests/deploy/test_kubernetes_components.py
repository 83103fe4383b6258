"""The components of the manifests, and the numbers that belong together."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.support.daemon import environment
from tests.support.deploy.base import ROOT
from tests.support.deploy.manifests import (
    COMPONENTS,
    K8S,
    VERSIONS,
    built,
    containers,
    documents,
    mebibytes,
    pod_of,
    restrictions_broken,
)
from tests.support.require import require_tools
from wasmdrop import settings
from wasmdrop.settings import Settings

#: Memory of the daemon itself, and what the kubelet keeps of the log of a container, in MiB.
OWN_MEMORY: Final = 128
LOGS: Final = 50

#: What this project uses of a PodMonitor
#: (https://prometheus-operator.dev/docs/api-reference/api/#monitoring.coreos.com/v1.PodMonitor).
POD_MONITOR: Final = {
    "type": "object",
    "additionalProperties": False,
    "required": ["selector", "podMetricsEndpoints"],
    "properties": {
        "selector": {"type": "object"},
        "podMetricsEndpoints": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"port": {"type": "string"}, "path": {"type": "string"}},
            },
        },
    },
}

PLAIN: Final = ("pod.yaml", "sidecar.yaml", "job.yaml", "fleet/workers.yaml")
#: All sets of documents that someone may apply, by name.
SETS: Final = {
    "k8s": built(),
    **{name: built(name) for name in COMPONENTS},
    "all components": built(*COMPONENTS),
    **{name: documents(K8S / name) for name in PLAIN},
}


def own_containers(spec: dict[str, Any]) -> list[tuple[dict[str, Any], Settings]]:
    """Return the containers of a pod that run jobs, with their settings."""
    found = []
    for container in containers(spec):
        if container["args"][0] in {"serve", "work", "run"}:
            given = {one["name"]: one["value"] for one in container["env"] if "value" in one}
            given = {"HOME": "/", **given}
            given.pop("WASMDROP_CONFIG", None)
            found.append((container, settings.load(given, {}).settings))
    return found


def test_components_are_found() -> None:
    """And named in the kustomization that they extend."""
    assert len(COMPONENTS) == 8
    text = re.sub(r"[#\s]+", " ", (K8S / "kustomization.yaml").read_text())
    assert f"can be added: {', '.join(COMPONENTS)}." in text


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", SETS)
def test_documents_with_each_component_are_valid_and_restricted(name: str, version: str) -> None:
    """Strictly: an unknown field is an error. A PodMonitor is no part of Kubernetes."""
    for document in SETS[name]:
        if document["kind"] == "PodMonitor":
            Draft202012Validator(POD_MONITOR).validate(document["spec"])
            continue
        kubernetes_validate.validate(document, version, strict=True)
        spec = pod_of(document)
        if spec is not None:
            assert restrictions_broken(spec) <= ({"hostPath"} if name == "pod.yaml" else set())


def test_kustomize_builds_each_component(tmp_path: Path) -> None:
    """And all together, with the same content that the other tests look at."""
    require_tools("kubectl")
    for number, components in enumerate([(), *((name,) for name in COMPONENTS), COMPONENTS]):
        directory = tmp_path / str(number)
        shutil.copytree(K8S, directory)
        file = directory / "kustomization.yaml"
        file.write_text(file.read_text() + f"components: [{', '.join(components)}]\n")
        done = subprocess.run(
            ["kubectl", "kustomize", directory],
            capture_output=True,
            text=True,
            check=False,
            env=environment(),
        )
        assert done.returncode == 0, done.stderr
        compare(list(yaml.safe_load_all(done.stdout)), built(*components))


def compare(made: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Compare documents of kustomize with our own, except for the labels of pods."""
    found = {(one["kind"], one["metadata"]["name"]): one for one in made}
    assert len(found) == len(expected)
    for document in expected:
        other = found[document["kind"], document["metadata"]["name"]]
        assert other["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "kustomize"
        if document["kind"] != "Namespace":
            assert other["metadata"]["namespace"] == "wasmdrop"
        wanted, got = pod_of(document), pod_of(other)
        if wanted is None or got is None:
            assert other.get("spec") == document.get("spec")
            continue
        assert by_name(wanted["volumes"]) == by_name(got["volumes"])
        for ours, theirs in zip(containers(wanted), containers(got), strict=True):
            assert theirs["image"] == "wasmdrop:latest"
            assert theirs["resources"] == ours["resources"]
            assert by_name(theirs["env"]) == by_name(ours["env"])
            assert by_name(theirs["volumeMounts"]) == by_name(ours["volumeMounts"])


def by_name(listed: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return named things by their names."""
    return {one["name"]: one for one in listed}


@pytest.mark.parametrize("name", SETS)
def test_memory_limits_follow_the_documented_rule(name: str) -> None:
    """All jobs at their limit, the daemon, one compiler, and volumes in memory."""
    for document in SETS[name]:
        spec = pod_of(document)
        for container, values in own_containers(spec) if spec else ():
            assert spec is not None
            in_memory = sum(
                mebibytes(volume["emptyDir"]["sizeLimit"])
                for volume in spec["volumes"]
                if volume.get("emptyDir", {}).get("medium") == "Memory"
            )
            needed = values.workers * values.limits.memory_bytes // 2**20
            needed += OWN_MEMORY + values.compile_memory_mb + in_memory
            limits = container["resources"]["limits"]
            assert mebibytes(limits["memory"]) == needed
            assert int(limits["cpu"]) == values.workers


@pytest.mark.parametrize("name", SETS)
def test_volumes_and_disk_limits_fit_what_is_kept(name: str) -> None:
    """An emptyDir above its limit, or a pod above its own, is evicted."""
    claims = {
        document["metadata"]["name"]: document["spec"]["resources"]["requests"]["storage"]
        for document in SETS[name]
        if document["kind"] == "PersistentVolumeClaim"
    }
    for document in SETS[name]:
        spec = pod_of(document)
        if spec is None:
            continue
        sizes = {
            volume["name"]: mebibytes(volume["emptyDir"]["sizeLimit"])
            for volume in spec["volumes"]
            if "emptyDir" in volume
        }
        limits = requests = 0
        for container in containers(spec):
            limits += mebibytes(container["resources"]["limits"]["ephemeral-storage"])
            requests += mebibytes(container["resources"]["requests"]["ephemeral-storage"])
        assert limits >= sum(sizes.values()) + LOGS * len(containers(spec))
        # The one that uses more than it requested is the first to be evicted from a full node.
        assert requests >= sum(sizes.values())
        for container, values in own_containers(spec):
            kept = values.cache_mb + values.reserve_mb
            kept += values.workers * values.limits.disk_bytes // 2**20
            if container["args"] == ["serve"]:
                kept += values.journal_mb + values.undelivered_mb
            (state,) = [one for one in spec["volumes"] if one["name"] == "state"]
            if "emptyDir" in state:
                assert sizes["state"] >= kept
            else:
                claim = state["persistentVolumeClaim"]["claimName"]
                assert mebibytes(claims[claim]) >= kept


def test_every_document_has_the_same_version() -> None:
    """That of the newest release in the changelog, once there is one."""
    versions = set()
    for path in K8S.rglob("*.yaml"):
        versions |= set(re.findall(r"app\.kubernetes\.io/version: (\S+)", path.read_text()))
    changelog = (ROOT / "CHANGELOG.md").read_text()
    released = re.search(r"^## \[?(\d+\.\d+\.\d+)", changelog, re.MULTILINE)
    assert versions == {released[1] if released else "0.2.0"}


def test_service_and_monitor_select_the_pods_of_the_daemon() -> None:
    """By a port that they have."""
    found = built("monitoring")
    (deployment,) = [one for one in found if one["kind"] == "Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (port,) = container["ports"]
    (service,) = [one["spec"] for one in found if one["kind"] == "Service"]
    assert service["selector"].items() <= labels.items()
    assert service["ports"] == [{"name": "http", "port": 9464, "targetPort": port["name"]}]
    (monitor,) = [one["spec"] for one in found if one["kind"] == "PodMonitor"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    (expression,) = monitor["selector"]["matchExpressions"]
    assert labels[expression["key"]] in expression["values"]
    assert monitor["podMetricsEndpoints"] == [{"port": port["name"]}]


@pytest.mark.parametrize(
    ("component", "variable"),
    [
        ("page", "WASMDROP_PAGE_TOKEN_FILE"),
        ("hook", "WASMDROP_ON_FINISHED_SECRET_FILE"),
        ("receipts", "WASMDROP_SIGNING_KEY"),
        ("config", "WASMDROP_CONFIG"),
    ],
)
def test_component_mounts_the_file_that_its_variable_names(component: str, variable: str) -> None:
    """A Secret with a mode that the daemon accepts, or a ConfigMap that is applied with it."""
    found = built(component)
    (deployment,) = [one for one in found if one["kind"] == "Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    (path,) = [Path(one["value"]) for one in container["env"] if one["name"] == variable]
    (mount,) = [one for one in container["volumeMounts"] if one["mountPath"] == str(path.parent)]
    assert mount["readOnly"] is True
    assert "subPath" not in mount
    (volume,) = [one for one in spec["volumes"] if one["name"] == mount["name"]]
    if component != "config":
        assert volume["secret"]["defaultMode"] == 0o440
        text = (K8S / component / "kustomization.yaml").read_text()
        assert f"secret generic {volume['secret']['secretName']} --from-" in text
        return
    (given,) = [one for one in found if one["metadata"]["name"] == volume["configMap"]["name"]]
    assert set(tomllib.loads(given["data"][path.name])) <= {one.name for one in settings.SETTINGS}
