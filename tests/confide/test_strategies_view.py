"""``confide strategies``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from confide.cli import app
from protocol.job.strategy import find_strategy, listed_strategies
from tests.strategies.installing import install


def listed(*options: str, columns: int = 160) -> str:
    result = CliRunner().invoke(app, ["strategies", *options], env={"COLUMNS": str(columns)})
    assert result.exit_code == 0
    return result.output


def test_json_lists_each_with_what_it_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "momentum", "tests.strategies.momentum:Momentum")
    install(tmp_path, "middle", "tests.strategies.middle:Middle")
    monkeypatch.syspath_prepend(tmp_path)
    found = {entry.pop("name"): entry for entry in json.loads(listed("--json"))}
    assert sorted(found) == sorted([*listed_strategies(), "middle", "momentum"])
    linear = {name: entry["linear"] for name, entry in found.items()}
    assert (linear["middle"], linear["momentum"], linear["krum"]) == (False, True, False)
    assert (found["fedsvd"]["exact"], found["fedit"]["exact"]) == (True, False)
    assert (found["fedsvd"]["compression"], found["ffa"]["compression"]) == (False, True)
    assert found["rolora"]["trains"] == [["B", "head"], ["A", "head"]]
    assert found["krum"]["keys"] == ["malicious"]
    assert found["momentum"]["keys"] == ["momentum"]
    assert found["ffa"]["paper"] == "Sun et al. 2024, FFA-LoRA (arXiv:2403.12313)"


def test_people_read_a_line_for_each() -> None:
    lines = [line.split() for line in listed().splitlines()]
    assert ["fedsvd", "B", "head", "yes", "yes", "sums"] in [line[:6] for line in lines[1:]]
    assert ["fedit", "A", "B", "head", "yes", "no"] in [line[:6] for line in lines[1:]]


def test_no_word_is_broken_in_eighty_columns() -> None:
    narrow, wide = (listed(columns=columns) for columns in (80, 160))
    assert max(len(line.rstrip()) for line in narrow.splitlines()) <= 80
    assert sorted(narrow.split()) == sorted(wide.split())
    for name in listed_strategies():
        assert any(
            line.split() == [name, *find_strategy(name).paper.split()] for line in narrow.splitlines()
        )


def test_what_another_package_calls_itself_is_shown_and_not_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "[red]mo\u202emen\x1btum", "tests.strategies.momentum:Momentum")
    monkeypatch.syspath_prepend(tmp_path)
    lines = [line for line in listed().splitlines() if "tum  " in line]
    assert lines[0].startswith(r"[red]mo\u202emen\x1btum  B head")
    assert lines[1].startswith(r"  [red]mo\u202emen\x1btum  Hsu et al. 2019")
