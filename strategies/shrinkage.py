"""What was released, shrunk towards where it began, by how much of it known noise explains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocol.job.layout import CORE, FACTOR_A, FACTOR_B, AdapterLayout

Shrinkage: TypeAlias = Literal["norm", "singular"]

# In so many dimensions James and Stein's estimate is no better than what was released.
_TOO_FEW = 2


def shrink_change(
    adapter: NDArray[np.float32],
    start: NDArray[np.float32],
    layout: AdapterLayout,
    *,
    noise: Mapping[str, float],
    kind: Shrinkage,
) -> NDArray[np.float32]:
    """An adapter with each sent tensor's change since ``start`` shrunk: float32[adapter_size].

    ``noise`` is the standard deviation, by tensor, of Gaussian noise in each coordinate of that change. By
    ``"norm"`` each tensor is shrunk as a whole, by ``"singular"`` each pair's trained factor by its
    singular values and all else by its norm. Where A has orthonormal rows, the singular values of a change
    of B are those of the product's. Nothing is read but what was released: it costs no privacy.
    """
    shrunk = adapter.copy()
    now, begun = layout.matrices(shrunk), layout.matrices(start)
    for slot in layout.slots:
        if not slot.sent:
            continue
        change = now[slot.name].astype(np.float64) - begun[slot.name]
        factor = kind == "singular" and slot.name.endswith((FACTOR_A, FACTOR_B, CORE))
        shrunken = shrink_singular_values if factor else shrink_norm
        now[slot.name][...] = begun[slot.name] + shrunken(change, std=noise[slot.name])
    return shrunk


def shrink_norm(change: NDArray[np.float64], *, std: float) -> NDArray[np.float64]:
    """(1 - (d - 2) σ² / |x|²)₊ · x, for x of d numbers under independent Gaussian noise of ``std`` σ.

    Its expected squared error is below that of x itself, d·σ², whatever is under the noise, for d > 2; with
    fewer numbers x stays as it is.

    Source: James and Stein 1961; Baranchik 1964 for the positive part.
    """
    length = float(np.vdot(change, change))
    if change.size <= _TOO_FEW or not length:
        return change
    return max(0.0, 1.0 - (change.size - 2) * std**2 / length) * change


def shrink_singular_values(change: NDArray[np.float64], *, std: float) -> NDArray[np.float64]:
    """The matrix with each singular value y as √((y² - β - 1)² - 4β) / y, and 0 up to 1 + √β.

    In units of std · √n, for m by n numbers, m <= n, and β = m/n: of all functions of singular values the
    one with the least squared error under Gaussian noise, as both sides grow. Noise lengthens each singular
    value that it leaves standing, and makes all below 1 + √β: so the fast decay of what it hides is back.

    Source: Gavish and Donoho 2017 (arXiv:1405.7511), equation 7; Dadsetan and Rudzicz 2026
    (arXiv:2510.01137v3) for private training, who shrink each step's sum.
    """
    if not std:
        return change
    short, long = sorted(change.shape)
    beta, unit = short / long, std * math.sqrt(long)
    left, singular, right = np.linalg.svd(change, full_matrices=False)
    y = singular / unit
    above = y > 1.0 + math.sqrt(beta)
    kept = np.zeros_like(y)
    kept[above] = np.sqrt((y[above] ** 2 - beta - 1.0) ** 2 - 4.0 * beta) / y[above]
    found: NDArray[np.float64] = (left * (kept * unit)) @ right
    return found
