"""The alert rules: Prometheus can parse them, they use metrics that exist, and the documentation lists these."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")
pytest.importorskip("prometheus_client", reason="prometheus-client is not installed: install hashbench[watch]")

from hashbench.torch.metrics import COUNTERS, FINDINGS, GAUGES, PREFIX

DOCS = Path(__file__).parent.parent / "docs"
METRICS = {PREFIX + name for name in GAUGES} | {f"{PREFIX}{name}_total" for name in (*COUNTERS, FINDINGS)}


def rules() -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: install hashbench[docs]")
    (group,) = yaml.safe_load((DOCS / "alerts" / "hashbench.rules.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def test_the_rules_are_promql_over_metrics_that_exist() -> None:
    parser = pytest.importorskip("promql_parser", reason="promql-parser is not installed: install hashbench[test]")
    used = set()
    for rule in rules():
        parser.parse(rule["expr"])
        used |= set(re.findall(rf"{PREFIX}\w+", rule["expr"]))
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= {"model", "instance", "kind"}
    assert used <= METRICS
    assert {PREFIX + name for name in ("damaged_slices", "up", "oldest_slice_age_seconds", "paused_tensors")} <= used


def test_only_findings_of_wrong_bytes_page() -> None:
    found = {}
    for rule in rules():
        if matchers := set(re.findall(rf"{PREFIX}{FINDINGS}_total(\{{.*?\}})? ?[>\[]", rule["expr"])):
            found[rule["alert"]] = matchers, rule["labels"]["severity"]
    wrong, moved = {'{kind!="moved"}'}, {'{kind="moved"}'}
    assert found == {
        "ModelFinding": (wrong, "page"),
        "ModelFindingSinceStart": (wrong, "page"),
        "ModelMoved": (moved, "ticket"),
    }


def test_the_documentation_lists_every_metric_and_alert() -> None:
    page = (DOCS / "verifying-in-a-serving-process.md").read_text()
    assert set(re.findall(rf"^\| `({PREFIX}\w+)`", page, re.MULTILINE)) == METRICS
    for rule in rules():
        assert f"`{rule['alert']}`" in page
