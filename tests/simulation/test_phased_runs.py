"""Whole runs in phases: what each one moves, what is told of it, and that a run goes on as it was."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from confide.audit_view import run_table
from confide.plan_view import print_forecast
from privacy.errors import UserError
from protocol.job.layout import AdapterLayout
from runs.progress import Progress, describe_round
from runs.run import Run
from runs.run_audit import audit_run
from runs.run_folder import RoundRecord, RunFolder
from simulation.attack.empirical_audit import check_canaries_fit
from simulation.forecast.forecast import Forecast, forecast
from simulation.simulate import resume, simulate
from simulation.simulated_federation import World
from tests import tiny
from tests.protocol.job.test_phases import HEADS, WHOLE, phased

SHARES = HEADS | {"share": 0.2}, WHOLE | {"share": 0.8, "batch_size": 32, "decay": "linear"}
KEYED: dict[str, Any] = {"seeds": {"noise": 5}}


@pytest.fixture(scope="module")
def layout(tiny_folder: Path) -> AdapterLayout:
    return World(tiny.job(tiny_folder)).adapted.layout


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    job = phased(tiny_folder, *SHARES, aggregation={"kind": "masks"}, **KEYED)
    return simulate(job, runs=tmp_path_factory.mktemp("phased"))


@pytest.fixture(scope="module")
def foretold(tiny_folder: Path) -> Forecast:
    return forecast(phased(tiny_folder, *SHARES))


class StopAfterTwo(Progress):
    """Stops a run once its second round is on the disk."""

    def round(self, record: RoundRecord) -> None:
        if record.round == 2:
            raise KeyboardInterrupt


def test_the_head_moves_first_and_alone(whole: Run, layout: AdapterLayout) -> None:
    folder = RunFolder.open(whole.folder)
    states = [layout.split(folder.load_adapter(number, layout)) for number in range(6)]
    for number in range(1, 6):
        moved = {name for name, old in states[number - 1].items() if (old != states[number][name]).any()}
        heads = {name for name in states[0] if ".lora_" not in name}
        assert moved == heads if number < 3 else moved > heads, number


def test_a_run_that_stopped_between_phases_goes_on_the_same(
    whole: Run, layout: AdapterLayout, tiny_folder: Path, tmp_path: Path
) -> None:
    job = phased(tiny_folder, *SHARES, aggregation={"kind": "masks"}, **KEYED)
    with pytest.raises(KeyboardInterrupt):
        simulate(job, runs=tmp_path, name="cut", progress=StopAfterTwo())
    resumed = resume(tmp_path / "cut")
    assert len(resumed.rounds) == 5
    first, second = (RunFolder.open(run.folder).load_adapter(5, layout) for run in (whole, resumed))
    # A sum under other masks is the same sum.
    np.testing.assert_array_equal(first, second)


def test_an_audit_knows_the_phase_of_each_receipt(whole: Run) -> None:
    folder = RunFolder.open(whole.folder)
    audit = audit_run(folder, sorted(whole.folder.glob("sites/*/ledger.db")))
    assert [(one.name, one.first_round, one.last_round) for one in audit.phases] == [
        ("heads", 1, 2),
        ("whole", 3, 5),
    ]
    assert {(site.taken, site.planned) for site in audit.sites} == {(10, 10)}
    assert all(
        site.epsilon <= 8.0 and site.recomputed == pytest.approx(site.epsilon, rel=0.02)
        for site in audit.sites
    )
    assert run_table(audit)["phases"][1] == {"name": "whole", "first_round": 3, "last_round": 5}


def test_people_read_which_phase_a_round_is_in(whole: Run) -> None:
    phases = RunFolder.open(whole.folder).manifest.job.phases
    assert [describe_round(number, phases) for number in (2, 3)] == ["2/5 heads", "3/5 whole"]
    page = (whole.folder / "report.html").read_text()
    assert page.count("<td>heads</td>") == 2
    assert page.count("<td>whole</td>") == 3
    assert "10 local steps in 2 phases" in page


def test_a_plan_tells_each_phase_and_the_whole(foretold: Forecast) -> None:
    heads, whole = foretold.phases
    assert (heads.steps, whole.steps, heads.train, whole.train) == (4, 6, "head", "fedsvd")
    assert heads.parameters < whole.parameters == foretold.parameters
    total = max(site.epsilon["pld"] for site in foretold.sites)
    assert heads.epsilon < whole.epsilon < total <= 8.0 < 8.0 + heads.epsilon
    # Noises add up in squares, signals as they are: between the better phase and the worse.
    runs = sorted([heads.noise.run, whole.noise.run])
    assert 0 < foretold.noise.run < runs[1]
    table = json.loads(json.dumps(foretold.as_table()))
    assert [one["name"] for one in table["phases"]] == ["heads", "whole"]
    console = Console(width=80, file=io.StringIO())
    print_forecast(foretold, console)
    shown = console.file.getvalue()
    assert "in 2 phases" in shown
    assert [line.split()[:4] for line in shown.splitlines() if line.startswith(("heads", "whole"))] == [
        ["heads", "2", "4", "head"],
        ["whole", "3", "6", "fedsvd"],
    ]


def test_sites_together_train_as_each_phase_says(tiny_folder: Path, tmp_path: Path) -> None:
    """Fresh noise: what is compared is what must not depend on it."""
    run = simulate(phased(tiny_folder, *SHARES, privacy={"epsilon": 20.0}), runs=tmp_path)
    assert audit_run(RunFolder.open(run.folder)).rounds == 5


def test_attacks_on_phases_are_refused(tiny_folder: Path) -> None:
    with pytest.raises(UserError, match="phase: expected none, got 2"):
        check_canaries_fit(phased(tiny_folder, strategy={"name": "ffa"}))


def test_whole_sites_are_hidden_in_phases(tiny_folder: Path, tmp_path: Path) -> None:
    """Their noise is in each sum alike, whatever was trained."""
    job = phased(
        tiny_folder,
        HEADS | {"local_steps": 1},
        WHOLE | {"batch_size": 32},
        privacy={"unit": "site", "mechanism": "gaussian", "noise": "central", "clipping_norm": 0.1},
        aggregation={"kind": "masks"},
    )
    run = simulate(job, runs=tmp_path)
    audit = audit_run(RunFolder.open(run.folder), sorted(run.folder.glob("sites/*/ledger.db")))
    assert {(site.taken, site.planned) for site in audit.sites} == {(5, 5)}
