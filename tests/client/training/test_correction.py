"""What steps add to their noisy gradients: after the noise, once a step, whatever is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from client.training.correction import Correction
from client.training.optimizer import PrivateOptimizer
from client.training.stacked_gradients import StackedGradients
from client.training.together import train_together
from client.training.training import Trainer
from privacy.mechanisms.rng import keyed_source
from protocol.job.job import TrainingSection
from tests.client.optimizers import SHAPES, make_optimizer, random_gradients, step
from tests.client.training.test_together import CASE, TRAINING, shares

few = settings(max_examples=20, deadline=None)


def weights(optimizer: PrivateOptimizer) -> np.ndarray:
    return torch.cat([p.detach().flatten() for p in optimizer.params]).numpy().copy()


def drawn(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def corrected(proximal: float, drift: list[torch.Tensor], start: list[torch.Tensor]) -> PrivateOptimizer:
    optimizer = make_optimizer(source=keyed_source(1))
    for parameter, value in zip(optimizer.params, start, strict=True):
        parameter.data.copy_(value)
    optimizer.attach_step_hook(Correction(optimizer.params, proximal=proximal, drift=drift))
    return optimizer


@few
@given(proximal=st.floats(0, 1e6), seed=st.integers(0, 99), batches=st.integers(0, 3))
def test_it_is_added_once_a_step_to_what_was_released(proximal: float, seed: int, batches: int) -> None:
    """Far beyond the clipping norm: what is added before the noise would be clipped to 1 with the rest."""
    start, drift, moved = drawn(seed), drawn(seed + 100), drawn(seed + 200)
    optimizer, plain = corrected(proximal, drift, start), make_optimizer(source=keyed_source(1))
    for parameter, value in zip(optimizer.params, moved, strict=True):
        parameter.data.copy_(value)
    before = weights(optimizer)
    rows = [random_gradients(2, seed=seed + number) for number in range(batches)] or [random_gradients(0)]
    step(optimizer, *rows)
    step(plain, *rows)

    added = torch.cat(
        [(d + proximal * (m - s)).flatten() for d, m, s in zip(drift, moved, start, strict=True)]
    )
    # The step's rate is 1. Three float32 operations on numbers of this size.
    scale = 1.0 + np.abs(added.numpy()).max()
    np.testing.assert_allclose(
        weights(optimizer) - before, weights(plain) - added.numpy(), atol=1e-6 * scale
    )


def test_the_first_step_of_a_round_is_not_pulled() -> None:
    start = drawn(0)
    optimizer, plain = corrected(10.0, [None] * len(SHAPES), start), make_optimizer(source=keyed_source(1))
    before = weights(optimizer)
    step(optimizer, random_gradients(4))
    step(plain, random_gradients(4))
    np.testing.assert_allclose(weights(optimizer) - before, weights(plain), atol=1e-6)


@pytest.mark.parametrize("changes", [{"proximal": 0.8}, {}])
@pytest.mark.parametrize("with_drift", [False, True])
@pytest.mark.exhaustive(but=1)
def test_sites_together_are_corrected_as_each_is_alone(changes: dict[str, float], with_drift: bool) -> None:
    trainer, training = Trainer(StackedGradients(CASE.adapted())), TRAINING.model_copy(update=changes)
    size = trainer.adapted.layout.update_size
    asked = [
        replace(share, drift=np.full(size, 0.01 * (number + 1), np.float32) if with_drift else None)
        for number, share in enumerate(shares(trainer, multiplier=0.5))
    ]
    expected = [share.train(trainer, training=training, round_number=1) for share in asked]
    found = train_together(trainer, asked, training=training, round_number=1, rows=6)
    uncorrected = [
        replace(share, drift=None).train(trainer, training=TRAINING, round_number=1) for share in asked
    ]
    for update, alone, without in zip(found, expected, uncorrected, strict=True):
        # As in test_together: sums of float32 in another order, over three steps.
        np.testing.assert_allclose(update, alone, atol=1e-4 * np.abs(alone).max())
        differs = np.abs(alone - without).max() > 1e-3
        assert differs == (with_drift or bool(changes))


def test_a_pull_keeps_an_update_short() -> None:
    trainer = Trainer(StackedGradients(CASE.adapted()))
    share = shares(trainer, multiplier=0.5)[0]
    long = TRAINING.model_copy(update={"local_steps": 12})
    lengths = [
        float(
            np.linalg.norm(
                share.train(trainer, training=long.model_copy(update={"proximal": mu}), round_number=1)
            )
        )
        for mu in (0.0, 0.5, 1.9)
    ]
    assert lengths[0] > lengths[1] > lengths[2]


def test_a_pull_past_its_aim_is_refused() -> None:
    with pytest.raises(ValidationError, match="learning_rate · proximal <= 1"):
        TrainingSection(learning_rate=2.0, proximal=0.6)
    assert TrainingSection(learning_rate=2.0, proximal=0.5).proximal == 0.5
