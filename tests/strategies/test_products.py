"""Rules over the sites' products, against references in float64 that form each product whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocol.job.layout import AdapterLayout, TensorSlot
from protocol.job.strategy import State, Strategy
from strategies.fedex import FedEx
from strategies.flexlora import FlexLoRA
from strategies.flora import FLoRA
from strategies.hetlora import HetLoRA

A, B, R, HEAD = "l.lora_A.weight", "l.lora_B.weight", "l.residual.weight", "head.weight"
ROUNDING = 2.0**-23
few = settings(max_examples=40, deadline=None)
shapes = given(
    rank=st.integers(1, 4),
    rows=st.integers(1, 12),
    columns=st.integers(4, 12),
    sites=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)


@dataclass(frozen=True, kw_only=True)
class Round:
    """A round's state before it, what the sites sent, and what they had when they sent it."""

    layout: AdapterLayout
    state: State
    updates: NDArray[np.float32]

    @classmethod
    def drawn(
        cls, strategy: Strategy, *, rank: int, rows: int, columns: int, sites: int, seed: int
    ) -> Round:
        sizes = {HEAD: (2, 3), A: (rank, columns), B: (rows, rank)}
        sizes |= {R: (rows, columns)} if strategy.residual else {}
        layout = AdapterLayout(
            slots=tuple(TensorSlot(name=n, shape=s, trained=n != R) for n, s in sorted(sizes.items()))
        )
        generator = np.random.default_rng(seed)
        state = State(adapter=generator.standard_normal(layout.adapter_size).astype(np.float32))
        updates = generator.standard_normal((sites, layout.update_size)).astype(np.float32)
        return cls(layout=layout, state=state, updates=updates)

    def after(self) -> list[dict[str, NDArray[np.float64]]]:
        """Each site's tensors after its steps."""
        before = self.layout.split(self.state.adapter)
        found = []
        for update in self.updates:
            sent = self.layout.split_update(update)
            found.append({n: t.astype(np.float64) + sent.get(n, 0.0) for n, t in before.items()})
        return found

    def mean_product(self) -> NDArray[np.float64]:
        """The mean of the sites' products, what was in the base before included."""
        return np.mean([site[B] @ site[A] + site.get(R, 0.0) for site in self.after()], axis=0)

    def merged(self, strategy: Strategy, *, number: int = 1) -> dict[str, NDArray[np.float64]]:
        state = strategy.merge(self.state, self.updates, self.layout, number)
        return {n: t.astype(np.float64) for n, t in self.layout.split(state.adapter).items()}


def near(found: NDArray[np.float64], expected: NDArray[np.float64], *, size: float | None = None) -> bool:
    """Equal but for rounding of factors and of few sums: 64 operations, in float32, below ``size``."""
    largest = max(1.0, float(np.abs(expected).max())) if size is None else size
    return bool(np.abs(found - expected).max() <= 64 * ROUNDING * largest)


@few
@shapes
def test_flora_moves_the_mean_product_into_the_base(**shape: int) -> None:
    strategy = FLoRA()
    case = Round.drawn(strategy, **shape)
    found = case.merged(strategy)
    assert near(found[R], case.mean_product())
    assert not found[B].any()
    np.testing.assert_allclose(found[A] @ found[A].T, np.eye(shape["rank"]), atol=1e-6)


def test_flora_draws_another_a_each_round_and_the_same_anywhere() -> None:
    strategy = FLoRA()
    case = Round.drawn(strategy, rank=2, rows=5, columns=6, sites=3, seed=0)
    other = Round.drawn(strategy, rank=2, rows=5, columns=6, sites=4, seed=1)
    first, second = case.merged(strategy)[A], case.merged(strategy, number=2)[A]
    assert np.abs(first - second).max() > 0.1
    assert np.array_equal(first, other.merged(strategy)[A])


