"""The Grafana dashboard asks only for what a server really tells."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from serve.watching.experiment_metrics import ExperimentMetrics
from serve.watching.metrics import Metrics

DASHBOARD = json.loads(
    (Path(__file__).parents[2] / "docs" / "grafana" / "switchyard.json").read_text()
)
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]] + [
    variable["query"] for variable in DASHBOARD["templating"]["list"]
]
SUFFIXES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}


def told() -> dict[str, set[str]]:
    """Return the labels of each of our series, by its name."""
    registry = CollectorRegistry()
    both = (Metrics(registry), ExperimentMetrics(registry))
    labels = {
        metric._name: set(metric._labelnames)
        for metrics in both
        for metric in vars(metrics).values()
        if hasattr(metric, "_labelnames")
    }
    return {
        family.name + suffix: labels[family.name] | ({"le"} if suffix == "_bucket" else set())
        for family in registry.collect()
        for suffix in SUFFIXES[family.type]
    }


def test_every_metric_it_shows_is_told_and_every_metric_told_is_shown() -> None:
    shown = set(re.findall(r"switchyard_\w+", " ".join(EXPRESSIONS)))
    assert shown <= told().keys()
    stems = {re.sub(r"_(bucket|count|sum)$", "", name) for name in told()}
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown} == stems


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_labels_it_groups_and_selects_by_exist(expression: str) -> None:
    known = told()
    labels = set().union(*(known[name] for name in re.findall(r"switchyard_\w+", expression)))
    for group in re.findall(r"by \(([^)]*)\)", expression):
        assert set(group.split(", ")) <= labels
    for selected in re.findall(r"(\w+)=~?\"", expression):
        assert selected in labels


def test_panels_lie_beside_each_other() -> None:
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
