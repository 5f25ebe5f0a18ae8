"""FedASK: what sums of sketches make of the sites' products."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from privacy.errors import JobError
from protocol.job.layout import AdapterLayout
from protocol.job.strategy import State
from strategies.fedask import FedASK
from tests import tiny

A, B, HEAD = "l.lora_A.weight", "l.lora_B.weight", "head.weight"
ROUNDING = 2.0**-23


def layout(strategy: FedASK, *, rank: int, rows: int, columns: int) -> AdapterLayout:
    return strategy.lay_out({HEAD: (2, 3), A: (rank, columns), B: (rows, rank)})


def drawn(form: AdapterLayout, count: int, seed: int) -> list[NDArray[np.float32]]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(form.adapter_size).astype(np.float32) for _ in range(count)]


def product(form: AdapterLayout, adapter: NDArray[np.float32]) -> NDArray[np.float64]:
    tensors = {name: tensor.astype(np.float64) for name, tensor in form.split(adapter).items()}
    return tensors[B] @ tensors[A]


def merged(
    strategy: FedASK, form: AdapterLayout, adapters: list[NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """What sites make of the first adapter that end with the others."""
    before, *after = adapters
    sent = np.mean([strategy.encode(form, before, one) for one in after], axis=0, dtype=np.float64)
    return form.split(strategy.merge(State(adapter=before), sent.astype(np.float32), form, 1).adapter)


@settings(max_examples=40, deadline=None)
@given(
    rank=st.integers(1, 3),
    sites=st.integers(1, 4),
    more=st.integers(2, 5),
    rows=st.integers(3, 90),
    columns=st.integers(3, 90),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_pair_is_the_best_for_the_mean_product_where_its_rank_fits_the_sketch(
    rank: int, sites: int, more: int, rows: int, columns: int, seed: int
) -> None:
    """Eckart and Young: the distance is that of the other singular values; and both factors weigh alike."""
    strategy = FedASK(sketch=rank * sites + more)
    form = layout(strategy, rank=rank, rows=rows, columns=columns)
    adapters = drawn(form, sites + 1, seed)
    found = merged(strategy, form, adapters)
    whole = np.mean([product(form, one) for one in adapters[1:]], axis=0)
    singular = np.linalg.svd(whole, compute_uv=False)
    b, a = found[B].astype(np.float64), found[A].astype(np.float64)
    beyond = np.sqrt(np.square(singular[rank:]).sum())
    # Sketches are rounded to float32 on their way, in numbers of about a product's length. With two
    # mixtures more than the rank that grows a hundred times at most, but for chance.
    close = 2.0**10 * ROUNDING * singular[0]
    assert abs(np.linalg.norm(whole - b @ a) - beyond) <= close
    np.testing.assert_allclose(b.T @ b, a @ a.T, atol=close)
    heads = np.mean([form.split(one)[HEAD] for one in adapters[1:]], axis=0)
    np.testing.assert_allclose(found[HEAD], heads, atol=1e-6)


def test_of_products_of_a_rank_above_the_sketch_the_pair_is_near_the_best() -> None:
    """Eight sites of rank 4: a mean of rank 32 from sketches of 9, with twice the best's error at most."""
    strategy = FedASK()
    form = layout(strategy, rank=4, rows=200, columns=200)
    assert form.update_size == 6 + 9 * 200 + 19 * 200
    before, *after = drawn(form, 9, 0)
    # Sites that differ less than they have in common, as after a round.
    after = [before + np.float32(0.2) * one for one in after]
    found = merged(strategy, form, [before, *after])
    whole = np.mean([product(form, one) for one in after], axis=0)
    singular = np.linalg.svd(whole, compute_uv=False)
    missed = np.linalg.norm(whole - found[B].astype(np.float64) @ found[A].astype(np.float64))
    assert missed <= 2 * np.sqrt(np.square(singular[4:]).sum())


def test_each_round_draws_other_mixtures() -> None:
    strategy = FedASK(sketch=2)
    form = layout(strategy, rank=2, rows=60, columns=60)
    before, after, other = drawn(form, 3, 0)
    moved = after - before
    first, second = (strategy.encode(form, start, start + moved)[6:] for start in (before, other))
    assert np.abs(first - second).max() > 0.1


def test_what_has_no_product_yet_can_still_learn() -> None:
    strategy = FedASK()
    form = layout(strategy, rank=2, rows=60, columns=60)
    (before,) = drawn(form, 1, 0)
    form.split(before)[B][:] = 0.0
    found = merged(strategy, form, [before, before])
    assert not found[B].any()
    assert np.array_equal(found[A], form.split(before)[A])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": {"name": "fedask", "sketch": 1}}, "strategy.sketch: expected .*2 at least, got 1"),
        (
            {"strategy": {"name": "fedask", "sketch": 2}, "adapter": {"rank_pattern": {"query": 3}}},
            "strategy.sketch: expected .*3 at least, got 2",
        ),
        (
            {"strategy": {"name": "fedask"}, "aggregation": {"kind": "masks", "modulus_bits": 16}},
            'aggregation.modulus_bits: expected 32 with strategy.name="fedask", .* got 16',
        ),
        (
            {"strategy": {"name": "fedask"}, "compression": {"kind": "random"}},
            'compression.kind: expected "none" with strategy.name="fedask"',
        ),
        (
            {"strategy": {"name": "fedask", "server": {"optimizer": "fedavgm"}}},
            'strategy.server: expected none with strategy.name="fedask"',
        ),
    ],
    ids=["short", "short for a layer", "narrow", "compression", "optimizer"],
)
def test_what_it_does_not_go_with_is_refused(
    tiny_folder: Path, changes: dict[str, dict[str, object]], message: str
) -> None:
    with pytest.raises(JobError, match=message):
        tiny.job(tiny_folder, **changes)
