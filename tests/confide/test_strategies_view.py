"""``confide strategies``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from confide.cli import app
from tests.strategies.installing import install


def listed(*options: str) -> str:
    result = CliRunner().invoke(app, ["strategies", *options], env={"COLUMNS": "160"})
    assert result.exit_code == 0
    return result.output


def test_json_lists_each_with_what_it_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "momentum", "tests.strategies.momentum:Momentum")
    install(tmp_path, "median", "tests.strategies.median:Median")
    monkeypatch.syspath_prepend(tmp_path)
    found = {entry.pop("name"): entry for entry in json.loads(listed("--json"))}
    assert sorted(found) == ["fedsa", "fedsvd", "ffa", "lora", "median", "momentum", "scaffold"]
    assert {name for name, entry in found.items() if not entry["linear"]} == {"median"}
    exact = {"fedsvd", "ffa", "momentum", "scaffold"}
    assert {name for name, entry in found.items() if entry["exact"]} == exact
    assert found["momentum"]["keys"] == ["momentum"]
    assert found["ffa"]["paper"] == "Sun et al. 2024, FFA-LoRA (arXiv:2403.12313)"


def test_people_read_a_line_for_each() -> None:
    lines = [line.split() for line in listed().splitlines()]
    expected = [["fedsvd", "yes", "yes"], ["ffa", "yes", "yes"], ["lora", "yes", "no"]]
    assert all(line in [line[:3] for line in lines[1:]] for line in expected)


def test_what_another_package_calls_itself_is_shown_and_not_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "[red]mo\u202emen\x1btum", "tests.strategies.momentum:Momentum")
    monkeypatch.syspath_prepend(tmp_path)
    (line,) = [line for line in listed().splitlines() if "Hsu" in line]
    assert line.startswith(r"[red]mo\u202emen\x1btum  yes")
