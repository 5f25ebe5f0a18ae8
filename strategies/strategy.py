"""The strategies by name: how the sites' mean update becomes the next adapter."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from protocol.job import Job
from protocol.layout import AdapterLayout
from strategies.averaging import mean_update
from strategies.fedsvd import refactor


def next_adapter(
    job: Job,
    layout: AdapterLayout,
    adapter: NDArray[np.float32],
    updates: Mapping[str, NDArray[np.float32]],
) -> NDArray[np.float32]:
    """The adapter of the next round: float32[adapter_size].

    ``fedsvd`` and ``ffa`` average B with A frozen (Sun et al. 2024, arXiv:2403.12313), the first of
    them refactors the product afterwards; ``lora`` averages A and B each for itself, which is not
    the average of their product.
    """
    moved = layout.apply(adapter, mean_update(updates))
    return refactor(moved, layout) if job.strategy.name == "fedsvd" else moved
