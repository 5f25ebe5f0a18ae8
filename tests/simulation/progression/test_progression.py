"""Stages that run one after another, from the file that people write to what they leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.errors import JobError, RunError
from protocol.job.job_file import job_toml, read_job_file
from protocol.job.stages_file import is_stages_file, is_stages_folder, read_stages_file
from runs.progress import Progress
from runs.run_folder import RoundRecord, RunFolder
from simulation.progression.progression import PAGE, Progression
from simulation.progression.stage_noise import plan_stages
from simulation.progression.stages import read_stages
from tests import tiny_chat
from tests.confide.test_cli import call

SMALL = {
    "rounds": 2,
    "local_steps": 1,
    "batch_size": 16,
    "physical_batch_size": 8,
    "optimizer": "sgd",
    "learning_rate": 0.5,
}
STAGES = """
name = "assistant"
epsilon = 6.0
delta = 1e-3

[[stage]]
job = "instruction.toml"
share = 0.6

[[stage]]
job = "preferences.toml"
settings = ["training.learning_rate=0.25"]
share = 0.4
"""


def write_job(folder: Path, task: str, **changes: Any) -> Path:
    data = {"limit": 80} | ({"max_answer": 8} if task == "preferences" else {"answers": 2})
    sections = {"training": SMALL, "adapter": {"layers_to_transform": [1]}, "data": data}
    for section, values in changes.items():
        sections[section] = sections.get(section, {}) | values
    path = folder / f"{task}.toml"
    path.write_text(job_toml(tiny_chat.job(folder, task, **sections)))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two jobs and the file of their stages."""
    folder = tmp_path_factory.mktemp("stages")
    for task in ("instruction", "preferences"):
        write_job(folder, task)
    (folder / "stages.toml").write_text(STAGES)
    return folder


