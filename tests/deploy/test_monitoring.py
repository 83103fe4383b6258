"""Metrics, alerts and the dashboard: valid for Prometheus, and consistent."""

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.deploy.base import ROOT
from tests.support.fib import with_fib
from tests.support.require import require_tools

MONITORING: Final = ROOT / "k8s/monitoring"
ALERTS: Final = MONITORING / "alerts.yaml"
DASHBOARD: Final = MONITORING / "dashboard.json"
PAGE: Final = ROOT / "docs/observability.md"


@pytest.fixture(scope="module")
def exposition(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the response of ``/metrics`` of a real daemon with a fleet and a hook, both useless."""
    daemon = with_fib(
        tmp_path_factory.mktemp("daemon"),
        WASMDROP_HTTP="127.0.0.1:0",
        WASMDROP_FLEET="nats://127.0.0.1:1",
        WASMDROP_ON_FINISHED="/bin/true",
    )
    with daemon.running():
        address = daemon.events("http-listening")[-1]["address"]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
            assert isinstance(answer.status, int)
            text: str = answer.read().decode()
    return text


def promtool(*arguments: str, given: str | None = None) -> str:
    """Run Prometheus' own checker; return its output. Fail if it finds a fault."""
    require_tools("promtool")
    done = subprocess.run(
        ["promtool", *arguments], input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    """Return the alerts."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> Iterator[dict[str, Any]]:
    """Give the dashboard's panels, rows left out."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] != "row":
            yield panel


def questions() -> list[str]:
    """Return the queries of alerts and dashboard, with Grafana's variables filled in."""
    asked = [rule["expr"] for rule in rules()]
    for panel in panels():
        asked += [target["expr"] for target in panel["targets"]]
    filled = [expression.replace("$__rate_interval", "5m") for expression in asked]
    return [re.sub(r"\$(job|instance)", ".*", expression) for expression in filled]


def test_metrics_pass_the_checker_of_prometheus(exposition: str) -> None:
    """Names, units, types and help texts."""
    assert promtool("check", "metrics", given=exposition) == ""
    with pytest.raises(AssertionError):
        promtool("check", "metrics", given="# TYPE jobs_total gauge\njobs_total 1\n")


def test_alerts_are_valid_and_each_fires_for_its_cause(tmp_path: Path) -> None:
    """And none for a healthy daemon."""
    shutil.copy(ALERTS, tmp_path / "alerts.yaml")
    shutil.copy(Path(__file__).parent / "alerts_test.yaml", tmp_path / "test.yaml")
    promtool("check", "rules", str(ALERTS))
    promtool("test", "rules", str(tmp_path / "test.yaml"))
    tried = (tmp_path / "test.yaml").read_text()
    for rule in rules():
        assert f'alertname="{rule["alert"]}"' in tried, rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}


def test_alerts_and_dashboard_are_valid_promql(tmp_path: Path) -> None:
    """Grafana would report a mistake only when a panel is shown."""
    recorded = [{"record": f"asked:{i}", "expr": expr} for i, expr in enumerate(questions())]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": recorded}]}))
    assert f"{len(recorded)} rules found" in promtool("check", "rules", str(path))


def test_alerts_and_dashboard_use_existing_metrics(exposition: str) -> None:
    """Each metric, each label and each value of a label that they name."""
    families = list(text_string_to_metric_families(exposition))
    samples = [sample for family in families for sample in family.samples]
    names = {sample.name for sample in samples}
    values: dict[str, set[str]] = {"job": {".*"}, "instance": {".*"}}
    for sample in samples:
        for label, value in sample.labels.items():
            values.setdefault(label, set()).add(value)
    asked = questions()
    assert len(asked) > 30
    for expression in asked:
        found = re.findall(r"\b(?:wasmdrop|process)_\w+", expression)
        assert found, expression
        assert set(found) <= names, (expression, set(found) - names)
        for label, _operator, text in re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', expression):
            assert set(text.split("|")) <= values[label], (expression, label)


def test_metrics_are_all_on_the_dashboard(exposition: str) -> None:
    """Except for those that the client library adds."""
    text = DASHBOARD.read_text()
    for family in text_string_to_metric_families(exposition):
        assert family.name in text or not family.name.startswith("wasmdrop_"), family.name


def test_dashboard_panels_do_not_overlap_and_name_their_data_source() -> None:
    """Their positions are set by hand."""
    taken: dict[tuple[int, int], int] = {}
    for panel in panels():
        place = panel["gridPos"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                assert x < 24
                taken[x, y] = panel["id"]
    identifiers = [panel["id"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    assert len(set(identifiers)) == len(identifiers)


def test_observability_page_lists_each_metric_with_its_type(exposition: str) -> None:
    """The table in docs/observability.md and a real daemon agree."""
    found = re.findall(r"^\| `(wasmdrop_\w+)[^|]*\| (\w+) \|", PAGE.read_text(), re.MULTILINE)
    told = {name: kind for name, kind in found if not name.startswith("wasmdrop_worker_")}
    families = [
        family
        for family in text_string_to_metric_families(exposition)
        if family.name.startswith("wasmdrop_") and not family.name.endswith("_info")
    ]
    names = [each.name + ("_total" if each.type == "counter" else "") for each in families]
    types = [each.type for each in families]
    infos = {"wasmdrop_build_info": "info", "wasmdrop_guest_info": "info"}
    assert told == infos | dict(zip(names, types, strict=True))


def test_observability_page_rule_for_the_operator_is_valid() -> None:
    """The shell of docs/observability.md, up to where it would be applied."""
    found = re.search(r"^(\{ echo '.*?\}) \| kubectl", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    done = subprocess.run(
        ["sh", "-ec", found[1]], cwd=ROOT, capture_output=True, text=True, check=True
    )
    made = yaml.safe_load(done.stdout)
    assert (made["apiVersion"], made["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert made["spec"] == yaml.safe_load(ALERTS.read_text())
