"""Clipping gradients of which some tensors have rows for few examples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from privacy.errors import PrivacyUnitError
from privacy.mechanisms.clipping import STEPS, clip_gradients


def drawn(scale: float) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Five examples' gradients of three tensors, whole; and the same, the last two tensors sparse."""
    random = np.random.default_rng(0)
    whole = [
        torch.from_numpy((scale * random.standard_normal(shape)).astype(np.float32))
        for shape in ((5, 3), (5, 2, 4), (5, 6))
    ]
    whole[1][[0, 3, 4]] = 0.0
    whole[2][[1, 2]] = 0.0
    return whole, [whole[0], *(tensor.to_sparse(1) for tensor in whole[1:])]


@pytest.mark.parametrize("norm", [1, 2])
def test_short_examples_are_the_same_integers(norm: int) -> None:
    whole, sparse = drawn(1e-3)
    expected, found = (clip_gradients(given, bound=1.0, norm=norm) for given in (whole, sparse))
    for one, other in zip(expected.tensors, found.tensors, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("norm", [1, 2])
def test_longer_ones_are_clipped_over_all_tensors_together(norm: int) -> None:
    whole, sparse = drawn(10.0)
    expected, found = (clip_gradients(given, bound=1.0, norm=norm) for given in (whole, sparse))
    for one, other in zip(expected.tensors, found.tensors, strict=True):
        # Sums of so few squares in another order differ by 2^-52 of a norm, which is 2^-12 steps.
        assert int((one - other).abs().max()) <= 5
    for row in range(5):
        alone = clip_gradients(
            [tensor.index_select(0, torch.tensor([row])) for tensor in sparse], bound=1.0, norm=norm
        )
        length = torch.cat([tensor.flatten() for tensor in alone.tensors]).double().norm(norm)
        assert 0.99 * STEPS < length <= STEPS


def test_what_an_example_adds_follows_from_it_alone() -> None:
    _, sparse = drawn(10.0)
    whole = clip_gradients(sparse, bound=1.0, norm=2)
    total = [torch.zeros_like(tensor) for tensor in whole.tensors]
    for row in range(5):
        alone = clip_gradients(
            [tensor.index_select(0, torch.tensor([row])) for tensor in sparse], bound=1.0, norm=2
        )
        total = [one + other for one, other in zip(total, alone.tensors, strict=True)]
    assert all(torch.equal(one, other) for one, other in zip(total, whole.tensors, strict=True))


def test_one_that_is_not_finite_is_zero_in_all_tensors() -> None:
    _, sparse = drawn(10.0)
    broken = sparse[1].to_dense()
    broken[1, 0, 0] = torch.nan
    found = clip_gradients([sparse[0], broken.to_sparse(1), sparse[2]], bound=1.0, norm=2)
    kept = torch.tensor([0, 2, 3, 4])
    expected = clip_gradients([tensor.index_select(0, kept) for tensor in sparse], bound=1.0, norm=2)
    assert found.zeroed == 1
    assert all(torch.equal(one, other) for one, other in zip(found.tensors, expected.tensors, strict=True))


def test_nobody_adds_nothing() -> None:
    _, sparse = drawn(1.0)
    none = [tensor.index_select(0, torch.zeros(0, dtype=torch.int64)) for tensor in sparse]
    found = clip_gradients(none, bound=1.0, norm=2)
    assert [tuple(tensor.shape) for tensor in found.tensors] == [(3,), (2, 4), (6,)]
    assert not any(tensor.any() for tensor in found.tensors)


def test_tensors_of_other_batches_are_refused() -> None:
    _, sparse = drawn(1.0)
    with pytest.raises(PrivacyUnitError, match="different batch sizes"):
        clip_gradients([sparse[0][:4], *sparse[1:]], bound=1.0, norm=2)
