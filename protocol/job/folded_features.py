"""A head with what its features were centred and scaled by in its own weight and bias."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.job.layout import FEATURE_MEAN, FEATURE_SCALE


def folded(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """An adapter's tensors without means and scales, which are in the weights and biases of their layers.

    W · ((x - m) · s) + b is (W · s) · x + (b - (W · s) · m).
    """
    found = {name: t for name, t in tensors.items() if not name.endswith((FEATURE_MEAN, FEATURE_SCALE))}
    for name in tensors:
        if name.endswith(FEATURE_MEAN):
            layer = name.removesuffix(FEATURE_MEAN)
            scaled = tensors[f"{layer}.weight"].astype(np.float64) * tensors[layer + FEATURE_SCALE]
            bias = tensors[f"{layer}.bias"].astype(np.float64) - scaled @ tensors[name].astype(np.float64)
            found[f"{layer}.weight"] = scaled.astype(np.float32)
            found[f"{layer}.bias"] = bias.astype(np.float32)
    return found
