"""Sites that train in shared batches: each has the update that it has alone."""

from __future__ import annotations

import numpy as np
import pytest

from client.training.cancellation import no_pause
from client.training.stacked_gradients import StackedGradients
from client.training.together import Share, train_together
from client.training.training import Trainer
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import PolicyError
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import keyed_entropy
from protocol.job.job import TrainingSection
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tests.models import CASES, random_adapter

CASE = CASES["bert-qv-head"]
TRAINING = TrainingSection(
    rounds=1, local_steps=3, batch_size=4, physical_batch_size=4, learning_rate=0.5, optimizer="sgd"
)
SITES = {"one": (3, 5, 7, 4, 0, 6), "two": (2, 9, 4, 4), "three": (8, 8, 8, 3, 5)}


def plan(multiplier: float) -> SampledPlan:
    mechanism = Mechanism(name="gaussian" if multiplier else "none", multiplier=multiplier)
    return SampledPlan(mechanism=mechanism, clipping_norm=0.3, sampling_rate=0.6, steps=3, delta=1e-5)


def shares(trainer: Trainer, *, multiplier: float, kept: bool = False) -> list[Share]:
    """Three sites with other examples, noise and, unlike in a round, adapters."""
    start, prefix = random_adapter(trainer.adapted), FrozenPrefix(trainer.adapted)
    return [
        Share(
            adapter=(1 + number) * start,
            examples=(examples := CASE.examples(sizes)),
            plan=plan(multiplier),
            hidden=False,
            entropy=keyed_entropy(number, name),
            activations=Activations(prefix, examples) if kept else None,
            between=no_pause,
        )
        for number, (name, sizes) in enumerate(SITES.items())
    ]


def alone(trainer: Trainer, share: Share) -> np.ndarray:
    return trainer.train(
        share.adapter,
        share.examples,
        training=TRAINING,
        plan=share.plan,
        round_number=1,
        entropy=share.entropy,
        activations=share.activations,
    )


@pytest.mark.parametrize("multiplier", [0.0, 0.5])
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.exhaustive(but=1)
def test_each_site_has_the_update_that_it_has_alone(multiplier: float, kept: bool) -> None:
    adapted = CASE.adapted(layers=3, adapter={"layers_to_transform": [2]}) if kept else CASE.adapted()
    trainer = Trainer(StackedGradients(adapted))
    asked = shares(trainer, multiplier=multiplier, kept=kept)
    expected = [alone(trainer, share) for share in asked]

    found = train_together(trainer, asked, training=TRAINING, round_number=1, rows=6)

    for update, before in zip(found, expected, strict=True):
        # Sums of under 1,000 float32 terms in another order agree to a hundred times 2^-24, three steps
        # to some times that; another site's examples, noise or adapter would change it by its own size.
        np.testing.assert_allclose(update, before, atol=1e-4 * np.abs(before).max())
        assert np.abs(before).max() > 1e-3
    assert not np.allclose(found[0], found[1], atol=1e-3)


def test_what_other_sites_hold_changes_no_bit_of_a_sites_update() -> None:
    trainer = Trainer(StackedGradients(CASE.adapted()))
    asked = shares(trainer, multiplier=0.5)
    before = train_together(trainer, asked, training=TRAINING, round_number=1, rows=6)
    others = Share(
        **{**vars(asked[1]), "adapter": -asked[1].adapter, "examples": CASE.examples((7, 7, 7, 2))}
    )
    after = train_together(trainer, [asked[0], others, asked[2]], training=TRAINING, round_number=1, rows=6)
    assert np.array_equal(after[0], before[0])
    assert np.array_equal(after[2], before[2])
    assert not np.array_equal(after[1], before[1])


def test_a_site_that_may_not_go_on_ends_it_for_all() -> None:
    trainer = Trainer(StackedGradients(CASE.adapted()))
    asked = shares(trainer, multiplier=0.5)

    def over(step: int, _steps: int) -> None:
        if step == 1:
            raise PolicyError("too long", rule="rules.longest_round")

    late = Share(**{**vars(asked[1]), "between": over})
    with pytest.raises(PolicyError, match="too long"):
        train_together(trainer, [asked[0], late], training=TRAINING, round_number=1, rows=6)