class Stopping(Progress):
    """Ctrl-C after the first round."""

    def round(self, record: RoundRecord) -> None:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def begun(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Progression:
    """The first stage has ended, and the second was interrupted and taken up again."""
    place = tmp_path_factory.mktemp("runs") / "assistant"
    Progression.begin(plan_stages(read_stages(folder / "stages.toml")), place).run(0, progress=Progress())
    with pytest.raises(KeyboardInterrupt):
        Progression(place).run(1, progress=Stopping())
    assert Progression(place).left == (1,)
    found = Progression(place)
    found.run(1, progress=Progress())
    return found


def test_the_second_stage_begins_with_what_the_first_has_trained(begun: Progression) -> None:
    first, second = (RunFolder.open(begun.path / stage.run) for stage in begun.stages)
    assert begun.left == ()
    assert second.manifest.job.training.warm_start == str(begun.adapter(0).resolve())
    trained = (first.path / "rounds" / "002" / "adapter_model.safetensors").read_bytes()
    assert (second.path / "rounds" / "000" / "adapter_model.safetensors").read_bytes() == trained
    assert second.manifest.start_digest
    # Preferences are of what the model said then: nothing has been gained before the first round.
    assert second.facts["measures_before"]["margin"] == pytest.approx(0.0, abs=1e-6)
    assert second.facts["loss_before"] == pytest.approx(np.log(2), abs=1e-6)
    assert len(first.records()) == len(second.records()) == 2
    assert second.manifest.job.training.learning_rate == 0.25


def test_what_all_stages_cost_is_their_composition(begun: Progression) -> None:
    spent = begun.spent()
    assert set(spent.together) == {"site-1", "site-2"}
    alone = [one.epsilon for one in spent.stages]
    highest = spent.highest
    assert highest is not None
    assert max(one for one in alone if one is not None) < highest <= 6.0
    assert highest < sum(one for one in alone if one is not None)
    for stage, one in zip(begun.stages, alone, strict=True):
        assert one is not None
        assert one <= stage.job.privacy.epsilon + 1e-9
    page = (begun.path / PAGE).read_text()
    for stage in begun.stages:
        assert f'href="{stage.run}/report.html"' in page
        assert (begun.path / stage.run / "report.html").exists()
    assert "of 6 at δ = 1e-3" in page.replace("0.001", "1e-3")


def test_a_folder_is_not_begun_twice_and_another_is_none(begun: Progression, tmp_path: Path) -> None:
    assert is_stages_folder(begun.path)
    with pytest.raises(RunError, match="no folder of stages"):
        Progression(tmp_path)


def test_a_command_shows_what_is_planned(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "plan", folder / "stages.toml", "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert [one["task"] for one in found["stages"]] == ["instruction", "preferences"]
    assert 5.5 < max(found["epsilon"].values()) <= 6.0
    assert found["stages"][0]["sites"]["site-1"]["steps"] == 2


def test_stages_that_have_ended_are_not_run_again(
    begun: Progression, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "simulate", "--resume", begun.path, "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert found["event"] == "stages"
    assert found["epsilon"] == dict(begun.spent().together)
    assert call(monkeypatch, "simulate", "--resume", begun.path) == 0
    assert "A unit that is in each of these stages has lost ε = " in capfd.readouterr().out


@pytest.mark.exhaustive
def test_one_command_runs_both(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--runs", tmp_path, "--run-name", "all", "--workers", "1", "--set", "training.rounds=1"]
    assert call(monkeypatch, "simulate", folder / "stages.toml", *options) == 0
    told = capfd.readouterr().out
    assert "Stage 1 of 2: tiny-chat" in told
    assert "Stage 2 of 2: tiny-chat" in told
    assert (tmp_path / "all" / PAGE).exists()
    assert call(monkeypatch, "simulate", folder / "stages.toml", *options) == 1  # it exists


# What is refused before anything runs.


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("share = 0.6", "share = 0.5", "expected a share in each stage or in none, and 1 as their sum"),
        ("share = 0.6", "", "got none, 0.4"),
        ("epsilon = 6.0", "", "epsilon: missing"),
        ("epsilon = 6.0", "epsilon = 6.0\nepsilons = 1", "epsilons: unknown key"),
        ('job = "preferences.toml"', 'job = "none.toml"', "no job file"),
        (
            '"training.learning_rate=0.25"',
            '"adapter.rank=2"',
            r"adapter: expected the same \[adapter\] in all stages",
        ),
        ('"training.learning_rate=0.25"', '"model.checkpointing=true"', r"model: expected the same"),
        ('"training.learning_rate=0.25"', '"federation.sites=3"', "the same sites in all stages"),
        ('"training.learning_rate=0.25"', '"privacy.mechanism=none"', r"privacy\.mechanism: expected one"),
        ('"training.learning_rate=0.25"', '"metrics.epsilon=1.0"', r"metrics\.epsilon: expected none"),
        (
            '"training.learning_rate=0.25"',
            '"training.warm_start=x"',
            r"training\.warm_start: expected",
        ),
        ('"training.learning_rate=0.25"', '"strategy.name=fedsb"', r"stage|strategy"),
        (
            '"training.learning_rate=0.25"',
            "\"privacy.mechanism='laplace'\"",
            r'privacy\.mechanism: expected "gaussian"',
        ),
    ],
)
def test_stages_that_do_not_fit_are_refused(folder: Path, old: str, new: str, words: str) -> None:
    path = folder / "wrong.toml"
    assert STAGES.count(old) == 1
    path.write_text(STAGES.replace(old, new))
    with pytest.raises(JobError, match=words):
        read_stages(path)


def test_noise_that_repeats_is_another_in_each_stage(folder: Path) -> None:
    found = read_stages(folder / "stages.toml", settings=["seeds.noise=7"])
    assert [one.job.seeds.noise for one in found.stages] == [7, 8]


def test_a_job_is_no_file_of_stages(folder: Path) -> None:
    assert is_stages_file(folder / "stages.toml")
    assert not is_stages_file(folder / "instruction.toml")
    assert not is_stages_file(folder / "nothing.toml")
    with pytest.raises(JobError, match="is a file of stages, and no job"):
        read_job_file(folder / "stages.toml")
    assert read_stages_file(folder / "stages.toml").stage[1].settings == ["training.learning_rate=0.25"]
