"""``confide plan``, as people and scripts meet it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from client.session import plan_training
from confide.plan_view import print_forecast
from privacy.identity import Identity
from privacy.ledger.ledger import Charge, Ledger
from protocol.job.job_file import job_toml
from simulation.forecast.forecast import Forecast, forecast
from tests import tiny
from tests.confide.test_cli import call

HOPELESS = ["--set", "privacy.epsilon=0.01"]


@pytest.fixture
def job_file(tiny_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(job_toml(tiny.job(tiny_folder)))
    return path


def test_json_is_one_object_and_nothing_else(
    job_file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "plan", job_file, "--json") == 0
    output, errors = capfd.readouterr()
    found = json.loads(output)
    assert errors == ""
    assert {site["name"] for site in found["sites"]} == {"site-1", "site-2", "site-3"}
    keys = {"name", "examples", "sampling_rate", "steps", "noise_multiplier", "noise_std", "epsilon"}
    assert set(found["sites"][0]) == keys | {"bands", "noise_ratio", "delta", "cautions"}
    assert set(found["noise"]) == {"site_step", "step", "run", "verdict", "hopeless_above"}
    assert set(found["traffic"]) == {"up", "down", "total"}
    assert set(found["effort"]) == {"seconds", "memory_bytes", "disk_bytes"}
    assert set(found["suggestions"][0]) == {"text", "settings", "before", "after"}
    assert found["budgets"] is None


def shown(found: Forecast, width: int) -> str:
    """The forecast as a terminal of this width shows it."""
    console = Console(width=width, file=io.StringIO())
    print_forecast(found, console)
    return console.file.getvalue()


@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_a_hopeless_job_is_shown_and_refused_unless_forced(
    job_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    json_too: list[str],
) -> None:
    assert call(monkeypatch, "plan", job_file, *HOPELESS, *json_too) == 2
    output, errors = capfd.readouterr()
    assert "hopeless" in output
    assert "fewest_sites" in output if json_too else "low from" in output
    assert errors.startswith("confide: noise swamps the signal")
    assert "what would help" in errors
    assert "Traceback" not in errors
    assert call(monkeypatch, "plan", job_file, *HOPELESS, *json_too, "--force") == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("privacy.epsilon=0", "privacy.epsilon"),
        ("privacy.epsilon=-1", "privacy.epsilon"),
        ("training.batch_size=500", "site-1: expected batch_size <= examples"),
        ("training.round=1", "training.round: unknown key"),
    ],
)
def test_mistakes_end_with_one_message_and_two(
    job_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    setting: str,
    words: str,
) -> None:
    assert call(monkeypatch, "plan", job_file, "--set", setting) == 2
    output, errors = capfd.readouterr()
    assert words in errors
    assert "Traceback" not in errors
    assert output == ""


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("mechanism", ["gaussian", "laplace", "none"])
@pytest.mark.exhaustive(but=2)
def test_nothing_is_cut_off(tiny_folder: Path, width: int, mechanism: str) -> None:
    job = tiny.job(tiny_folder, privacy={"mechanism": mechanism, "epsilon": 0.5})
    text = shown(forecast(job), width)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width
    assert ("none for Laplace" in text) == (mechanism == "laplace")
    assert ("What would lower the noise" in text) == (mechanism != "none")


@pytest.mark.exhaustive
def test_many_sites_are_not_all_listed(tiny_folder: Path) -> None:
    job = tiny.job(
        tiny_folder,
        federation={"sites": 30, "partition": {"dirichlet": 5.0}},
        training={"batch_size": 1, "physical_batch_size": 1},
    )
    text = shown(forecast(job), 80)
    assert " larger" in text
    assert sum(line.startswith("site-") for line in text.splitlines()) == 11


def test_a_sites_ledger_says_what_is_left(
    tiny_folder: Path,
    job_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    home = tmp_path / "home"
    job = tiny.job(tiny_folder)
    ledger = Ledger.open(home, site="clinic", identity=Identity.generate(), epsilon=12.0, delta=1e-2)
    dataset = ledger.register(bytes([number]) for number in range(64))
    before = (home / "ledger.db").read_bytes()

    def budgets() -> list[dict[str, object]]:
        assert call(monkeypatch, "plan", job_file, "--json", "--site", home) == 0
        return list(json.loads(capfd.readouterr().out)["budgets"])

    (fresh,) = budgets()
    assert (home / "ledger.db").read_bytes() == before
    assert (fresh["site"], fresh["examples"], fresh["epsilon"]) == ("clinic", 64, 12.0)
    assert fresh["spent"] == 0.0
    assert 0 < float(str(fresh["after"])) <= 12.0
    plan = plan_training(job, 64)
    ledger.reserve(Charge(dataset=dataset, run="r", manifest="m", plan=plan, round=1, steps=2))
    spent = ledger.epsilon(dataset)
    ledger.close()
    (left,) = budgets()
    assert left["spent"] == pytest.approx(spent) == pytest.approx(fresh["after"])
    assert left["after"] is None
    assert left["refusal"]
    assert call(monkeypatch, "plan", job_file, "--site", home) == 0
    assert "clinic, 64 examples" in capfd.readouterr().out
    assert call(monkeypatch, "plan", job_file, "--site", tmp_path / "nowhere") == 1
    assert "no ledger at" in capfd.readouterr().err
