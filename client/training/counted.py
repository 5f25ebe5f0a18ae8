"""What a site's own examples say of an adapter: one sum, bounded, for noise to be added to."""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.mechanisms.counting import Count, count_shares
from protocol.processes.time_spent import Part, timed
from tasks.data.examples import Examples
from tasks.data.shapes import Shapes
from tasks.model.adapted_model import AdaptedModel

log = logging.getLogger("confide.metrics")


@timed(Part.EVALUATION)
def count_right(adapted: AdaptedModel, adapter: NDArray[np.float32], examples: Examples) -> Count:
    """Add up each example's share of right answers under an adapter, float32[adapter_size].

    What comes back is an integer in units of 2^-30, in which one example weighs at most 2^30. A share is
    in [0, 1]: whether a label is right, or how many of a text's tokens are. An example that is blank, or
    whose loss is not finite, or that the model fails on, counts as zero.
    """
    adapted.load(adapter)
    adapted.peft.eval()
    shares = np.zeros(len(examples))
    # As large as in training, where every size was tried on made-up examples.
    shapes = Shapes.of(adapted.sizes.public, batch_size=1, physical_batch_size=1)
    with torch.no_grad():
        # One at a time, and without kept activations: in a batch, its shape and padding, which the other
        # examples set, move an answer by rounding. That can turn a close call, and then one example would
        # weigh more than its own share.
        for alone in shapes.batches(examples, examples.without_blanks(np.arange(len(examples)))):
            try:
                found = adapted.forward(alone.to(adapted.device.torch))
            except Exception as error:  # to stop would tell that there is such an example
                log.warning("the model fails on an example, which counts as zero: %s", type(error).__name__)
                continue
            share = found.correct / found.counted
            shares[alone.indices] = torch.where(found.losses.isfinite(), share, torch.nan).cpu()
    return count_shares(shares)
