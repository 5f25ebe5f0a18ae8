"""FFA-LoRA: with one A everywhere, the mean of B times A is the mean of the products."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.job.strategy import State
from strategies.averaging import RunningMean
from strategies.ffa import FFA


@settings(max_examples=40, deadline=None)
@given(
    rank=st.integers(1, 8),
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    sites=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_merged_product_is_the_mean_product(
    rank: int, rows: int, columns: int, sites: int, seed: int
) -> None:
    rule = FFA()
    layout = rule.lay_out({"l.lora_A.weight": (rank, columns), "l.lora_B.weight": (rows, rank)})
    generator = np.random.default_rng(seed)
    start = generator.standard_normal(layout.adapter_size).astype(np.float32)
    after = []
    for _ in range(sites):
        tensors = {name: tensor.copy() for name, tensor in layout.split(start).items()}
        tensors["l.lora_B.weight"] = generator.standard_normal((rows, rank)).astype(np.float32)
        after.append(layout.join(tensors))
    mean = RunningMean(layout.update_size)
    for adapter in after:
        mean.add(rule.encode(layout, start, adapter))

    def product(adapter: np.ndarray) -> np.ndarray:
        found = {name: tensor.astype(np.float64) for name, tensor in layout.split(adapter).items()}
        return found["l.lora_B.weight"] @ found["l.lora_A.weight"]

    merged = rule.merge(State(adapter=start), mean.mean(), layout, 1).adapter
    expected = np.mean([product(adapter) for adapter in after], axis=0)
    # B is rounded three times, by 2^-24 of numbers up to 8; rows of A have norms up to some 10.
    size = np.linalg.norm(layout.split(start)["l.lora_A.weight"]) * np.sqrt(rank)
    np.testing.assert_allclose(product(merged), expected, atol=1e-6 * max(1.0, size))
