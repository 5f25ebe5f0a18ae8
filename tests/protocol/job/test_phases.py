"""Phases of a job: what each one is, and what is refused by name when a job is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.session import plan_training
from client.training.training import learning_rate
from privacy.accounting.phased_plan import PhasedPlan
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import JobError
from protocol.job.job import Job
from protocol.job.job_file import job_toml, parse_job, read_job_file
from protocol.job.layout import AdapterLayout
from protocol.job.manifest import Manifest, read_manifest
from protocol.job.strategy import State, find_strategy
from protocol.job.trained_rounds import TrainedRounds
from protocol.toml_file import parse_toml
from tests import tiny

HEADS = {"name": "heads", "rounds": 2, "train": "head"}
WHOLE = {"name": "whole", "rounds": 3}


def phased(folder: Path, *phases: dict[str, Any], **changes: Any) -> Job:
    table = tiny.table(folder)
    del table["training"]["rounds"]
    for section, values in changes.items():
        table[section] = {**table.get(section, {}), **values}
    return parse_job(table | {"phase": list(phases or (HEADS, WHOLE))})


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"rounds": 0}, "phase.1.rounds: expected greater than or equal to 1"),
        ({"name": "heads"}, "phase: expected names that differ"),
        ({"train": "body"}, "phase.1.train: expected 'strategy' or 'head'"),
        ({"round": 3}, "phase.1.round: unknown key"),
        ({"task": "preferences"}, "phase.task: expected none in a phase: .* as stages"),
        ({"strategy": {"name": "ffa"}}, "phase.strategy: expected none .* one layout"),
        ({"epsilon": 1.0}, "phase.epsilon: expected none .* use share"),
        ({"optimizer": "adam"}, "phase.optimizer: expected none"),
        ({"share": 0.5}, "phase: expected a share in each phase or in none, .* got none, 0.5"),
        ({"share": 1.0}, "phase.1.share: expected less than 1"),
        ({"local_steps": 100_000, "rounds": 100}, "phase: .* 1000000"),
    ],
)
def test_a_phase_that_cannot_be_is_refused(tiny_folder: Path, second: dict[str, Any], words: str) -> None:
    with pytest.raises(JobError, match=words):
        phased(tiny_folder, HEADS, WHOLE | second)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"rounds": 4}}, "training.rounds: expected 5, as many as all phases have"),
        (
            {"privacy": {"noise_correlation": "banded", "bands": 2}, "strategy": {"name": "ffa"}},
            "privacy.noise_correlation",
        ),
        ({"strategy": {"name": "scaffold"}}, "strategy.name: expected one without corrections"),
        ({"metrics": {"epsilon": 1.0}, "training": {"personal_steps": 2}}, "training.personal_steps"),
        ({"strategy": {"name": "median"}}, "strategy.name: .* needs each site's update"),
        ({"strategy": {"name": "head"}}, "strategy.name: .* trains the head alone in any round"),
        ({"strategy": {"name": "ffa", "keep_local": "head"}}, "strategy.keep_local"),
        ({"strategy": {"name": "ffa", "server": {"optimizer": "fedavgm"}}}, "strategy.server"),
        ({"strategy": {"name": "ffa"}, "compression": {"kind": "random"}}, "compression.kind"),
        ({"adapter": {"bias": "lora_only"}, "strategy": {"name": "ffa"}}, "adapter.bias"),
    ],
)
def test_what_heads_first_does_not_go_with_is_refused(
    tiny_folder: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(JobError, match=words):
        phased(tiny_folder, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"federation": {"sites": 3, "cohort": 2}}, "federation.cohort"),
        ({"privacy": {"mechanism": "laplace"}}, 'privacy.mechanism: expected "gaussian"'),
    ],
)
@pytest.mark.parametrize("own", [{"batch_size": 32}, {"local_steps": 1}])
def test_steps_that_differ_are_planned_where_it_is_known_how(
    tiny_folder: Path, own: dict[str, int], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(JobError, match=words):
        phased(tiny_folder, HEADS | own, WHOLE, **changes)
    # With equal steps either goes.
    assert not isinstance(plan_training(phased(tiny_folder, **changes), 64), PhasedPlan)


def test_shares_are_of_noise_for_examples(tiny_folder: Path) -> None:
    shares = HEADS | {"share": 0.3}, WHOLE | {"share": 0.7}
    with pytest.raises(JobError, match=r'no share with privacy\.unit="site"'):
        phased(
            tiny_folder,
            *shares,
            privacy={"unit": "site", "mechanism": "gaussian", "noise": "central", "clipping_norm": 0.1},
        )
    with pytest.raises(JobError, match=r"and 1 as their sum, got 0\.3, 0\.6"):
        phased(tiny_folder, HEADS | {"share": 0.3}, WHOLE | {"share": 0.6})
    # A run without noise may say how it would be dealt: that is what privacy costs it.
    assert phased(tiny_folder, *shares, privacy={"mechanism": "none"}).phases[1].share == 0.7


def test_a_job_without_phases_is_one(tiny_folder: Path) -> None:
    job = tiny.job(tiny_folder)
    (only,) = job.phases
    assert (only.name, only.first_round, only.last_round, only.training) == ("", 1, 3, job.training)
    assert (job.steps_in(2), job.total_steps, job.trained_rounds.heads) == (2, 6, ())


def test_a_phase_has_its_own_keys_and_the_jobs(tiny_folder: Path) -> None:
    job = phased(tiny_folder, HEADS | {"learning_rate": 8.0, "local_steps": 4, "batch_size": 4}, WHOLE)
    heads, whole = job.phases
    assert job.training.rounds == 5
    assert [job.phase_of(number).name for number in range(1, 7)] == ["heads"] * 2 + ["whole"] * 4
    assert (heads.training.learning_rate, whole.training.learning_rate) == (8.0, 2.0)
    # No more examples at once than there are.
    assert (heads.training.batch_size, heads.training.physical_batch_size) == (4, 4)
    assert (whole.training.batch_size, whole.training.physical_batch_size) == (16, 8)
    assert [job.steps_in(number) for number in (1, 2, 3, 5)] == [4, 4, 2, 2]
    assert job.total_steps == job.planned_steps(5) == 14


def test_rates_fall_within_their_phase(tiny_folder: Path) -> None:
    job = phased(tiny_folder, HEADS | {"learning_rate": 8.0, "decay": "linear"}, WHOLE)
    rates = [
        learning_rate(job.phase_of(number).training, number, step)
        for number in range(1, 6)
        for step in range(2)
    ]
    assert rates == [8.0, 6.0, 4.0, 2.0, *[2.0] * 6]


def test_phases_that_differ_in_what_they_train_alone_have_one_plan(tiny_folder: Path) -> None:
    alike = plan_training(phased(tiny_folder, HEADS | {"learning_rate": 8.0}, WHOLE), 64)
    assert alike == plan_training(tiny.job(tiny_folder, training={"rounds": 5}), 64)


def test_phases_that_differ_have_a_plan_in_phases(tiny_folder: Path) -> None:
    job = phased(tiny_folder, HEADS | {"share": 0.2, "batch_size": 32}, WHOLE | {"share": 0.8})
    plan = plan_training(job, 64)
    assert isinstance(plan, PhasedPlan)
    assert (plan.lengths, plan.rates) == ((4, 6), (0.5, 0.25))
    assert plan.epsilon <= job.privacy.epsilon
    assert plan.multipliers[0] > plan.multipliers[1]
    silent = plan_training(
        phased(tiny_folder, *job.model_dump()["phase"], privacy={"mechanism": "none"}), 64
    )
    assert (type(silent), silent.steps, silent.protects) == (SampledPlan, 10, False)


def test_a_manifest_has_the_phases(tiny_folder: Path, tmp_path: Path) -> None:
    job = phased(tiny_folder, HEADS | {"learning_rate": 8.0}, WHOLE)
    manifest = Manifest(run="run", job=job, cohort=3, labels=(), model_digest="", layout_digest="")
    assert read_manifest(manifest.content).job.phases == job.phases
    path = tmp_path / "job.toml"
    path.write_text(job_toml(job))
    assert path.read_text().count('train = "') == 2
    assert read_job_file(path).phases == job.phases
    assert "rounds" not in parse_toml("[training]\n")["training"]


def test_each_kind_of_round_is_checked_whichever_are_the_heads() -> None:
    strategy = find_strategy("rolora").model_validate({})  # B in odd rounds, A in even ones
    assert TrainedRounds(strategy=strategy, heads=()).kinds == (1, 2)
    assert TrainedRounds(strategy=strategy, heads=((2, 2),)).kinds == (2, 1, 4)
    assert TrainedRounds(strategy=strategy, heads=((1, 3),)).kinds == (1, 4, 5)


@pytest.mark.parametrize("name", ["fedsvd", "ffa", "fedit", "rolora"])
def test_a_head_phase_touches_the_head_alone(name: str) -> None:
    strategy = find_strategy(name).model_validate({})
    shapes = {"layer.lora_A.weight": (2, 3), "layer.lora_B.weight": (4, 2), "score.weight": (2, 4)}
    layout: AdapterLayout = strategy.lay_out(shapes)
    rounds = TrainedRounds(strategy=strategy, heads=((1, 2),))
    there = rounds.in_round(layout, 2)
    assert [slot.name for slot in there.slots if slot.trained] == ["score.weight"]
    assert there.update_size == layout.update_size
    assert rounds.in_round(layout, 3) == strategy.in_round(layout, 3)
    before = np.arange(layout.adapter_size, dtype=np.float32)
    after = before + np.float32(1.0)  # what is not trained is not sent, whatever became of it
    update = rounds.encode(there, before, after, 2)
    assert update.shape == (layout.update_size,)
    assert list(np.flatnonzero(update)) == list(range(8))
    merged = rounds.merge(State(adapter=before), update, there, 2).adapter
    moved = {slot: (merged != before)[place] for slot, place in places(layout).items()}
    assert {slot: bool(found.all()) for slot, found in moved.items()} == {
        "layer.lora_A.weight": False,
        "layer.lora_B.weight": False,
        "score.weight": True,
    }
    assert not moved["layer.lora_A.weight"].any()
    assert {number for number in rounds.kinds if rounds.head_alone(number)} == {1}
    assert len(rounds.kinds) == 1 + strategy.cycle


def places(layout: AdapterLayout) -> dict[str, slice]:
    ends = np.cumsum([slot.size for slot in layout.slots])
    return {
        slot.name: slice(int(end) - slot.size, int(end))
        for slot, end in zip(layout.slots, ends, strict=True)
    }
