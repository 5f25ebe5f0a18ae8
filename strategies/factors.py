"""The sites' factors of each adapted layer, from what the sites sent, for rules that need each of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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


class Trained:
    """The factors of sites that began with ``adapter`` and sent ``updates``.

    ``adapter`` is float32[adapter_size], ``updates`` float32[sites, update_size].
    """

    def __init__(
        self, adapter: NDArray[np.float32], updates: NDArray[np.float32], layout: AdapterLayout
    ) -> None:
        self._begun, self._moved = layout.matrices(adapter), Moved(updates, layout)

    def of(self, pair: Pair) -> Factors:
        """Those of one layer: of all at once there would be twice as much as sites sent."""
        return Factors(pair=pair, a=self._tensor(pair.a), b=self._tensor(pair.b))

    def _tensor(self, name: str) -> NDArray[np.float64]:
        before = self._begun[name].astype(np.float64)
        found: NDArray[np.float64] = before + self._moved.of(name, before.shape)
        return found


def for_each(pairs: Sequence[Pair], work: Callable[[Pair], None]) -> None:
    """Do some work on each layer, several at once: NumPy and BLAS let other threads go on meanwhile.

    Raises what the work does.
    """
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for _ in pool.map(work, pairs):
            pass


class Moved:
    """How far each site moved a tensor, of ``updates``, float32[sites, update_size]."""

    def __init__(self, updates: NDArray[np.float32], layout: AdapterLayout) -> None:
        self._updates = updates
        sent = [slot for slot in layout.slots if slot.sent]
        ends = np.cumsum([slot.size for slot in sent])
        self._places = {
            slot.name: slice(int(end) - slot.size, int(end)) for slot, end in zip(sent, ends, strict=True)
        }

    def of(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """By site, float32[sites, *shape]; zeros for what is not sent."""
        place = self._places.get(name)
        if place is None:
            return np.zeros((len(self._updates), *shape), np.float32)
        return self._updates[:, place].reshape(-1, *shape)


def add_mean_product(to: NDArray[np.float32], a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
    """Add the mean of the sites' B·A to a matrix, float32[out, in], in place.

    ``a`` is float32[sites, rank, in], ``b`` float32[sites, out, rank]. It is one product of the stacks,
    which BLAS adds to what there is: a matrix for the product alone would be as large as the layer.
    """
    from scipy.linalg.blas import sgemm  # type: ignore[import-untyped]

    below = a.reshape(-1, a.shape[2])
    beside = b.transpose(1, 0, 2).reshape(b.shape[1], -1)
    # BLAS counts columns first: it sees every matrix here turned over, and so takes them in this order.
    found = sgemm(1.0 / len(a), below.T, beside.T, beta=1.0, c=to.T, overwrite_c=1)
    if not np.shares_memory(found, to):
        to[:] = found.T


def layers_of(adapters: Sequence[NDArray[np.float32]], layout: AdapterLayout) -> Iterator[Factors]:
    """Each layer's factors at sites that have these ``adapters``, float32[adapter_size] each."""
    sites = [layout.matrices(adapter) for adapter in adapters]
    for pair in layout.pairs:
        a, b = (np.stack([site[name].astype(np.float64) for site in sites]) for name in (pair.a, pair.b))
        yield Factors(pair=pair, a=a, b=b)


def with_means(
    adapter: NDArray[np.float32], updates: NDArray[np.float32], layout: AdapterLayout, *, pairs: bool = True
) -> NDArray[np.float32]:
    """An adapter and the mean of the updates, each number for itself: a new float32[adapter_size].

    Without ``pairs``, the factors stay: for rules that write these themselves.
    """
    # In place of ``layout.apply``, which copies twice: a residual may be a gigabyte.
    merged = adapter.copy()
    tensors, moved = layout.split(merged), Moved(updates, layout)
    factors = {name for pair in layout.pairs for name in (pair.a, pair.b)}
    for slot in layout.slots:
        if slot.sent and (pairs or slot.name not in factors):
            mean = moved.of(slot.name, slot.shape).mean(axis=0, dtype=np.float64)
            tensors[slot.name] += mean.astype(np.float32)
    return merged
