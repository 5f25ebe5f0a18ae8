"""The strategies by name: how the sites' mean update becomes the next adapter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protocol.job.job import Job
from protocol.job.layout import AdapterLayout
from strategies.fedsvd import refactor


def next_adapter(
    job: Job,
    layout: AdapterLayout,
    adapter: NDArray[np.float32],
    mean: NDArray[np.float32],
) -> NDArray[np.float32]:
    """The adapter of the next round, from the mean of the updates: float32[adapter_size].

    ``fedsvd`` and ``ffa`` average B with A frozen (Sun et al. 2024, arXiv:2403.12313), the first of
    them refactors the product afterwards; ``lora`` averages A and B each for itself, which is not
    the average of their product.
    """
    moved = layout.apply(adapter, mean)
    return refactor(moved, layout) if job.strategy.name == "fedsvd" else moved
