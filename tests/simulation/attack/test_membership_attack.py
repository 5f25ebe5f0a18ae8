"""Membership inference on whole runs of the tiny job: what it must find, and what noise must hide."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.errors import UserError
from privacy.mechanisms.mechanism import Mechanism
from protocol.job.job_file import job_toml
from simulation import simulated_federation
from simulation.attack.attack_targets import ChosenExamples, choose_targets
from simulation.attack.membership_attack import MembershipAttack, attack_membership
from simulation.simulated_federation import World
from tests import tiny
from tests.confide.test_cli import call
from tests.models import make_examples
from tests.simulation.attack.word_jobs import decoder_job, encoder_job, write_words

# Labels that nothing but the examples themselves tells, and a δ that leaves something to prove.
STEPS: dict[str, Any] = {"rounds": 8, "local_steps": 1, "batch_size": 36, "learning_rate": 4.0}
MANY: dict[str, Any] = {"rounds": 2, "local_steps": 16, "batch_size": 72, "learning_rate": 8.0}
SEED: dict[str, Any] = {"seeds": {"noise": 2}}
OPEN: dict[str, Any] = SEED | {"training": STEPS, "privacy": {"mechanism": "none", "delta": 1e-5}}
CLOSED: dict[str, Any] = SEED | {"training": STEPS, "privacy": {"epsilon": 1.0, "delta": 1e-5}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_words(tmp_path_factory.mktemp("words"))


def attacked(folder: Path, *, shadows: int = 4, **changes: Any) -> MembershipAttack:
    return attack_membership(encoder_job(folder, **changes), shadows=shadows, seed=1)


@pytest.mark.statistics
def test_without_noise_who_is_in_is_told_and_proved(folder: Path) -> None:
    found = attacked(folder, **OPEN)
    assert [one.name for one in found.attacks] == ["loss", "reference", "lira", "gradient"]
    assert found.attacks[3].auc.low > 0.9
    assert found.best.name == "gradient"
    assert found.lower > 1.5
    assert math.isinf(found.upper)
    assert found.verdict == "not refuted"
    assert found.limits.auc == found.limits.tpr_at_permille == 1.0
    found.check()


@pytest.mark.exhaustive
def test_labels_that_are_learned_by_heart_show_in_losses(folder: Path) -> None:
    """Each text's label is random: where steps are many, losses under the last adapter tell who was in."""
    found = attacked(folder, **OPEN | {"training": MANY})
    by_name = {one.name: one.auc.value for one in found.attacks}
    assert by_name["loss"] > 0.55
    assert by_name["lira"] > 0.55


@pytest.mark.exhaustive
def test_random_texts_that_a_model_learned_are_exposed(folder: Path) -> None:
    training = {"rounds": 6, "local_steps": 1, "batch_size": 72, "learning_rate": 16.0}
    job = decoder_job(
        folder, rank=8, layers=[0, 1], training=training, privacy={"mechanism": "none"}, seeds={"noise": 2}
    )
    found = attack_membership(job, kind="text", targets=120, shadows=4, seed=1)
    assert (found.kind, found.targets) == ("text", 120)
    assert found.attacks[3].auc.low > 0.7
    assert found.exposure is not None
    assert found.exposure.after > 1.44
    assert found.exposure.before < found.exposure.after


@pytest.mark.exhaustive
def test_noise_hides_who_is_in_as_far_as_the_plan_says(folder: Path) -> None:
    found = attacked(folder, **CLOSED)
    assert found.verdict == "not refuted"
    assert 0.99 < found.upper <= 1.0
    for one in found.attacks:
        assert one.auc.low < found.limits.auc
    assert 0.5 < found.limits.auc < 0.7


@pytest.mark.exhaustive
def test_noise_that_is_not_there_ends_the_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Control: what the plan asks for is charged, and none of it is added.

    The check before every run finds that too, so here there is none.
    """
    whole = Mechanism.noise

    def quiet(mechanism: Mechanism, size: int, **given: Any) -> Any:
        return whole(mechanism, size, **given) // 10**9

    monkeypatch.setattr(Mechanism, "noise", quiet)
    monkeypatch.setattr(simulated_federation, "SharedCheck", lambda: lambda _method, _examples: None)
    path = tmp_path / "job.toml"
    path.write_text(job_toml(encoder_job(folder, **CLOSED)))
    assert call(monkeypatch, "audit", "attack", path, "--shadows", "4", "--seed", "1", "--json") == 1
    output, errors = capfd.readouterr()
    told = json.loads(output)
    assert told["verdict"] == "refuted"
    assert told["lower"] > told["upper"]
    assert told["attacks"][3]["curve"][-1] == [1.0, 1.0]
    assert "the run claims epsilon=" in errors


def test_a_blank_example_counts_and_holds_nothing() -> None:
    whole = make_examples((3, 5, 2, 4), labelled=True)
    blank = np.array([False, True, False, False])
    chosen = ChosenExamples(whole, blank=blank, labels=np.array([2, 2, 1, 0]))
    assert chosen.sizes.tolist() == [3, 0, 2, 4]
    assert len(chosen) == 4
    assert chosen.without_blanks(np.arange(4)).tolist() == [0, 2, 3]
    batch = chosen.batch(np.array([0, 3]), rows=4)
    assert batch.inputs["labels"].tolist() == [2, 0, 0, 0]
    plain = whole.batch(np.array([0, 3]), rows=4)
    assert batch.inputs["input_ids"].equal(plain.inputs["input_ids"])
    assert chosen.take(np.array([3, 1])).sizes.tolist() == [4, 0]


def test_targets_are_mislabelled_and_out_by_a_coin(tiny_folder: Path) -> None:
    world = World(tiny.job(tiny_folder))
    targets = choose_targets(world, kind="labels", count=60, generator=np.random.default_rng(0))
    assert len(targets) == 60
    present = np.arange(60) < 20
    attacked_world, start = targets.world(world, present), 0
    for name, site in targets.sites.items():
        examples, _ = attacked_world.own_examples[name]
        own = present[start : start + len(site.rows)]
        start += len(own)
        assert (examples.sizes[site.rows] > 0).tolist() == own.tolist()
        plain = world.examples(name)
        assert examples.labels is not None
        assert plain.labels is not None
        changed = np.flatnonzero(examples.labels != plain.labels)
        assert changed.tolist() == site.rows.tolist()
        assert (examples.sizes > 0).sum() == len(examples) - (~own).sum()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "text"}, 'kind="text": expected a task that learns text alone'),
        ({"targets": 20}, "expected 40 examples to attack at least"),
        ({"shadows": 5}, "even number of shadows"),
    ],
)
def test_what_cannot_be_attacked_is_refused(tiny_folder: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        attack_membership(tiny.job(tiny_folder), **options)
