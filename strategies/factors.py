"""The sites' factors of each adapted layer, from what the sites sent, for rules that need each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.job.layout import AdapterLayout, Pair


@dataclass(frozen=True, kw_only=True)
class Factors:
    """One layer's factors at the sites, in order: ``a`` float64[sites, rank, in], ``b`` [sites, out, rank].

    ``pair`` has the names of the layer's tensors.
    """

    pair: Pair
    a: NDArray[np.float64]
    b: NDArray[np.float64]

    def less_means(self, weights: NDArray[np.float64] | None = None) -> Factors:
        """What the sites' factors are off their means, with ``weights`` of sum one or equal ones.

        Σ p·(B − B̄)·(A − Ā) is Σ p·B·A − B̄·Ā, without the difference of two large numbers.
        """
        mean_a, mean_b = (np.average(factor, axis=0, weights=weights) for factor in (self.a, self.b))
        return Factors(pair=self.pair, a=self.a - mean_a, b=self.b - mean_b)

    @property
    def stacked_a(self) -> NDArray[np.float64]:
        """All sites' A under one another: float64[sites · rank, in]."""
        return self.a.reshape(-1, self.a.shape[2])

    @property
    def stacked_b(self) -> NDArray[np.float64]:
        """All sites' B beside one another, float64[out, sites · rank]: times ``stacked_a``, Σ B·A."""
        return self.b.transpose(1, 0, 2).reshape(self.b.shape[1], -1)

    def mean_product(self) -> NDArray[np.float32]:
        """The mean of the sites' B·A, float32[out, in]: one product of the stacks, in float32."""
        a = (self.stacked_a / len(self.a)).astype(np.float32)
        found: NDArray[np.float32] = self.stacked_b.astype(np.float32) @ a
        return found


def each_layer(
    adapter: NDArray[np.float32], updates: NDArray[np.float32], layout: AdapterLayout
) -> Iterator[Factors]:
    """Each layer's factors at sites that began with ``adapter`` and sent ``updates``, one layer at a time.

    ``adapter`` is float32[adapter_size], ``updates`` float32[sites, update_size].
    """
    begun = layout.matrices(adapter)
    sent = [layout.split_update(update) for update in updates]

    def trained(name: str) -> NDArray[np.float64]:
        before = begun[name].astype(np.float64)
        return np.stack(
            [before + one[name].reshape(before.shape) if name in one else before for one in sent]
        )

    for pair in layout.pairs:
        yield Factors(pair=pair, a=trained(pair.a), b=trained(pair.b))


def layers_of(adapters: Sequence[NDArray[np.float32]], layout: AdapterLayout) -> Iterator[Factors]:
    """Each layer's factors at sites that have these ``adapters``, float32[adapter_size] each."""
    sites = [layout.matrices(adapter) for adapter in adapters]
    for pair in layout.pairs:
        a, b = (np.stack([site[name].astype(np.float64) for site in sites]) for name in (pair.a, pair.b))
        yield Factors(pair=pair, a=a, b=b)


def with_means(
    adapter: NDArray[np.float32], updates: NDArray[np.float32], layout: AdapterLayout
) -> NDArray[np.float32]:
    """An adapter and the mean of the updates, each number for itself: a new float32[adapter_size]."""
    # In place of ``layout.apply``, which copies twice: a residual may be a gigabyte.
    moved = adapter.copy()
    tensors = layout.split(moved)
    mean = updates.mean(axis=0, dtype=np.float64).astype(np.float32)
    for name, change in layout.split_update(mean).items():
        tensors[name] += change
    return moved
