"""FedIT: LoRA's A and B are averaged, each for itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from protocol.job.layout import AdapterLayout
from protocol.job.strategy import Strategy
from strategies.lora_pairs import Pair, pairs


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
    sites = [pairs(layout, adapter) for adapter in adapters]
    return {layer: _missed([site[layer] for site in sites], shares) for layer in sites[0]}


def _missed(sites: Sequence[Pair], shares: NDArray[np.float64]) -> float:
    """One layer's error, relative."""
    mean = Pair.mean(sites, shares)
    # Σ p·(B − B̄)(A − Ā) is Σ p·B·A − B̄·Ā, without the difference of two large numbers.
    apart = [Pair(b=site.b - mean.b, a=site.a - mean.a) for site in sites]
    whole = _norm(sites, shares)
    return _norm(apart, shares) / whole if whole else 0.0


def _norm(products: Sequence[Pair], shares: NDArray[np.float64]) -> float:
    """‖Σ p·B·A‖, from one thin decomposition of all B side by side and one of all A."""
    b = np.concatenate([share * pair.b for share, pair in zip(shares, products, strict=True)], axis=1)
    a = np.concatenate([pair.a for pair in products], axis=0)
    left, right = np.linalg.qr(b).R, np.linalg.qr(a.T).R
    return float(np.linalg.norm(left @ right.T))
