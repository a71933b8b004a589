"""The alert rules name metrics that gateways have, and fire when they should."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from lookalike.access import metrics as access_metrics
from lookalike.runtime import reported_breaker, security
from server import metrics
from tests.conftest import REPOSITORY

ALERTS = REPOSITORY / "deploy" / "prometheus"
PROMTOOL = shutil.which("promtool") or shutil.which(str(REPOSITORY / ".servers/prometheus/usr/bin/promtool"))
OPERATIONS = REPOSITORY / "docs" / "operations.md"


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((ALERTS / "alerts.yaml").read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def test_every_metric_of_a_rule_is_one_of_the_gateway() -> None:
    # Metrics are declared once their module is imported.
    assert all((metrics, access_metrics, reported_breaker, security))
    names = {name for rule in rules() for name in re.findall(r"lookalike_\w+", rule["expr"])}
    declared = {family.name + ("_total" if family.type == "counter" else "") for family in REGISTRY.collect()}
    assert names
    assert names <= declared


def test_the_documentation_says_what_to_do_about_every_alert() -> None:
    text = OPERATIONS.read_text(encoding="utf-8")
    assert {rule["alert"] for rule in rules()} <= set(re.findall(r"`(Lookalike\w+)`", text))


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool: tools/debian.sh unpacks it from Debian's packages")
def test_the_rules_fire_as_their_tests_say() -> None:
    assert PROMTOOL is not None
    run = subprocess.run(
        [PROMTOOL, "test", "rules", "alerts_test.yaml"], cwd=ALERTS, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    untested = {rule["alert"] for rule in rules()} - set(
        re.findall(r"alertname: (\w+)\n\s+exp_alerts", (ALERTS / "alerts_test.yaml").read_text(encoding="utf-8"))
    )
    assert not untested
