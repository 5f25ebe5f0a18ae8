"""SCAFFOLD's control variates: what a site's steps are corrected by, and what it sends of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.training.training import learning_rate
from protocol.job.training_section import TrainingSection


def total_rate(training: TrainingSection, round_number: int) -> float:
    """How far a round's steps go together for gradients of length one: Σ η over them.

    With rates that fall each mean gradient is over its own round's, and so one may be taken from another.
    """
    return sum(learning_rate(training, round_number, step) for step in range(training.local_steps))


def drift_of(
    mean: NDArray[np.float32],
    own: NDArray[np.float32] | None,
    *,
    training: TrainingSection,
    round_number: int,
) -> NDArray[np.float32] | None:
    """c - cᵢ, float32[update_size], which is added to each step's noisy gradient; None for no correction.

    ``mean`` is the mean of what sites sent of the round before, and ``own`` the site's cᵢ. The first round
    has neither, and a site that has lost its own takes its steps uncorrected: with cᵢ = 0 it would follow
    the others' gradients twice.

    Source: Karimireddy et al. 2020, SCAFFOLD (arXiv:1910.06378), algorithm 1, line 10.
    """
    if own is None or not mean.size or round_number < 2:
        return None
    return -mean / np.float32(total_rate(training, round_number - 1)) - own


def uncorrected(
    update: NDArray[np.float32],
    drift: NDArray[np.float32] | None,
    *,
    training: TrainingSection,
    round_number: int,
) -> NDArray[np.float32]:
    """What a site sends: its update, float32[update_size], without what the correction added to it.

    With plain gradient descent that is -Σ η·g, the gradients where the corrected steps took them. The
    corrections of all sites add up to nothing, so its mean is that of the updates; and the next c is this
    mean itself, over Σ η. So option II of the paper's algorithm needs no second vector from a site, and no
    release beside the update. What is lost or clipped of a sum, and the noise that is in it alone, would
    otherwise stay in c - Σ cᵢ/n for good, and be added to every later round.

    Source: Karimireddy et al. 2020, SCAFFOLD (arXiv:1910.06378), algorithm 1, lines 12 and 16, for η_g = 1
    and all sites in each round.
    """
    if drift is None:
        return update
    return update + np.float32(total_rate(training, round_number)) * drift


def own_variate(
    sent: NDArray[np.float32], *, training: TrainingSection, round_number: int
) -> NDArray[np.float32]:
    """cᵢ, float32[update_size]: the mean gradient of the round's steps, each weighted by its rate."""
    return -sent / np.float32(total_rate(training, round_number))
