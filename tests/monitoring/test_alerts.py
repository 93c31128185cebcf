"""The dashboard and the alerts that are shipped ask for what /metrics tells, by its labels."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from codeexec.http.request_metrics import Histogram
from environments_app.models import Environment, EnvironmentBuild, NodeBuild
from sessions_app.models import Node
from sessions_app.models.statistics import Addition, add
from sessions_app.monitoring import metrics
from sessions_app.monitoring.metrics.counters import METRICS
from tests.node.test_isolation_checks import finished

FOLDER = Path(__file__).resolve().parents[2] / "config" / "monitoring"
ALERTS: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {"$__rate_interval": "1m", "$environment": ".*", "$node": ".*"}


@dataclass
class Selector:
    name: str
    labels: set[str]
    """Those that it is chosen by."""


def selectors(expression: str) -> list[Selector]:
    """What a query asks for. Raises ValueError where it can't be parsed."""
    for variable, text in VARIABLES.items():
        expression = expression.replace(variable, text)
    found: list[Selector] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            chosen = {matcher.name for matcher in node.matchers.matchers}
            found.append(Selector(name=str(node.name), labels=chosen))

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def grouped_by(expression: str) -> set[str]:
    """Labels in `by (…)` and `on (…)`."""
    lists = re.findall(r"\b(?:by|on) \(([^)]*)\)", expression)
    return {label.strip() for labels in lists for label in labels.split(",") if label.strip()}


def queries() -> dict[str, str]:
    found = {rule["alert"]: rule["expr"] for rule in ALERTS}
    for panel in PANELS:
        for target in panel["targets"]:
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            name = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert name is not None
            found[f"variable {name[2]}"] = f"sum by ({name[2]}) ({name[1]})"
    return found


def promoted_build(environment: Environment, node: Node) -> None:
    now = timezone.now()
    build = EnvironmentBuild.objects.create(environment=environment, dockerfile="FROM scratch")
    NodeBuild.objects.create(
        build=build, node=node.name, status="failed", started_at=now, finished_at=now
    )
    Environment.objects.filter(pk=environment.pk).update(build=build)


@pytest.fixture
def exported(db: None, python: Environment, this: Node) -> dict[str, set[str]]:
    """Samples that a service tells which has done something of everything, and their labels."""
    finished(python, this, escaped=("dns",))
    promoted_build(python, this)
    for metric in METRICS:
        histogram = Histogram()
        histogram.observe(0.1)
        buckets = histogram.buckets if metric.is_histogram else ()
        labels = [f"some {label}" for label in metric.labels]
        add([Addition(name=metric.total, labels=labels, buckets=buckets)])
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }


def test_every_query_asks_for_what_there_is(exported: dict[str, set[str]]) -> None:
    for where, expression in queries().items():
        asked = selectors(expression)
        assert asked, f"{where} asks for nothing"
        for selector in asked:
            assert selector.name in exported, f"{where}: there is no {selector.name}"
            unknown = selector.labels - exported[selector.name]
            assert not unknown, f"{where}: {selector.name} has no label {unknown}"
        labels = set().union(*(exported[selector.name] for selector in asked))
        assert grouped_by(expression) <= labels, where


def test_a_query_that_is_none_is_noticed() -> None:
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        selectors("sum by (le) (rate(code_executor_http_requests_total[5m])")


def test_everything_exported_is_shown(exported: dict[str, set[str]]) -> None:
    """A figure that no panel shows need not be counted."""
    shown = {selector.name for query in queries().values() for selector in selectors(query)}
    of_histograms = ("_bucket", "_sum", "_count")
    names = {name for name in exported if not name.endswith(of_histograms)}
    assert names <= shown


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    notes = rule["annotations"]
    assert set(notes) == {"summary", "description", "action", "runbook"}
    assert notes["runbook"] == f"docs/monitoring.md#{rule['alert'].lower()}"
    assert all(notes[part].endswith(".") for part in ("summary", "description", "action"))
    assert rule["labels"]["severity"] in ("critical", "warning")
    if "for" in rule:
        promql_parser.parse_duration(rule["for"])


def test_templates_of_alerts_use_labels_that_are_left() -> None:
    for rule in ALERTS:
        texts = " ".join(rule["annotations"].values())
        used = set(re.findall(r"\$labels\.(\w+)", texts))
        aggregated = re.search(r"\b(?:sum|absent|max)\b", rule["expr"])
        if used and aggregated:
            assert used <= grouped_by(rule["expr"]) - {"le"}, rule["alert"]


def test_names_are_used_once() -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert len(names) == len(set(names))
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_the_dashboard_names_no_data_source() -> None:
    (source, *_) = DASHBOARD["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    for panel in PANELS:
        for part in (panel, *panel["targets"]):
            assert part["datasource"]["uid"] == "${datasource}"


def test_panels_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_the_example_names_the_alerts_that_are_shipped() -> None:
    example = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert [FOLDER / name for name in example["rule_files"]] == [FOLDER / "alerts.yml"]
    (job,) = example["scrape_configs"]
    assert job["authorization"]["type"] == "Api-Key"
