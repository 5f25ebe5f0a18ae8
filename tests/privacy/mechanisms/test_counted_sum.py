"""A clipped sum and a count are one release: together an example is never longer than the bound."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from privacy.errors import PrivacyUnitError
from privacy.mechanisms.clipping import STEPS, clip_gradients
from privacy.mechanisms.counted_sum import GRADIENT_STEPS, SIGN_STEPS, CountedSum
from privacy.mechanisms.mechanism import NO_NOISE, Mechanism
from privacy.mechanisms.rng import keyed_source


def counted(gradients: list[torch.Tensor], bound: float = 1.0) -> CountedSum:
    return CountedSum(clipped=clip_gradients(gradients, bound=bound, norm=2, steps=GRADIENT_STEPS))


def squares(found: CountedSum) -> int:
    """The squared length of all that is released, in steps of the grid and without rounding."""
    numbers = [int(number) for tensor in found.clipped.tensors for number in tensor.flatten()]
    return sum(number * number for number in [*numbers, found.clipped.within * SIGN_STEPS])


# What would not be hidden.


@pytest.mark.parametrize("change", [{"steps": STEPS}, {"norm": 1}])
def test_a_sum_without_room_for_a_count_is_refused(change: dict[str, int]) -> None:
    clipped = clip_gradients([torch.ones(2, 3)], bound=1.0, norm=2, steps=GRADIENT_STEPS)
    with pytest.raises(PrivacyUnitError, match="so that a count has room beside it"):
        CountedSum(clipped=replace(clipped, **change))


def test_laplace_noise_does_not_hide_it() -> None:
    with pytest.raises(PrivacyUnitError, match="norm=1"):
        Mechanism(name="laplace", multiplier=1.0).release(counted([torch.ones(2, 3)]), keyed_source(0, "a"))


def test_the_whole_grid_for_a_gradient_would_be_too_long_beside_a_sign() -> None:
    assert SIGN_STEPS**2 + GRADIENT_STEPS**2 <= STEPS**2 < SIGN_STEPS**2 + STEPS**2


@pytest.mark.parametrize("bound", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("length", [0.0, 1e-9, 0.5, 1 - 1e-7, 1.0, 1 + 1e-7, 3.0, 1e30, math.nan, math.inf])
def test_an_example_is_never_longer_than_the_bound(length: float, bound: float) -> None:
    rows = torch.randn((40, 7), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = (rows / rows.norm(dim=1, keepdim=True) * length * bound).float()
    for row in rows:
        found = counted([row[None, :3], row[None, 3:]], bound=bound)
        assert squares(found) <= STEPS**2
        assert abs(found.clipped.within) <= 1


# What is counted.


def test_shorter_ones_count_up_longer_ones_down_and_blank_ones_not_at_all() -> None:
    rows = torch.tensor(
        [[0.5, 0.0], [0.0, -0.9], [2.0, 0.0], [0.0, 0.0], [math.nan, 0.0], [3.0, 3.0], [5.0, 0.0]]
    )
    assert counted([rows]).clipped.within == 2 - 3
    assert counted([rows], bound=4.0).clipped.within == 3 - 2
    halves = counted([rows[:3]]).clipped.joined(counted([rows[3:]]).clipped)
    assert halves.within == 2 - 3


def test_sparse_rows_count_as_whole_ones_do() -> None:
    rows = torch.tensor([[0.5, 0.0], [0.0, 0.0], [2.0, 0.0], [0.1, 0.1]])
    whole = counted([rows, torch.zeros(4, 2)])
    for sparse in (
        [rows.to_sparse(1), torch.zeros(4, 2).to_sparse(1)],
        [rows.to_sparse(1), torch.zeros(4, 2)],
    ):
        assert counted(sparse).clipped.within == whole.clipped.within == 2 - 1


def test_without_noise_it_is_the_sum_and_the_count() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.1]])
    found = NO_NOISE.release(counted([rows]), keyed_source(0, "a"))
    assert found.excess == 1.0
    # Clipped to a millionth less than the bound, as all that is longer is.
    np.testing.assert_allclose(found.tensors[0], [0.6 + 0.3, 0.8 + 0.4 + 0.1], atol=2e-6)


# What is added.


@pytest.mark.parametrize("multiplier", [0.7, 1.0, 30.0])
def test_the_noise_of_both_is_that_of_one_release(multiplier: float) -> None:
    """Andrew et al. 2021, theorem 1: z = (z_Δ⁻² + (2 σ_b)⁻²)^(-1/2), with ones and zeros for σ_b."""
    of_sum, of_count = multiplier * STEPS / GRADIENT_STEPS, multiplier * STEPS / SIGN_STEPS / 2
    assert (of_sum**-2 + (2 * of_count) ** -2) ** -0.5 == pytest.approx(multiplier, rel=1e-9)
    assert of_sum == pytest.approx(multiplier * 1.0079, rel=1e-4)


def test_noise_is_as_wide_as_that() -> None:
    """Of 20,000 numbers a deviation is right to 5 / √40,000; of 400 to 18 %. The key is fixed."""
    none = [torch.zeros(0, 20_000)]
    mechanism, source = Mechanism(name="gaussian", multiplier=2.0), keyed_source(0, "noise")
    found = [mechanism.release(counted(none, bound=3.0), source)]
    found += [mechanism.release(counted([torch.zeros(0, 1)], bound=3.0), source) for _ in range(400)]
    assert float(found[0].tensors[0].std()) == pytest.approx(2.0 * 3.0 * 1.0079, rel=0.025)
    assert np.std([one.excess for one in found[1:]]) == pytest.approx(16.0, rel=0.18)
