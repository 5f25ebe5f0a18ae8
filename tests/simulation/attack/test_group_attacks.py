"""Attacks on groups: a canary is one, a coin is for all rows of one, and faults are found."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from client.training import optimizer
from privacy.errors import AuditError, UserError
from privacy.mechanisms.clipping import ClippedSum
from privacy.mechanisms.factored_clipping import clip_found
from privacy.mechanisms.factored_gradients import Factors
from privacy.mechanisms.rng import ChaCha20Source
from protocol.job.job import Job
from simulation import simulated_federation
from simulation.attack.attack_targets import choose_targets
from simulation.attack.inversion import attack_inversion
from simulation.attack.membership_attack import attack_membership
from simulation.simulated_federation import World
from tasks.data.folded_examples import THERE, FoldedExamples
from tests import tiny
from tests.simulation.attack.test_empirical_audit import attacked, check_linear
from tests.simulation.attack.word_jobs import encoder_job, write_words

ROWS = 2
GROUPS: dict[str, Any] = {
    "training": {"rounds": 3, "local_steps": 2, "batch_size": 16},
    "privacy": {"unit": "group", "epsilon": 20.0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 texts of 120 people."""
    found = tmp_path_factory.mktemp("pairs")
    tiny.table(found)
    named(found / "data.csv")
    return found


def named(path: Path) -> None:
    """Gives a table a column ``person``, of two rows each."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    with path.open("w", newline="") as file:
        people = [[*row, f"p{number // ROWS}"] for number, row in enumerate(rows)]
        csv.writer(file).writerows([[*header, "person"], *people])


def grouped(folder: Path, **changes: Any) -> dict[str, Any]:
    """What makes a job one on groups; sections changed as given."""
    data = {"source": str(folder / "data.csv"), "group": "person", "rows_per_group": ROWS}
    return GROUPS | {"data": data} | changes


def test_a_groups_canary_adds_one_clipping_norm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit, seen = attacked(folder, monkeypatch, **grouped(folder))
    assert audit.canaries <= 120 * 0.9 / 3 + 1  # groups, and not rows
    for one in seen[:2]:
        check_linear(one)
    assert (audit.provenance.unit, audit.verdict) == ("group", "not refuted")
    assert 19.5 < audit.upper <= 20.0


def test_groups_that_are_drawn_by_their_rows_are_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: rows are drawn at the planned rate, and a group with them if any of its rows is."""
    whole = ChaCha20Source.poisson_sample

    def by_rows(self: ChaCha20Source, population: int, *, rate: float) -> NDArray[np.int64]:
        return np.unique(whole(self, ROWS * population, rate=rate) // ROWS)

    monkeypatch.setattr(ChaCha20Source, "poisson_sample", by_rows)
    audit, _ = attacked(folder, monkeypatch, **grouped(folder))
    assert audit.lower <= audit.upper
    with pytest.raises(AuditError, match="its canaries were not drawn so"):
        audit.check()


@pytest.mark.exhaustive
def test_a_clipping_norm_for_each_row_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: each row of a group may add a clipping norm, and the noise is planned for one.

    The check before every run finds that too, so here there is none.
    """

    def by_rows(
        gradients: Sequence[torch.Tensor | Factors], *, bound: float, norm: int, steps: float
    ) -> ClippedSum:
        found = clip_found(gradients, bound=ROWS * bound, norm=norm, steps=steps)
        return replace(found, tensors=tuple(ROWS * tensor for tensor in found.tensors), bound=bound)

    monkeypatch.setattr(optimizer, "clip_found", by_rows)
    monkeypatch.setattr(simulated_federation, "SharedCheck", lambda: lambda _method, _examples: None)
    training = {"rounds": 12, "local_steps": 2, "batch_size": 16}
    audit, _ = attacked(folder, monkeypatch, **grouped(folder, training=training))
    assert audit.verdict == "refuted"


@pytest.mark.parametrize("kind", ["own", "labels"])
def test_a_group_is_out_with_all_its_rows(folder: Path, kind: Any) -> None:
    world = World(tiny.job(folder, **grouped(folder)))
    targets = choose_targets(world, kind=kind, count=60, generator=np.random.default_rng(0))
    present, start = np.arange(60) < 20, 0
    given = targets.world(world, present).own_examples
    assert len(targets) == 60
    for name, site in targets.sites.items():
        own = present[start : start + len(site.rows)]
        start += len(own)
        examples, plain = given[name][0], world.examples(name)
        assert isinstance(plain, FoldedExamples)
        assert examples.rows_an_example == ROWS
        assert (examples.sizes[site.rows] > 0).tolist() == own.tolist()
        assert len(examples.without_blanks(site.rows)) == own.sum()
        changed = site.whole.batch(np.arange(len(plain)), size=8).inputs
        before = plain.batch(np.arange(len(plain)), size=8).inputs
        assert changed["input_ids"].equal(before["input_ids"])
        # Of an attacked group each row that counts has another label, and no row of another group.
        wrong = (changed["labels"] != before["labels"])[before[THERE] > 0].numpy().reshape(-1)
        expected = np.zeros(before[THERE].shape, bool)
        expected[site.rows] = kind == "labels"
        assert wrong.tolist() == expected[before[THERE].numpy() > 0].tolist()


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of random words, with labels that these say nothing of: two texts a person."""
    found = write_words(tmp_path_factory.mktemp("words"))
    named(found / "data.csv")
    return found


def word_job(folder: Path, **privacy: Any) -> Job:
    training = {"rounds": 8, "local_steps": 1, "batch_size": 18, "learning_rate": 4.0}
    data = {"group": "person", "rows_per_group": ROWS}
    privacy = {"unit": "group", "delta": 1e-5} | privacy
    return encoder_job(folder, data=data, training=training, privacy=privacy, seeds={"noise": 2})


@pytest.mark.statistics
def test_without_noise_whose_group_is_in_is_told(words: Path) -> None:
    found = attack_membership(word_job(words, mechanism="none"), shadows=4, seed=1)
    assert found.targets == 108
    assert found.attacks[3].name == "gradient"
    assert found.attacks[3].auc.low > 0.8
    assert found.lower > 1.0


@pytest.mark.exhaustive
def test_noise_hides_whose_group_is_in(words: Path) -> None:
    found = attack_membership(word_job(words, epsilon=1.0), shadows=4, seed=1)
    assert found.verdict == "not refuted"
    assert 0.99 < found.upper <= 1.0
    for one in found.attacks:
        assert one.auc.low < found.limits.auc


def test_words_of_single_texts_are_no_groups(words: Path) -> None:
    with pytest.raises(UserError, match="unit='group'"):
        attack_inversion(word_job(words))
