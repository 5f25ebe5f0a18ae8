"""FedSA: what stays at a site has the noise that what is sent has."""

from __future__ import annotations

import numpy as np

from client.training.gradients import HookedGradients
from client.training.training import Trainer
from privacy.accounting.sampled_plan import SampledPlan
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import keyed_entropy
from protocol.job.job import TrainingSection
from tests.models import CASES, random_adapter

CASE = CASES["bert-qv-head"]
TRAINING = TrainingSection(
    rounds=1, local_steps=2, batch_size=4, physical_batch_size=4, learning_rate=0.5, optimizer="sgd"
)
PLAN = SampledPlan(
    mechanism=Mechanism(name="gaussian", multiplier=1.0),
    clipping_norm=0.3,
    sampling_rate=0.5,
    steps=2,
    delta=1e-5,
)


def test_what_stays_is_moved_by_noise_where_nobody_is_drawn() -> None:
    """Blank examples add nothing: a tensor without noise would be where it was."""
    trainer = Trainer(HookedGradients(CASE.adapted(strategy={"name": "fedsa"})))
    layout, start = trainer.adapted.layout, random_adapter(trainer.adapted)
    found = trainer.train(
        start,
        CASE.examples((0, 0, 0, 0)),
        training=TRAINING,
        plan=PLAN,
        round_number=1,
        entropy=keyed_entropy(0, "site"),
        activations=None,
    )
    assert len(found) == layout.update_size + layout.local_size
    sent, stays = found[: layout.update_size], found[layout.update_size :] - layout.local_part(start)
    assert (stays != 0).all()
    # Two steps of rate ½: the noise is of 0.3 over a batch of 4 in each.
    deviation = 0.5 * 0.3 / 4 * np.sqrt(2)
    # Of n numbers a deviation is off by a share of 1/√(2n): five of these.
    for moved in (sent, stays):
        assert abs(moved.std() / deviation - 1) < 5 / np.sqrt(2 * moved.size)
