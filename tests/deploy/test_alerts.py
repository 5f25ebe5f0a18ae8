"""The alerts speak of metrics that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from client.agent.agent_telemetry import Telemetry
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.service.server_telemetry import FolderMetrics
from tests.server.coordinators import make_coordinator

ROOT = Path(__file__).resolve().parent.parent.parent
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]


@pytest.fixture
def folder(tmp_path: Path) -> CoordinatorFolder:
    return make_coordinator(tmp_path, "north")


@pytest.fixture
def exported(folder: CoordinatorFolder) -> set[str]:
    telemetry = Telemetry()
    families = [*telemetry.registry.collect(), *FolderMetrics(folder).registry().collect()]
    names = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    # Over TLS alone, and on a GPU.
    return names | {"confide_agent_certificate_expiry_timestamp_seconds", "confide_agent_gpu_memory_bytes"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_is_about_what_there_is(rule: dict[str, object], exported: set[str]) -> None:
    asked = set(re.findall(r"\bconfide_\w+", str(rule["expr"])))
    assert asked <= exported
    assert asked or "up{" in str(rule["expr"])
    assert rule["labels"]
    assert rule["annotations"]


def test_the_page_about_monitoring_tells_all_of_them(exported: set[str]) -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text()
    ours = {name for name in exported if name.startswith("confide_")}
    assert {name for name in ours if name not in text} == set()
    known = {re.sub(r"_(count|sum|bucket)$", "", name) for name in re.findall(r"\bconfide_\w+", text)}
    assert {name for name in known if name not in ours | {"confide_agent", "confide_coordinator"}} == set()