@few
@shapes
def test_fedex_has_the_means_and_the_base_has_the_rest(**shape: int) -> None:
    strategy = FedEx()
    case = Round.drawn(strategy, **shape)
    found, sites = case.merged(strategy), case.after()
    for name in (A, B, HEAD):
        assert near(found[name], np.mean([site[name] for site in sites], axis=0))
    assert near(found[R] + found[B] @ found[A], case.mean_product())


@few
@shapes
def test_flexlora_is_the_nearest_pair_of_the_rank(**shape: int) -> None:
    """Eckart and Young: the squared distance is the sum of the squares of the other singular values."""
    strategy = FlexLoRA()
    case = Round.drawn(strategy, **shape)
    found, whole = case.merged(strategy), case.mean_product()
    singular = np.linalg.svd(whole, compute_uv=False)
    rank = shape["rank"]
    off = np.linalg.norm(whole - found[B] @ found[A])
    beyond = np.sqrt(np.square(singular[rank:]).sum())
    assert abs(off - beyond) <= 64 * ROUNDING * max(1.0, singular[0])
    kept = min(rank, len(singular))
    # The largest first, each direction of A of length one: whoever takes the first few has the best few.
    a = found[A][:kept]
    np.testing.assert_allclose(a @ a.T, np.eye(kept), atol=1e-5)
    lengths = np.linalg.norm(found[B][:, :kept], axis=0)
    assert near(lengths, singular[:kept], size=max(1.0, singular[0]))


def test_flexlora_keeps_rows_that_can_learn_where_the_product_has_none() -> None:
    strategy = FlexLoRA()
    case = Round.drawn(strategy, rank=3, rows=5, columns=6, sites=2, seed=0)
    before = case.layout.split(case.state.adapter)
    tensors = {n: t.copy() for n, t in before.items()}
    tensors[B][:] = 0.0
    nothing = Round(
        layout=case.layout,
        state=State(adapter=case.layout.join(tensors)),
        updates=np.zeros_like(case.updates),
    )
    found = nothing.merged(strategy)
    assert not found[B].any()
    assert np.array_equal(found[A], before[A])


@few
@shapes
def test_hetlora_weighs_by_the_norm_of_the_products(**shape: int) -> None:
    strategy = HetLoRA()
    case = Round.drawn(strategy, **shape)
    found, sites = case.merged(strategy), case.after()
    norms = np.array([np.linalg.norm(site[B] @ site[A]) for site in sites])
    weights = norms / norms.sum()
    for name in (A, B):
        expected = sum(weight * site[name] for weight, site in zip(weights, sites, strict=True))
        assert near(found[name], np.asarray(expected))
    assert near(found[HEAD], np.mean([site[HEAD] for site in sites], axis=0))


def test_hetlora_weighs_alike_where_no_site_has_a_product() -> None:
    strategy = HetLoRA()
    case = Round.drawn(strategy, rank=2, rows=3, columns=4, sites=2, seed=0)
    nothing = State(adapter=np.zeros_like(case.state.adapter))
    updates = np.zeros_like(case.updates)
    updates[:, :4] = [[1.0] * 4, [3.0] * 4]  # the head is first
    case = Round(layout=case.layout, state=nothing, updates=updates)
    assert case.merged(strategy)[HEAD].ravel()[:4].tolist() == [2.0] * 4
    assert not case.merged(strategy)[B].any()


@pytest.mark.parametrize("strategy", [FLoRA(), FedEx()], ids=lambda strategy: strategy.name)
def test_many_rounds_lose_nothing(strategy: Strategy) -> None:
    """Each round rounds the residual once, to float32: ten rounds of numbers below ten products' sum."""
    case = Round.drawn(strategy, rank=2, rows=5, columns=6, sites=3, seed=0)
    generator = np.random.default_rng(1)
    for number in range(1, 11):
        expected = case.mean_product()
        state = strategy.merge(case.state, case.updates, case.layout, number)
        updates = generator.standard_normal(case.updates.shape).astype(np.float32)
        tensors = {n: t.astype(np.float64) for n, t in case.layout.split(state.adapter).items()}
        assert near(tensors[R] + tensors[B] @ tensors[A], expected)
        case = Round(layout=case.layout, state=state, updates=updates)
