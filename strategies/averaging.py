"""The mean of the sites' updates, with public weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ProtocolError


def mean_update(updates: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """The plain mean of updates by site: float32[d].

    Every site weighs the same: weights by example count would tell the counts. The sum runs in
    float64 over the sites in order of name, so it does not depend on who answered first. Raises
    ProtocolError if there is no update or if their sizes differ.
    """
    if not updates:
        raise ProtocolError("expected updates from at least one site, got none")
    sizes = {update.shape for update in updates.values()}
    if len(sizes) != 1:
        raise ProtocolError(f"expected updates of one size, got {sorted(sizes)}")
    stacked = np.stack([updates[site] for site in sorted(updates)])
    mean: NDArray[np.float32] = stacked.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean
