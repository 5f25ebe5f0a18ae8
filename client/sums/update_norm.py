"""The norm that a whole update may have as it leaves a site."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privacy.mechanisms.clipping import clip


def within_norm(update: NDArray[np.float32], norm: float | None) -> NDArray[np.float32]:
    """An update, float32[update_size], scaled down to an L2 ``norm``; as it is for None.

    One that is not finite becomes zero, which says no more of it.
    """
    if norm is None:
        return update
    # Rounded to float32, a vector may be longer by one part in 2^24.
    return clip(update, bound=norm * (1.0 - 2.0**-23), norm=2).reals.astype(np.float32)
