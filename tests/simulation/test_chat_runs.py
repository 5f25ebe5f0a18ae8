"""Whole runs of a chat model: conversations with the answers that they end in, and pairs of answers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from runs.kept_answers import read_answers
from runs.report.report import render_report
from runs.run import Run
from runs.run_folder import RunFolder
from simulation.simulate import resume, simulate
from simulation.simulated_federation import World
from tests import tiny_chat

# Keyed: who is drawn decides how much so short a run learns.
FREE: dict[str, Any] = {"privacy": {"mechanism": "none"}, "seeds": {"noise": 1}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chat")


@pytest.fixture(scope="module")
def instructed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    job = tiny_chat.job(folder, "instruction", **FREE)
    return simulate(job, runs=tmp_path_factory.mktemp("runs"))


def before(run: Run) -> float:
    return float(RunFolder.open(run.folder).facts["loss_before"])


@pytest.mark.statistics
def test_answers_are_learned(instructed: Run) -> None:
    assert instructed.rounds[-1].loss < 0.9 * before(instructed)
    assert instructed.measures["perplexity"] == pytest.approx(math.exp(instructed.rounds[-1].loss))


def test_the_report_has_what_the_model_says(instructed: Run) -> None:
    folder = RunFolder.open(instructed.folder)
    kept = read_answers(folder)
    assert kept is not None
    assert len(kept.after) == 3
    for early, late in kept.pairs:
        assert early.prompt == late.prompt
        assert early.prompt.startswith("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n")
        assert early.prompt.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
        assert late.reference == tiny_chat.answer_of(late.prompt)
        assert "<|" not in late.greedy
    assert [early.greedy for early in kept.before] != [late.greedy for late in kept.after]
    page = render_report(folder)
    assert "What the model says" in page
    assert "ROUGE-L" in page
    assert "&lt;|begin_of_text|&gt;" in page


def test_a_run_that_lost_its_answers_gives_them_again(instructed: Run) -> None:
    path = instructed.folder / "answers.json"
    first = path.read_bytes()
    path.unlink()
    resume(instructed.folder)
    assert path.read_bytes() == first


@pytest.mark.exhaustive
def test_no_answers_are_asked_for(folder: Path, tmp_path: Path) -> None:
    run = simulate(
        tiny_chat.job(folder, "instruction", data={"answers": 0}, training={"rounds": 1}), runs=tmp_path
    )
    assert not (run.folder / "answers.json").exists()
    assert "What the model says" not in run.report.read_text()


@pytest.mark.exhaustive
@pytest.mark.parametrize(("data", "forks"), [({"max_answer": 8}, True), ({}, False)])
def test_preferences_are_learned(folder: Path, tmp_path: Path, data: dict[str, int], forks: bool) -> None:
    """In one row a pair, and in two where a row could be longer than the model takes."""
    job = tiny_chat.job(folder, "preferences", **FREE, data=data, training={"rounds": 3})
    assert World(job).adapted.base.reader.forks is forks
    run = simulate(job, runs=tmp_path)
    facts = RunFolder.open(run.folder).facts
    # Nothing is trained: the margin is nothing, and the loss that of a coin, log 2.
    assert facts["measures_before"]["margin"] == pytest.approx(0.0, abs=1e-5)
    assert facts["loss_before"] == pytest.approx(math.log(2), abs=1e-5)
    assert run.rounds[-1].loss < facts["loss_before"]
    assert run.measures["margin"] > 0
    assert run.measures["accuracy"] > facts["measures_before"]["accuracy"]


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("task", ["preferences", "instruction"])
def test_both_run_under_masks_with_privacy_and_tell_metrics(
    folder: Path, tmp_path: Path, task: str
) -> None:
    job = tiny_chat.job(
        folder,
        task,
        training={"rounds": 1, "local_steps": 1, "batch_size": 8, "physical_batch_size": 8},
        data={"limit": 60},
        aggregation={"kind": "masks"},
        federation={"sites": 3},
        metrics={"epsilon": 1.0},
    )
    run = simulate(job, runs=tmp_path)
    assert set(run.epsilon) == {"site-1", "site-2", "site-3"}
    assert run.metrics is not None
    assert 0.0 <= run.metrics.mean <= 1.0
