"""The manifests of a fleet: workers, network policies, scaling, and values for the servers."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.support.certificates import server_certificate
from tests.support.deploy.manifests import (
    K8S,
    VERSIONS,
    built,
    containers,
    documents,
    restrictions_broken,
)
from tests.support.fleet.server import NATS_SERVER
from wasmdrop import settings

FLEET: Final = K8S / "fleet"
#: What the kustomization applies; the job is applied once, before the workers.
MANIFESTS: Final = ("workers.yaml", "network.yaml")
JOB: Final = "init.yaml"

#: Labels of the pods of the servers: those that the chart gives a release ``wasmdrop-nats``.
SERVERS: Final = {
    "app.kubernetes.io/name": "nats",
    "app.kubernetes.io/instance": "wasmdrop-nats",
    "app.kubernetes.io/component": "nats",
}
DNS: Final = {"k8s-app": "kube-dns"}

#: What this project uses of a ScaledObject (https://keda.sh/docs/latest/reference/scaledobject-spec/).
#: Unknown keys are errors, as in a cluster that validates strictly.
SCALED_OBJECT: Final = {
    "type": "object",
    "additionalProperties": False,
    "required": ["scaleTargetRef", "triggers"],
    "properties": {
        "scaleTargetRef": {
            "type": "object",
            "additionalProperties": False,
            "required": ["name"],
            "properties": {name: {"type": "string"} for name in ("apiVersion", "kind", "name")},
        },
        "minReplicaCount": {"type": "integer", "minimum": 0},
        "maxReplicaCount": {"type": "integer", "minimum": 1},
        "pollingInterval": {"type": "integer", "minimum": 1},
        "cooldownPeriod": {"type": "integer", "minimum": 0},
        "fallback": {
            "type": "object",
            "additionalProperties": False,
            "required": ["failureThreshold", "replicas"],
            "properties": {
                name: {"type": "integer", "minimum": 0} for name in ("failureThreshold", "replicas")
            },
        },
        "triggers": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["type", "metadata"],
                "properties": {
                    "type": {"const": "prometheus"},
                    "metadata": {
                        "type": "object",
                        "required": ["serverAddress", "query", "threshold"],
                        "additionalProperties": {"type": "string"},
                    },
                },
            },
        },
    },
}


def worker() -> dict[str, Any]:
    """Return the workers' deployment."""
    (found,) = documents(FLEET / "workers.yaml")
    return found


def init() -> dict[str, Any]:
    """Return the job that makes the streams."""
    (found,) = documents(FLEET / JOB)
    return found


def daemon() -> dict[str, Any]:
    """Return the daemon's deployment with the component."""
    (found,) = [one for one in built("fleet/daemon") if one["kind"] == "Deployment"]
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_fleet_manifests_are_valid(version: str) -> None:
    """Also in strict mode, and with the component that changes the daemon."""
    plain = [each for name in (*MANIFESTS, JOB) for each in documents(FLEET / name)]
    for document in (*plain, daemon()):
        kubernetes_validate.validate(document, version, strict=True)


def test_fleet_kustomization_lists_every_manifest_that_needs_no_extension() -> None:
    """scaling.yaml needs the definitions of KEDA, and is applied by itself."""
    found = yaml.safe_load((FLEET / "kustomization.yaml").read_text())
    assert found["resources"] == list(MANIFESTS)
    base = yaml.safe_load((K8S / "kustomization.yaml").read_text())
    assert (found["namespace"], found["images"]) == (base["namespace"], base["images"])
    others = {path.name for path in FLEET.glob("*.yaml")} - {*MANIFESTS, "kustomization.yaml"}
    assert others == {JOB, "scaling.yaml", "nats-values.yaml"}


