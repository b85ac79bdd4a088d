"""The dashboard shows what the service counts, and nothing that does not exist."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quartzite.telemetry.metrics import METRICS, Metric

FILE = Path(__file__).parents[2] / "deploy" / "grafana-dashboard.json"
OF_THE_PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
OF_GRAFANA = {"job", "instance"}
SERIES = re.compile(r"\b((?:quartzite|process|python)_\w+)(?:\{([^}]*)\})?")


def series_of(metric: Metric) -> set[str]:
    """Return the names under which `metric` is scraped."""
    parts = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
    return {metric.name + part for part in parts}


def expressions(part: Any) -> Iterator[str]:
    """Yield every query of the dashboard, those of its variables too."""
    if isinstance(part, dict):
        yield from [value for key, value in part.items() if key in {"expr", "query"} and isinstance(value, str)]
    if isinstance(part, dict | list):
        for child in part.values() if isinstance(part, dict) else part:
            yield from expressions(child)


@pytest.fixture(scope="module")
def dashboard() -> Any:
    """The dashboard as Grafana reads it."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def used(dashboard: Any) -> set[tuple[str, str]]:
    """Return every series named in a query with its selector."""
    return {found for expression in expressions(dashboard) for found in SERIES.findall(expression)}


def test_the_dashboard_uses_only_metrics_that_exist(dashboard: Any) -> None:
    """Each series of a query is declared by the service, or a fact of the process."""
    known = set().union(*map(series_of, METRICS)) | OF_THE_PROCESS
    assert {name for name, _ in used(dashboard)} <= known


def test_the_dashboard_shows_every_metric(dashboard: Any) -> None:
    """What is counted can be seen."""
    shown = {name for name, _ in used(dashboard)}
    assert [metric.name for metric in METRICS if not series_of(metric) & shown] == []


def test_the_dashboard_selects_by_labels_that_exist(dashboard: Any) -> None:
    """A selector on a label that its metric does not have would never match."""
    labels = {name: set(metric.labels) | OF_GRAFANA | {"le"} for metric in METRICS for name in series_of(metric)}
    wrong = [
        (name, label)
        for name, selector in used(dashboard)
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)
        if label not in labels.get(name, OF_GRAFANA)
    ]
    assert wrong == []


def test_panels_have_a_place_and_a_number_each(dashboard: Any) -> None:
    """Grafana takes the file as it is: numbers are unique, and no two panels cover each other."""
    panels = dashboard["panels"]
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(set(cells)) == len(cells)
    assert {x for x, _ in cells} == set(range(24))
