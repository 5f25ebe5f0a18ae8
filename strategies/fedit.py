"""FedIT: LoRA's A and B are averaged, each for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from protocol.job.layout import FACTOR_A, AdapterLayout
from protocol.job.strategy import Strategy
from strategies.factors import Factors, layers_of


class FedIT(Strategy):
    """Both factors of each pair are trained. The mean of the products is not the product of the means.

    By how much it is not, ``averaging_error`` measures. Jobs may call it ``lora``, too.
    Source: Zhang et al. 2023 (arXiv:2305.05644), section 3.2.
    """

    name: Literal["fedit"] = "fedit"
    paper: ClassVar[str] = "Zhang et al. 2023, FedIT (arXiv:2305.05644)"


def averaging_error(
    layout: AdapterLayout, adapters: Sequence[NDArray[np.float32]], weights: Sequence[float] | None = None
) -> dict[str, float]:
    """How far averages of A and of B miss the mean product: ‖Σpᵢ·Bᵢ·Aᵢ − B̄·Ā‖ over ‖Σpᵢ·Bᵢ·Aᵢ‖, by layer.

    ``adapters`` are the sites' after their steps, float32[adapter_size] each; ``weights`` add up to 1, and
    are equal if they are not given. Norms are Frobenius'; 0 where all products are zero. The products are
    of m by n numbers and never formed: they are of rank r for each site, and their norms follow from r by r
    products. Raises ProtocolError for adapters of another layout.

    Source: Wang et al. 2024, FLoRA (arXiv:2409.05976), section 3.1, for the error.
    """
    shares = np.full(len(adapters), 1 / len(adapters)) if weights is None else np.asarray(weights, float)
    return {
        factors.pair.a.removesuffix(FACTOR_A): _missed(factors, shares)
        for factors in layers_of(adapters, layout)
    }


def _missed(factors: Factors, shares: NDArray[np.float64]) -> float:
    """One layer's error, relative."""
    whole = _norm(factors, shares)
    return _norm(factors.less_means(shares), shares) / whole if whole else 0.0


def _norm(factors: Factors, shares: NDArray[np.float64]) -> float:
    """‖Σ p·B·A‖, from one thin decomposition of all B side by side and one of all A."""
    b = replace(factors, b=factors.b * shares[:, None, None]).stacked_b
    left, right = np.linalg.qr(b)[1], np.linalg.qr(factors.stacked_a.T)[1]
    return float(np.linalg.norm(left @ right.T))
