"""The manifests of k8s/, and the rules that they follow."""

from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import yaml

from tests.support.deploy.base import ROOT

K8S: Final = ROOT / "k8s"

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


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all containers of a pod."""
    return [*spec.get("initContainers", []), *spec["containers"]]


def restrictions_broken(spec: dict[str, Any]) -> set[str]:
    """Return the rules of Pod Security restricted that a pod breaks."""
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


def merged(base: Any, patch: Any) -> Any:
    """Return a document with a patch: lists of named things are merged by name."""
    if isinstance(patch, dict):
        known = base or {}
        return known | {key: merged(known.get(key), value) for key, value in patch.items()}
    if isinstance(patch, list) and isinstance(base, list) and "name" in patch[0]:
        named = {one["name"]: one for one in base}
        for one in patch:
            named[one["name"]] = merged(named.get(one["name"]), one)
        return list(named.values())
    return patch


#: The components of k8s/kustomization.yaml, by their folders.
COMPONENTS: Final = tuple(
    sorted(
        str(path.parent.relative_to(K8S))
        for path in K8S.rglob("kustomization.yaml")
        if yaml.safe_load(path.read_text())["kind"] == "Component"
    )
)


def built(*components: str) -> list[dict[str, Any]]:
    """Return what ``kubectl kustomize`` makes of k8s/ with these components, except labels."""
    base = yaml.safe_load((K8S / "kustomization.yaml").read_text())
    found = [each for name in base["resources"] for each in documents(K8S / name)]
    for component in components:
        directory = K8S / component
        given = yaml.safe_load((directory / "kustomization.yaml").read_text())
        assert set(given) <= {"apiVersion", "kind", "resources", "patches"}
        found += [
            each for name in given.get("resources", []) for each in documents(directory / name)
        ]
        for patch in given.get("patches", []):
            (wanted,) = documents(directory / patch["path"])
            (at,) = [number for number, each in enumerate(found) if _key(each) == _key(wanted)]
            found[at] = merged(found[at], wanted)
    return found


def pod_of(document: dict[str, Any]) -> dict[str, Any] | None:
    """Return the specification of a document's pods; None if it has none."""
    if document["kind"] == "Pod":
        return dict(document["spec"])
    if document["kind"] in {"Deployment", "Job"}:
        return dict(document["spec"]["template"]["spec"])
    return None


def mebibytes(quantity: str) -> int:
    """Return a quantity of storage or memory in MiB."""
    units = {"Mi": 1, "Gi": 1024}
    return int(quantity[:-2]) * units[quantity[-2:]]


def _key(document: dict[str, Any]) -> tuple[str, str]:
    return document["kind"], document["metadata"]["name"]