def test_workers_are_restricted_and_keep_nothing() -> None:
    """No claim, no right, limits on everything; the cache is bounded below its volume."""
    spec = worker()["spec"]["template"]["spec"]
    assert restrictions_broken(spec) == set()
    assert spec["automountServiceAccountToken"] is False
    (container,) = containers(spec)
    assert container["args"] == ["work"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    for kind in ("requests", "limits"):
        assert set(container["resources"][kind]) == {"cpu", "memory", "ephemeral-storage"}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert not any("persistentVolumeClaim" in volume for volume in volumes.values())
    assert all("sizeLimit" in one["emptyDir"] for one in volumes.values() if "emptyDir" in one)


def test_workers_are_probed_and_have_time_to_drain() -> None:
    """A worker that can't reach its servers is not ready, but no restart would help it."""
    spec = worker()["spec"]["template"]["spec"]
    (container,) = containers(spec)
    assert container["startupProbe"]["httpGet"]["path"] == "/startupz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    drain = settings.load({"HOME": "/"}, {}).settings.drain_sec
    assert spec["terminationGracePeriodSeconds"] > drain


@pytest.mark.parametrize(
    ("deployment", "secret_name", "key"),
    [
        (worker(), "worker", "worker.nk"),
        (daemon(), "daemon", "daemon.nk"),
        (init(), "admin", "admin.nk"),
    ],
)
def test_key_and_certificates_are_mounted_where_the_settings_name_them(
    deployment: dict[str, Any], secret_name: str, key: str
) -> None:
    """With a mode that keeps the key from other users, and no other key of the fleet."""
    spec = deployment["spec"]["template"]["spec"]
    (container,) = containers(spec)
    variables = {one["name"]: one.get("value", "x") for one in container["env"]}
    loaded = settings.load({**variables, "HOME": "/"}, {}).settings
    assert loaded.fleet == ("tls://wasmdrop-nats:4222",)
    assert loaded.fleet_key is not None
    assert loaded.fleet_ca is not None
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    volumes = {one["name"]: one for one in spec["volumes"]}
    (secret,) = [volume["secret"] for volume in volumes.values() if "secret" in volume]
    assert secret == {"secretName": f"wasmdrop-fleet-{secret_name}", "defaultMode": 0o440}
    assert volumes[mounts[str(loaded.fleet_key.parent)]]["secret"] is secret
    assert loaded.fleet_key.name == key
    assert volumes[mounts[str(loaded.fleet_ca.parent)]]["configMap"]["name"] == "wasmdrop-fleet-ca"
    assert loaded.fleet_ca.name == "ca.crt"
    assert restrictions_broken(spec) == set()


# --- The network


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Return whether a label selector selects a pod."""
    wanted = selector.get("matchLabels", {}).items()
    terms = selector.get("matchExpressions", [])
    assert all(term["operator"] == "In" for term in terms)
    return all(labels.get(key) == value for key, value in wanted) and all(
        labels.get(term["key"]) in term["values"] for term in terms
    )


def allows(direction: str, pod: dict[str, str], peer: dict[str, str], port: int) -> bool:
    """Return whether the policies let ``pod`` have traffic with ``peer`` in its own namespace."""
    policies = [
        policy["spec"]
        for policy in (*documents(FLEET / "network.yaml"), *built("fleet/daemon"))
        if policy["kind"] == "NetworkPolicy" and selects(policy["spec"]["podSelector"], pod)
    ]
    if not policies:
        return True
    assert any(direction.capitalize() in policy["policyTypes"] for policy in policies)
    return any(
        (peer == DNS or "namespaceSelector" not in end)
        and selects(end["podSelector"], peer)
        and port in {each["port"] for each in rule["ports"]}
        for policy in policies
        for rule in policy.get(direction, [])
        for end in rule["from" if direction == "ingress" else "to"]
        if "podSelector" in end
    )


def reaches(source: dict[str, str], target: dict[str, str], port: int) -> bool:
    """Return whether a pod may connect to another one."""
    return allows("egress", source, target, port) and allows("ingress", target, source, port)


def labels(deployment: dict[str, Any]) -> dict[str, str]:
    """Return the labels of the pods of a deployment."""
    found = deployment["spec"]["template"]["metadata"]["labels"]
    assert isinstance(found, dict)
    return found


def test_workers_reach_servers_and_dns_alone() -> None:
    """Neither the daemon, nor one another, nor another port of the servers."""
    own = labels(worker())
    assert reaches(own, SERVERS, 4222)
    assert reaches(own, DNS, 53)
    for port in (6222, 7777, 8222):
        assert not allows("egress", own, SERVERS, port)
    for other in (labels(daemon()), own, {"app": "other"}):
        for port in (53, 443, 4222, 9464):
            assert not allows("egress", own, other, port)


def test_servers_accept_daemons_workers_and_one_another_alone() -> None:
    """Strangers in the namespace get no connection at all."""
    assert reaches(labels(daemon()), SERVERS, 4222)
    assert reaches(labels(init()), SERVERS, 4222)
    assert reaches(SERVERS, SERVERS, 6222)
    assert not reaches(SERVERS, labels(worker()), 9464)
    sidecar = {"app.kubernetes.io/name": "wasmdrop", "app.kubernetes.io/component": "sidecar"}
    for stranger in ({"app": "other"}, sidecar, DNS):
        assert not reaches(stranger, SERVERS, 4222)
        assert not reaches(stranger, SERVERS, 6222)


def test_daemon_reaches_servers_and_dns_alone_and_without_a_fleet_nothing() -> None:
    """The policy of the daemon itself allows no connection; the component's two."""
    own = labels(daemon())
    assert reaches(own, DNS, 53)
    for other in (labels(worker()), own, {"app": "other"}):
        for port in (53, 443, 4222, 9464):
            assert not allows("egress", own, other, port)
            assert not allows("ingress", own, other, port)
    (plain,) = [one["spec"] for one in built() if one["kind"] == "NetworkPolicy"]
    assert selects(plain["podSelector"], own)
    assert plain["policyTypes"] == ["Ingress", "Egress"]
    assert plain["egress"] == []


# --- Scaling


def test_streams_are_made_for_the_names_of_the_daemon_and_the_pool() -> None:
    """With as many copies as there are servers."""
    (container,) = containers(init()["spec"]["template"]["spec"])
    (serving,) = containers(daemon()["spec"]["template"]["spec"])
    variables = {one["name"]: one.get("value", "") for one in serving["env"]}
    args = container["args"]
    pairs = dict(zip(args[2::2], args[3::2], strict=True))
    assert args[:2] == ["fleet", "init"]
    assert pairs == {
        "--daemon": variables["WASMDROP_FLEET_NAME"],
        "--pool": settings.load({"HOME": "/"}, {}).settings.fleet_pool,
        "--replicas": str(values()["config"]["cluster"]["replicas"]),
    }


def test_scaling_follows_the_backlog_of_the_daemons() -> None:
    """The target exists, and the query names metrics of the reference page."""
    (found,) = documents(FLEET / "scaling.yaml")
    assert (found["apiVersion"], found["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    Draft202012Validator(SCALED_OBJECT).validate(found["spec"])
    target = found["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", worker()["metadata"]["name"])
    (trigger,) = found["spec"]["triggers"]
    page = (K8S.parent / "docs/observability.md").read_text()
    metrics = re.findall(r"wasmdrop_\w+", trigger["metadata"]["query"])
    assert metrics
    assert [name for name in metrics if f"| `{name}` | gauge" not in page] == []
    assert float(trigger["metadata"]["threshold"]) > 0


# --- The servers


def values() -> dict[str, Any]:
    """Return the values of the servers' chart."""
    found = yaml.safe_load((FLEET / "nats-values.yaml").read_text())
    assert isinstance(found, dict)
    return found


def test_servers_are_three_with_tls_and_a_version_that_is_supported() -> None:
    """The chart's own version of the server is older than the oldest one that daemons accept."""
    found = values()
    assert found["config"]["cluster"]["replicas"] == 3
    assert found["config"]["nats"]["tls"]["enabled"]
    assert found["config"]["cluster"]["tls"]["merge"]["verify"] is True
    assert found["config"]["jetstream"]["enabled"]
    version = found["container"]["image"]["tag"].split("-")[0]
    assert tuple(map(int, version.split("."))) >= (2, 14, 3)


def test_servers_meet_pod_security_restricted() -> None:
    """As the namespace demands: the chart's defaults do not."""
    found = values()
    pod = found["podTemplate"]["merge"]["spec"]
    parts = ("container", "reloader", "promExporter")
    spec = {
        **pod,
        "volumes": [patch["value"] for patch in found["podTemplate"]["patch"]],
        "containers": [found[name]["merge"] for name in parts],
    }
    assert restrictions_broken(spec) == set()
    assert found["natsBox"]["enabled"] is False


def test_servers_include_the_accounts_from_a_secret() -> None:
    """The path is relative to the file that the chart mounts."""
    found = values()
    (volume,) = [patch["value"] for patch in found["podTemplate"]["patch"]]
    (mount,) = [patch["value"] for patch in found["container"]["patch"]]
    assert volume["name"] == mount["name"]
    included = Path("/etc/nats-config") / found["config"]["merge"]["$include"]
    assert str(included.parent.resolve()) == mount["mountPath"]
    assert included.name == "accounts.conf"


def test_servers_accept_the_configuration_that_the_chart_makes_of_the_values(
    tmp_path: Path,
) -> None:
    """With the accounts of `wasmdrop fleet config`; the chart itself is not at hand."""
    found = values()["config"]
    _context, authority = server_certificate(tmp_path, "127.0.0.1")
    chain = tmp_path / "server.pem"
    for directory, names in (("nats", ("tls.crt", "tls.key")), ("ca", ("ca.crt",))):
        (tmp_path / directory).mkdir()
        for name in names:
            source = authority if name == "ca.crt" else chain
            (tmp_path / directory / name).write_bytes(source.read_bytes())
    tls = {
        "cert_file": str(tmp_path / "nats/tls.crt"),
        "key_file": str(tmp_path / "nats/tls.key"),
        "ca_file": str(tmp_path / "ca/ca.crt"),
    }
    command = [sys.executable, "-m", "wasmdrop", "fleet", "config", "--accounts"]
    command += ["--keys", str(tmp_path / "keys"), "--daemon", "wasmdrop", "--pool", "default"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    included = tmp_path / "nats-config" / found["merge"]["$include"]
    for made in (tmp_path / "nats-config", included.parent):
        made.mkdir(exist_ok=True)
    included.write_text(printed.stdout)
    configured = {
        "server_name": "wasmdrop-nats-0",
        "tls": tls | found["nats"]["tls"]["merge"],
        "cluster": {"name": "wasmdrop-nats", "tls": tls | found["cluster"]["tls"]["merge"]},
        "jetstream": {"store_dir": str(tmp_path / "data")},
    }
    text = "".join(f"{name}: {json.dumps(value)}\n" for name, value in configured.items())
    file = tmp_path / "nats-config/nats.conf"
    file.write_text(f"include {found['merge']['$include']};\n{text}")
    checked = subprocess.run(
        [NATS_SERVER, "-t", "-c", file], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
